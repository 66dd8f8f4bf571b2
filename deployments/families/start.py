"""Start: the latents that the pictures of one request begin with, drawn as diffusers draws them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from deployments.families.autoencoder import Autoencoder, Source
    from deployments.types import SamplingParams


class Start:
    """Draws first latents, one picture at a time; the input is encoded once for all of them.

    The draws are those of diffusers' three pipelines, in their order: the input's latents, the
    noise, the masked input's latents; what a mode has no use for is not drawn, save the last,
    which the stock inpainting pipelines always draw.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        unet: Any,
        params: SamplingParams,
        source: Source | None,
        strength: float | None,
    ) -> None:
        assert params.width is not None
        assert params.height is not None
        self.autoencoder = autoencoder
        self.unet = unet
        self.source = source
        self.strength = strength
        self.is_pure_noise = source is None or (source.mask is not None and strength == 1)
        factor, channels = autoencoder.factor, autoencoder.vae.config.latent_channels
        self.shape = (1, channels, params.height // factor, params.width // factor)
        self.has_mask_channels = unet.config.in_channels != channels
        self._input = self._masked = None
        if source is not None and not (self.is_pure_noise and self.has_mask_channels):
            self._input = autoencoder.encode(source.pixels)
        if source is not None and source.mask is not None and self.has_mask_channels:
            self._masked = autoencoder.encode(source.pixels * (1 - source.redrawn))

    def draw(
        self, scheduler: Any, timesteps: Tensor, generator: Generator
    ) -> tuple[Tensor, dict[str, Any]]:
        """First latents (1, channels, h, w) and what the later steps need besides.

        ``extra`` holds ``source``; while inpainting also ``kept``, ``noise`` and ``redrawn`` for
        blending, or ``channels`` for a UNet that takes the mask itself.
        """
        kept = None
        if self._input is not None:
            kept = self.autoencoder.sample(self._input, generator)
        noise = randn_tensor(self.shape, generator=generator, device=self._device)
        if self.is_pure_noise:
            latents = noise * scheduler.init_noise_sigma
        else:
            latents = scheduler.add_noise(kept, noise, timesteps[:1])
        extra: dict[str, Any] = {"source": self.source}
        if self.source is not None and self.source.mask is not None:
            extra |= self._mask_extra(kept, noise, generator)
        return latents, extra

    def _mask_extra(
        self, kept: Tensor | None, noise: Tensor, generator: Generator
    ) -> dict[str, Any]:
        assert self.source is not None
        redrawn = interpolate(self.source.redrawn, self.shape[2:]).to(self._device)
        if self._masked is not None:
            masked = self.autoencoder.sample(self._masked, generator)
            return {"channels": torch.cat([redrawn, masked], dim=1)}
        randn_tensor(self.shape, generator=generator)  # the masked input's, unused here
        return {"kept": kept, "noise": noise, "redrawn": redrawn}

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.autoencoder.vae.device
        return device
