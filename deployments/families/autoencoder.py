"""Autoencoder: between pictures and latents, for the families that use diffusers' AutoencoderKL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch.nn.functional import interpolate

from deployments.families.tiling import edges_joined

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Generator, Tensor


class Autoencoder:
    """A VAE with its scaling; latents outside are float32 and of unit variance."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.channels = int(vae.config.latent_channels)
        self._mean, self._std = _statistics(vae.config)

    @property
    def device(self) -> torch.device:
        """Where latents come out."""
        device: torch.device = self.vae.device
        return device

    def encode(self, pixels: Tensor, *, is_tiling: bool = False) -> Any:
        """The distribution of the latents of (1, 3, height, width) pixels, -1..1."""
        with edges_joined(self.vae, is_tiling=is_tiling):
            return self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist

    def sample(self, distribution: Any, generator: Generator) -> Tensor:
        """Scaled latents (1, channels, h, w); one draw from the generator, in float32."""
        mean, std = distribution.mean.float(), distribution.std.float()
        noise = randn_tensor(mean.shape, generator=generator, device=mean.device)
        return self._scaled(mean + std * noise)

    def mode(self, distribution: Any) -> Tensor:
        """The likeliest scaled latents (1, channels, h, w), in float32."""
        return self._scaled(distribution.mean.float())

    def decode(self, latents: Tensor, *, is_tiling: bool = False) -> Tensor:
        """Pixels (n, 3, height, width), 0..1, float32, of scaled latents."""
        shift, spread = self._mean.to(latents.device), self._std.to(latents.device)
        latents = latents * spread / self.vae.config.scaling_factor + shift
        with edges_joined(self.vae, is_tiling=is_tiling):
            pixels: Tensor = self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0]
        return (pixels.float() * 0.5 + 0.5).clamp(0, 1)

    def _scaled(self, latents: Tensor) -> Tensor:
        shift, spread = self._mean.to(latents.device), self._std.to(latents.device)
        scaled: Tensor = (latents - shift) * self.vae.config.scaling_factor / spread
        return scaled


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
