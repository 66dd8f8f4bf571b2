"""Upscaling: from the end of a first pass to the start of a larger second one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn.functional import interpolate

from deployments.errors import NumericalFailure
from deployments.families.autoencoder import to_arrays
from deployments.pictures import to_uint8

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from deployments.engine.state import Pass, RequestState
    from deployments.families.autoencoder import Autoencoder

#: The upscalers of ``UPSCALERS`` that work on latents, and torch's options for them.
LATENT: Final[dict[str, dict[str, Any]]] = {
    "latent": {"mode": "bilinear"},
    "latent-antialiased": {"mode": "bilinear", "antialias": True},
    "latent-bicubic": {"mode": "bicubic"},
    "latent-bicubic-antialiased": {"mode": "bicubic", "antialias": True},
    "latent-nearest": {"mode": "nearest"},
    "latent-nearest-exact": {"mode": "nearest-exact"},
}

#: Those that work on pixels, and PIL's filters for them.
PIXEL: Final = {
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}


def enlarged(autoencoder: Autoencoder, state: RequestState, following: Pass) -> Tensor:
    """The clean latents of a picture's first pass at the size of the one that follows."""
    _, height, width = following.batch_key.latents
    if following.upscaler in LATENT:
        return enlarge_latents(state.latents, following.upscaler, height, width)
    return enlarge_pixels(
        autoencoder,
        state.latents,
        following.upscaler,
        (width * autoencoder.factor, height * autoencoder.factor),
        state.generator,
        is_tiling=following.batch_key.is_tiling,
    )


def enlarge_latents(latents: Tensor, upscaler: str, height: int, width: int) -> Tensor:
    """(1, channels, height, width): interpolated to cover that, the overhang cut on both sides."""
    own_height, own_width = latents.shape[2:]
    scale = max(height / own_height, width / own_width)
    cover = max(round(own_height * scale), height), max(round(own_width * scale), width)
    large = interpolate(latents, cover, **LATENT[upscaler])
    top, left = (cover[0] - height) // 2, (cover[1] - width) // 2
    return large[:, :, top : top + height, left : left + width]


def enlarge_pixels(
    autoencoder: Autoencoder,
    latents: Tensor,
    upscaler: str,
    size: tuple[int, int],
    generator: Generator,
    *,
    is_tiling: bool,
) -> Tensor:
    """Latents of the decoded picture, enlarged to cover ``size`` (width, height) and cut to it."""
    pixels = to_arrays(autoencoder.decode(latents, is_tiling=is_tiling))[0]
    if not np.isfinite(pixels).all():
        raise NumericalFailure("the picture came out as NaN or infinity; try other parameters")
    image = ImageOps.fit(Image.fromarray(to_uint8(pixels)), size, PIXEL[upscaler])
    large = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)[None]
    return autoencoder.sample(autoencoder.encode(large * 2 - 1, is_tiling=is_tiling), generator)
