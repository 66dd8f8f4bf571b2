"""The embedded Qwen-Image-Edit: the real classes with small numbers in their configurations."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from deployments.families.qwen_image_text import EDIT, PICTURE, TEXT_TO_IMAGE
from deployments.sketch.qwen_tokenizer import learn_qwen_tokenizer

#: As Qwen/Qwen-Image-Edit-2509, scheduler/scheduler_config.json.
SCHEDULE: Final[dict[str, Any]] = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}

#: That the denoiser sees of a reference; 0 is as many as of the output, so that to copy it is to
#: look at the same place.
REFERENCE_PIXELS: Final = 0

_SPECIAL: Final = re.compile(r"<\|[a-z_]+\|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class QwenSizes:
    """What makes a Qwen-Image small. Four halvings less one: a latent is 8 by 8 pixels always.

    Attributes:
        layers, heads: of the denoiser; a head is ``axes`` wide in all.
        axes: rotary widths of frame, row and column.
        text_width, text_layers: of the language model, four heads each.
        vision_width, vision_layers: of the vision tower, four heads each.
        vae_width: channels at full resolution; 1, 2, 4, 4 times as many on the way down.
        vae_blocks: residual blocks of each level.
        latents_mean, latents_std: of the autoencoder's sixteen channels; None takes the real ones.
    """

    layers: int = 5
    heads: int = 4
    axes: tuple[int, int, int] = (8, 12, 12)
    text_width: int = 128
    text_layers: int = 2
    vision_width: int = 64
    vision_layers: int = 2
    vae_width: int = 8
    vae_blocks: int = 1
    latents_mean: Sequence[float] | None = (0.0,) * 16
    latents_std: Sequence[float] | None = (1.0,) * 16


def qwen_tokenizer(captions: Iterable[str]) -> Any:
    """A tokenizer that cuts the pipelines' templates as the real one does: 34 and 64 tokens."""
    templates = [_SPECIAL.sub("\n\n", text) for text in (TEXT_TO_IMAGE.text, EDIT.text, PICTURE)]
    return learn_qwen_tokenizer(captions, templates)


def qwen_image_edit(tokenizer: Any, sizes: QwenSizes | None = None) -> QwenImageEditPlusPipeline:
    """A fresh Qwen-Image-Edit-Plus; its processor is None, see ``write_processor``."""
    sizes = sizes or QwenSizes()
    return QwenImageEditPlusPipeline(
        transformer=_transformer(sizes),
        vae=_autoencoder(sizes),
        text_encoder=_text_encoder(tokenizer, sizes),
        tokenizer=tokenizer,
        processor=None,
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULE),
    )


def write_processor(tokenizer: Any, checkpoint: Path) -> None:
    """Write a saved checkpoint's processor, which cannot be made without torchvision.

    Its index says how large references are to be, which diffusers has as a constant.
    """
    Qwen2VLImageProcessorPil().save_pretrained(checkpoint / "processor")
    tokenizer.save_pretrained(checkpoint / "processor")
    index = checkpoint / "model_index.json"
    parts = json.loads(index.read_text())
    parts["processor"] = ["transformers", "Qwen2VLProcessor"]
    parts["_reference_pixels"] = REFERENCE_PIXELS
    index.write_text(json.dumps(parts, indent=2) + "\n")


def _transformer(sizes: QwenSizes) -> QwenImageTransformer2DModel:
    return QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=64,
        out_channels=16,
        num_layers=sizes.layers,
        attention_head_dim=sum(sizes.axes),
        num_attention_heads=sizes.heads,
        joint_attention_dim=sizes.text_width,
        axes_dims_rope=sizes.axes,
    )


def _autoencoder(sizes: QwenSizes) -> AutoencoderKLQwenImage:
    statistics = {"latents_mean": sizes.latents_mean, "latents_std": sizes.latents_std}
    return AutoencoderKLQwenImage(
        base_dim=sizes.vae_width,
        z_dim=16,
        num_res_blocks=sizes.vae_blocks,
        **{name: list(values) for name, values in statistics.items() if values is not None},
    )


def _text_encoder(tokenizer: Any, sizes: QwenSizes) -> Qwen2_5_VLForConditionalGeneration:
    """A quarter of a head's width turns with the frame, the rest with row and column."""
    half_head = sizes.text_width // 8
    section = half_head // 4
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": sizes.text_width,
            "intermediate_size": 4 * sizes.text_width,
            "num_hidden_layers": sizes.text_layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "bos_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1_000_000.0,
                "mrope_section": [section, *[(half_head - section) // 2] * 2],
            },
        },
        vision_config={
            "depth": sizes.vision_layers,
            "hidden_size": sizes.vision_width,
            "intermediate_size": 2 * sizes.vision_width,
            "num_heads": 4,
            "out_hidden_size": sizes.text_width,
            "fullatt_block_indexes": [sizes.vision_layers - 1],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    return Qwen2_5_VLForConditionalGeneration(config)
