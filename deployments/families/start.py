"""Start: the latents that the pictures of one request begin with, drawn as diffusers draws them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch.nn.functional import interpolate

from deployments.families.noise import first_noise

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from deployments.families.autoencoder import Autoencoder
    from deployments.families.source import Source
    from deployments.families.walk import Walk
    from deployments.types import GenerationRequest


class Start:
    """Draws first latents, one picture at a time; the input is encoded once for all of them.

    The draws are those of diffusers' three pipelines, in their order: the input's latents, the
    noise, the masked input's latents; what a mode has no use for is not drawn, save the last,
    which the stock inpainting pipelines always draw. ``unet`` is None where no denoiser takes a
    mask.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        unet: Any,
        request: GenerationRequest,
        source: Source | None,
        strength: float | None,
    ) -> None:
        params = request.params
        assert params.width is not None
        assert params.height is not None
        self.autoencoder = autoencoder
        self.request = request
        self.source = source
        self.strength = strength
        self.is_pure_noise = source is None or (source.mask is not None and strength == 1)
        factor, channels = autoencoder.factor, autoencoder.channels
        self.shape = (1, channels, params.height // factor, params.width // factor)
        self.has_mask_channels = unet is not None and unet.config.in_channels != channels
        self._input = self._masked = None
        if source is not None and not (self.is_pure_noise and self.has_mask_channels):
            pixels = source.pixels if source.natural is None else source.natural
            self._input = autoencoder.encode(pixels, is_tiling=params.tiling)
        if source is not None and source.mask is not None and self.has_mask_channels:
            kept = source.pixels * (1 - source.redrawn)
            self._masked = autoencoder.encode(kept, is_tiling=params.tiling)

    def draw(self, walk: Walk, generator: Generator, index: int) -> tuple[Tensor, dict[str, Any]]:
        """First latents (1, channels, h, w) and what the later steps need besides.

        ``extra`` holds ``source``; while inpainting also ``kept``, ``noise`` and ``redrawn`` for
        blending, or ``channels`` for a UNet that takes the mask itself.
        """
        kept = self._kept(generator)
        factor = self.autoencoder.factor
        noise = first_noise(self.shape, factor, self.request, index, generator).to(self._device)
        if kept is None or self.is_pure_noise:
            latents = noise * walk.scheduler.init_noise_sigma
        else:
            more = noise * self.request.params.noise_multiplier
            start = walk.timesteps[:1]
            latents = walk.scheduler.add_noise(self._filled(kept, noise), more, start)
        extra: dict[str, Any] = {"source": self.source}
        if self.source is not None and self.source.mask is not None:
            extra |= self._mask_extra(kept, noise, generator)
        return latents, extra

    def _kept(self, generator: Generator) -> Tensor | None:
        """The input's latents; those of another size are resized to the picture's."""
        if self._input is None:
            return None
        kept = self.autoencoder.sample(self._input, generator)
        if kept.shape != self.shape:
            kept = interpolate(kept, self.shape[2:], mode="bilinear")
        return kept

    def _filled(self, kept: Tensor, noise: Tensor) -> Tensor:
        """The input's latents with ``masked_content`` under the mask."""
        content = self.request.masked_content
        if self.source is None or self.source.mask is None or content == "original":
            return kept
        redrawn = self._redrawn(self.source)
        return kept * (1 - redrawn) + (noise * redrawn if content == "noise" else 0)

    def _mask_extra(
        self, kept: Tensor | None, noise: Tensor, generator: Generator
    ) -> dict[str, Any]:
        assert self.source is not None
        redrawn = self._redrawn(self.source)
        if self._masked is not None:
            masked = self.autoencoder.sample(self._masked, generator)
            return {"channels": torch.cat([redrawn, masked], dim=1)}
        randn_tensor(self.shape, generator=generator)  # the masked input's, unused here
        return {"kept": kept, "noise": noise, "redrawn": redrawn}

    def _redrawn(self, source: Source) -> Tensor:
        return interpolate(source.redrawn, self.shape[2:]).to(self._device)

    @property
    def _device(self) -> torch.device:
        return self.autoencoder.device
