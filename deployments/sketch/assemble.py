"""Makes ordinary diffusers folders of what the trainers wrote, and opens them.

    python -m deployments.sketch.assemble WEIGHTS

WEIGHTS/sd15-dreambooth has ``tokenizer``, ``text_encoder``, ``unet`` and ``vae``;
WEIGHTS/sdxl-turbo, if it is there, all but the last. Both get the rest.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from deployments.sketch.noising import NOISE
from deployments.sketch.thumbnails import set_scaling

WEIGHTS: Final = Path(__file__).parent / "weights"
BASE: Final = "sd15-dreambooth"
TURBO: Final = "sdxl-turbo"
EDITOR: Final = "qwen-image-edit"
#: Stable Diffusion XL's factor between its autoencoder's latents and its denoiser's.
_TURBO_SCALING: Final = 0.13025


def assemble(weights: Path) -> None:
    """Write what the folders lack."""
    vae = AutoencoderKL.from_pretrained(weights / BASE / "vae", torch_dtype=torch.float32)
    folder = weights / BASE
    base = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(folder / "unet"),
        scheduler=PNDMScheduler(**NOISE, skip_prk_steps=True, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    _save(base, folder)
    if (weights / TURBO).is_dir():
        _save(_turbo(weights / TURBO, vae.float()), weights / TURBO)


def _turbo(folder: Path, vae: Any) -> StableDiffusionXLPipeline:
    set_scaling(vae, _TURBO_SCALING)
    vae.register_to_config(force_upcast=True)
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
        unet=UNet2DConditionModel.from_pretrained(folder / "unet"),
        scheduler=EulerAncestralDiscreteScheduler(**NOISE),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def open_pipeline(folder: Path) -> Any:
    """The stock pipeline of a folder in float32, without a bar."""
    pipeline = DiffusionPipeline.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def first_noise(seed: int) -> torch.Generator:
    """What a picture of this seed is drawn from, as users' seeds are."""
    return torch.Generator().manual_seed(seed)


def _save(pipeline: Any, folder: Path) -> None:
    """In float16; ``to`` would warn that half precision is slow on a CPU."""
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.half()
    pipeline.save_pretrained(folder, safe_serialization=True)


if __name__ == "__main__":
    assemble(Path(sys.argv[1]))
