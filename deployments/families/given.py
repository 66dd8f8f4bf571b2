"""Given: the latents that a request brings, as the start of its pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from deployments import pictures
from deployments.errors import InvalidRequest
from deployments.families.noise import first_noise
from deployments.families.walk import Walk, signal

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from deployments.families.autoencoder import Autoencoder
    from deployments.families.source import SourceReader
    from deployments.types import GenerationRequest, Latents


def read_latents(latents: Latents, autoencoder: Autoencoder) -> Tensor:
    """(num_images, channels, height, width) on the CPU, float32.

    Raises ``InvalidRequest`` for an array that is not of such latents.
    """
    factor, channels = autoencoder.factor, autoencoder.channels
    shape = (latents.num_images, channels, latents.height // factor, latents.width // factor)
    if latents.value is None:
        return torch.zeros(shape)
    value = np.asarray(latents.value)
    if value.shape != shape:
        message = f"the latents have the shape {value.shape}; this model's would have {shape}"
        raise InvalidRequest(message, param="latents")
    return torch.from_numpy(np.array(value, dtype=np.float32))


def undrawn_latents(
    request: GenerationRequest, autoencoder: Autoencoder, reader: SourceReader
) -> Tensor:
    """Latents that nothing is drawn over: the likeliest of pictures, or those to be decoded.

    (pictures, channels, height, width); the pictures are brought to the size of the params.
    """
    if request.task == "decode":
        assert request.latents is not None
        return read_latents(request.latents, autoencoder)
    is_tiling = request.params.tiling
    encoded = []
    for data in request.images:
        alone = replace(request, images=(data,), mask=None, is_latent_resize=False)
        pixels = reader.read(alone).pixels
        encoded.append(autoencoder.mode(autoencoder.encode(pixels, is_tiling=is_tiling)))
    return torch.cat(encoded)


class Given:
    """Makes the first latents out of those that a request brings, one picture at a time."""

    def __init__(self, autoencoder: Autoencoder, unet: Any, request: GenerationRequest) -> None:
        assert request.latents is not None
        self.request = request
        self.strength: float | None = None
        self._factor = autoencoder.factor
        self._device = autoencoder.device
        self._clean = read_latents(request.latents, autoencoder)
        self._is_zeros = request.latents.value is None
        self._mask = None if request.mask is None else read_mask(request.mask)
        channels = None if unet is None else unet.config.in_channels
        self._has_mask_channels = channels not in (None, autoencoder.channels)

    def draw(self, walk: Walk, generator: Generator, index: int) -> tuple[Tensor, dict[str, Any]]:
        """First latents (1, channels, h, w) in the scheduler's scale, and what later steps need.

        ``extra`` holds, beside a mask, ``kept``, ``noise`` and ``redrawn`` for blending, and
        ``channels`` for a UNet that takes the mask itself. Latents that get no noise here keep
        what is under the mask as it is at every step.
        """
        params = self.request.params
        clean = self._clean[index : index + 1].to(self._device)
        if not len(walk.timesteps):
            return clean, {"source": None}
        noise = torch.zeros_like(clean)
        if params.adds_noise:
            shape = tuple(clean.shape)
            drawn = first_noise(shape, self._factor, self.request, index, generator)
            noise = drawn.to(self._device)
        return self._begun(walk, clean, noise), {"source": None, **self._blending(clean, noise)}

    def _begun(self, walk: Walk, clean: Tensor, noise: Tensor) -> Tensor:
        params, start = self.request.params, walk.timesteps[:1]
        begun: Tensor
        if not params.adds_noise:
            begun = clean * signal(walk.scheduler, start).to(self._device)
        elif self._is_zeros and params.first_step == 0:
            begun = noise * walk.scheduler.init_noise_sigma  # as text-to-image begins
        else:
            begun = walk.scheduler.add_noise(clean, noise, start)
        return begun

    def _blending(self, clean: Tensor, noise: Tensor) -> dict[str, Any]:
        if self._mask is None:
            return {}
        redrawn = interpolate(self._mask, clean.shape[2:], mode="bilinear").to(self._device)
        extra = {"kept": clean, "noise": noise, "redrawn": redrawn}
        if self._has_mask_channels:
            # As ComfyUI has it, the latents themselves are what the UNet sees of the input.
            extra["channels"] = torch.cat([redrawn.round(), clean], dim=1)
        return extra


class GivenFlow(Given):
    """Latents that travel as they are: between clean and noise, on the straight line."""

    def _begun(self, walk: Walk, clean: Tensor, noise: Tensor) -> Tensor:
        return super()._begun(walk, clean, noise) if self.request.params.adds_noise else clean


def read_mask(data: bytes) -> Tensor:
    """(1, 1, height, width), 0..1, at the mask's own size; 1 is re-drawn."""
    gray = np.asarray(pictures.decode_mask(data), dtype=np.float32) / 255
    return torch.from_numpy(gray)[None, None]
