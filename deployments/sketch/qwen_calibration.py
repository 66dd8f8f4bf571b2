"""Scales a fresh Qwen-Image so that untrained pictures have contrast and differ by their words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import torch
from diffusers import QwenImagePipeline
from torch import Tensor
from torch.nn.functional import interpolate

from deployments.sketch.calibration import unify, unify_across_prompts

#: Pixels of the pictures that are measured; small, since statistics barely depend on it.
_SIZE: Final = 128

#: Spread of the flow; noise has 1, and what the denoiser says shall outweigh it.
_FLOW_SPREAD: Final = 3.0

#: Logarithm of the variance of the encoder's latents: next to none.
_LOG_VARIANCE: Final = -10.0


@torch.no_grad()
def calibrate_qwen(pipeline: Any, prompts: Sequence[str], **call: Any) -> None:
    """Scale the encoder's last layer, attention, the denoiser's last layer and the decoder's.

    Args:
        pipeline: a Qwen-Image-Edit of float32 modules; changed in place.
        prompts: what to measure with.
        call: how pictures are usually asked of it (``num_inference_steps``, ``true_cfg_scale``).
    """
    _calibrate_encoder(pipeline.vae)
    drawing = _drawing(pipeline)
    latents = partial(_latents, drawing, prompts, call)
    once = partial(latents, num_inference_steps=2, true_cfg_scale=1.0)
    for block in pipeline.transformer.transformer_blocks:
        unify_across_prompts(block.attn.to_out[0], once)
    unify(pipeline.transformer.proj_out, once, _FLOW_SPREAD, axis=-1)
    drawn = latents()
    # A spread of 0.5 around 0 fills -1..1 with few pixels cut off.
    unify(pipeline.vae.decoder.conv_out, lambda: pipeline.vae.decode(drawn), spread=0.5)


def _calibrate_encoder(vae: Any) -> None:
    """Latents of pictures get mean 0 and spread 1."""
    coarse = torch.rand(8, 3, 6, 6) * 2 - 1
    pictures = interpolate(coarse, (_SIZE, _SIZE), mode="bicubic").clamp(-1, 1)[:, :, None]
    unify(vae.quant_conv, lambda: vae.encode(pictures))
    vae.quant_conv.weight[vae.z_dim :] = 0
    vae.quant_conv.bias[vae.z_dim :] = _LOG_VARIANCE


def _drawing(pipeline: Any) -> Any:
    """The same modules as a text-to-image pipeline, which takes many prompts at once."""
    parts = {name: part for name, part in pipeline.components.items() if name != "processor"}
    drawing = QwenImagePipeline(**parts)
    drawing.set_progress_bar_config(disable=True)
    return drawing


def _latents(drawing: Any, prompts: Sequence[str], call: dict[str, Any], **changes: Any) -> Tensor:
    """Final latents of all prompts (n, 16, 1, h, w), from the same noise at each call."""
    generators = [torch.Generator().manual_seed(7) for _ in prompts]
    options = {"height": _SIZE, "width": _SIZE, "output_type": "latent", **call, **changes}
    negative = [" "] * len(prompts) if options["true_cfg_scale"] > 1 else None
    packed = drawing(list(prompts), negative_prompt=negative, generator=generators, **options)
    latents: Tensor = drawing._unpack_latents(packed.images, _SIZE, _SIZE, drawing.vae_scale_factor)
    return latents
