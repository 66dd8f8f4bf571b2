"""Autoencoder: between pictures and latents, for the families that use diffusers' AutoencoderKL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from torch.nn.functional import interpolate

from deployments import pictures

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Generator, Tensor


@dataclass(frozen=True, slots=True)
class Source:
    """An input picture at the size of the output.

    Attributes:
        pixels: (1, 3, height, width), -1..1, on the CPU.
        mask: (1, 1, height, width), 0..1, 1 where the picture is re-drawn; None without a mask.
    """

    pixels: Tensor
    mask: Tensor | None = None

    @property
    def redrawn(self) -> Tensor:
        """The mask as the denoiser sees it: 0 or 1, cut at one half."""
        assert self.mask is not None
        return (self.mask >= 0.5).float()


class Autoencoder:
    """A VAE with its scaling; latents outside are float32 and of unit variance."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self._mean, self._std = _statistics(vae.config)
        self._pixels = VaeImageProcessor(vae_scale_factor=self.factor)
        self._masks = VaeImageProcessor(
            vae_scale_factor=self.factor, do_normalize=False, do_convert_grayscale=True
        )

    def read(self, image: bytes, mask: bytes | None, width: int, height: int) -> Source:
        """Decode an input picture and its mask and bring both to ``width`` by ``height``."""
        picture = pictures.decode_image(image)
        pixels = self._pixels.preprocess(picture.convert("RGB"), height, width)
        if mask is None:
            return Source(pixels)
        gray = pictures.decode_mask(mask, picture.size)
        return Source(pixels, self._masks.preprocess(gray, height, width))

    def encode(self, pixels: Tensor) -> Any:
        """The distribution of the latents of (1, 3, height, width) pixels."""
        return self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist

    def sample(self, distribution: Any, generator: Generator) -> Tensor:
        """Scaled latents (1, channels, h, w); one draw from the generator, in float32."""
        mean, std = distribution.mean.float(), distribution.std.float()
        noise = randn_tensor(mean.shape, generator=generator, device=mean.device)
        shift, spread = self._mean.to(mean.device), self._std.to(mean.device)
        latents: Tensor = (mean + std * noise - shift) * self.vae.config.scaling_factor / spread
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (n, 3, height, width), 0..1, float32, of scaled latents."""
        shift, spread = self._mean.to(latents.device), self._std.to(latents.device)
        latents = latents * spread / self.vae.config.scaling_factor + shift
        pixels: Tensor = self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0]
        return (pixels.float() * 0.5 + 0.5).clamp(0, 1)


def composite(pixels: Tensor, source: Source) -> Tensor:
    """The drawn pixels where the mask is white, the input's own where black; 0..1 each."""
    if source.mask is None:
        return pixels
    kept, mask = (source.pixels * 0.5 + 0.5).to(pixels.device), source.mask.to(pixels.device)
    return mask * pixels + (1 - mask) * kept


def to_arrays(pixels: Tensor) -> list[NDArray[np.float32]]:
    """(n, 3, height, width) as n arrays of (height, width, 3)."""
    arrays: NDArray[np.float32] = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return list(arrays)


def shrink(latents: Tensor, longest: int) -> Tensor:
    """Latents averaged down until their longer side is at most ``longest``."""
    height, width = latents.shape[-2:]
    scale = longest / max(height, width)
    if scale >= 1:
        return latents
    size = max(round(height * scale), 1), max(round(width * scale), 1)
    return interpolate(latents, size, mode="area")


def _statistics(config: Any) -> tuple[Tensor, Tensor]:
    """Per-channel mean and spread of the VAE's latents; 0 and 1 where its config has none."""
    mean: Sequence[float] | None = config.get("latents_mean")
    std: Sequence[float] | None = config.get("latents_std")
    if mean is None or std is None:
        mean, std = [0.0], [1.0]
    return torch.tensor(mean).view(1, -1, 1, 1), torch.tensor(std).view(1, -1, 1, 1)
