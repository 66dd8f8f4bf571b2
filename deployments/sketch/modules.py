"""The embedded models' modules: ordinary diffusers pipelines, a few megabytes each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from diffusers import (
    AutoencoderKL,
    EulerAncestralDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from deployments.sketch.tokenizer import MAX_LENGTH

#: Channels per level, finest first. Three halvings in the VAE: one latent is 8 by 8 pixels.
VAE_WIDTHS: Final = (16, 24, 32, 64)
UNET_WIDTHS: Final = (32, 48, 64)
#: Width of a CLIP text encoder and of the second one's pooled output.
TEXT_WIDTH: Final = 64

#: The noise schedule that Stable Diffusion 1.x and XL were trained with.
_BETAS: Final = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def stable_diffusion(
    tokenizer: Any,
    *,
    unet_widths: Sequence[int] = UNET_WIDTHS,
    vae_widths: Sequence[int] = VAE_WIDTHS,
    in_channels: int = 4,
) -> StableDiffusionPipeline:
    """A fresh Stable Diffusion 1.x; ``in_channels`` 9 makes an inpainting UNet."""
    return StableDiffusionPipeline(
        vae=_autoencoder(vae_widths, scaling_factor=0.18215),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=_unet(unet_widths, in_channels=in_channels, cross_attention_dim=TEXT_WIDTH),
        # As runwayml/stable-diffusion-v1-5, scheduler/scheduler_config.json.
        scheduler=PNDMScheduler(
            **_BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(
    tokenizer: Any,
    *,
    unet_widths: Sequence[int] = UNET_WIDTHS,
    vae_widths: Sequence[int] = VAE_WIDTHS,
) -> StableDiffusionXLPipeline:
    """A fresh SDXL with the scheduler of SDXL-Turbo."""
    time_width = 32
    return StableDiffusionXLPipeline(
        vae=_autoencoder(vae_widths, scaling_factor=0.13025, force_upcast=True),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_unet(
            unet_widths,
            cross_attention_dim=2 * TEXT_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=time_width,
            projection_class_embeddings_input_dim=6 * time_width + TEXT_WIDTH,
        ),
        # As stabilityai/sdxl-turbo, scheduler/scheduler_config.json.
        scheduler=EulerAncestralDiscreteScheduler(
            **_BETAS, timestep_spacing="trailing", steps_offset=1
        ),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def _autoencoder(widths: Sequence[int], **config: Any) -> AutoencoderKL:
    """No attention in the middle: at 1024 pixels it would cost more than all the rest."""
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        block_out_channels=tuple(widths),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=512,
        mid_block_add_attention=False,
        **{"force_upcast": False, **config},
    )


def _unet(widths: Sequence[int], *, in_channels: int = 4, **config: Any) -> UNet2DConditionModel:
    """Text is attended to at every level but the finest."""
    deeper = len(widths) - 1
    return UNet2DConditionModel(
        sample_size=64,
        in_channels=in_channels,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * deeper),
        up_block_types=(*["CrossAttnUpBlock2D"] * deeper, "UpBlock2D"),
        block_out_channels=tuple(widths),
        layers_per_block=1,
        attention_head_dim=4,
        use_linear_projection=True,
        norm_num_groups=8,
        **config,
    )


def _text_config(tokenizer: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
    )
