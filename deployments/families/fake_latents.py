"""Fake latents: pictures an eighth as large, and how one is drawn over by part of a schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from deployments import pictures
from deployments.errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.random import Generator

    from deployments.families.fake_picture import Floats
    from deployments.types import GenerationRequest, Latents

#: Pixels of one latent position's side.
FACTOR: Final = 8

#: What a whole schedule leaves of the latents that it began with.
_LEFT: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeWalk:
    """Part of a schedule over given latents, each (1, 3, height, width).

    Noise fades evenly from the first step of the schedule to its end.

    Attributes:
        kept: the latents as they came.
        noise: what they are mixed with; ``kept`` itself when no noise is added.
        redrawn: 1 where they are re-drawn, 0 where they are kept.
        num_steps, first, last: the schedule's length, and the part that is walked.
        is_cut: whether the last step goes the rest of the way.
    """

    kept: Floats
    noise: Floats
    redrawn: Floats
    num_steps: int
    first: int
    last: int
    is_cut: bool

    def begun(self, *, adds_noise: bool) -> Floats:
        """The latents before the first step."""
        return self._noised(self.first) if adds_noise and self.first < self.last else self.kept

    def stepped(self, step: int, latents: Floats, direction: Floats) -> Floats:
        """The latents after the walk's ``step``, counted from 0, by the way to what is aimed at."""
        done = self.first + step + 1
        is_end = self.is_cut and done == self.last
        share = 1 - _LEFT ** ((self.num_steps - done + 1 if is_end else 1) / self.num_steps)
        kept = self.kept if is_end else self._noised(done)
        drawn = latents + np.float32(share) * direction
        mixed: Floats = self.redrawn * drawn + (1 - self.redrawn) * kept
        return mixed

    def _noised(self, step: int) -> Floats:
        level = np.float32(1 - step / self.num_steps)
        return self.kept + level * (self.noise - self.kept)


def fake_walk(request: GenerationRequest, index: int, generator: Generator) -> FakeWalk:
    """How picture ``index`` of a request that starts from latents is drawn."""
    params = request.params
    assert request.latents is not None
    kept = read_latents(request.latents)[index : index + 1]
    noise = generator.random(kept.shape, dtype=np.float32) if params.adds_noise else kept
    steps = params.num_inference_steps or 1
    last = params.first_step + params.num_walked_steps
    return FakeWalk(
        kept=kept,
        noise=noise,
        redrawn=_redrawn(request, kept.shape),
        num_steps=steps,
        first=params.first_step,
        last=last,
        is_cut=last < steps and not params.keeps_noise,
    )


def read_latents(latents: Latents) -> Floats:
    """(num_images, 3, height, width). Raises ``InvalidRequest`` for an array of another shape."""
    shape = (latents.num_images, 3, latents.height // FACTOR, latents.width // FACTOR)
    if latents.value is None:
        return np.zeros(shape, dtype=np.float32)
    value: Floats = np.asarray(latents.value, dtype=np.float32)
    if value.shape != shape:
        message = f"the latents have the shape {value.shape}; this model's would have {shape}"
        raise InvalidRequest(message, param="latents")
    return value


def encode_picture(data: bytes, width: int, height: int) -> Floats:
    """(1, 3, height / 8, width / 8) of an encoded picture, 0..1."""
    size = (width // FACTOR, height // FACTOR)
    image = pictures.decode_image(data).convert("RGB").resize(size, Image.Resampling.BOX)
    return (np.asarray(image, dtype=np.float32) / np.float32(255)).transpose(2, 0, 1)[None]


def _redrawn(request: GenerationRequest, shape: tuple[int, ...]) -> Floats:
    if request.mask is None:
        return np.ones((1, 1, 1, 1), dtype=np.float32)
    gray = pictures.decode_mask(request.mask).resize((shape[3], shape[2]))
    return (np.asarray(gray, dtype=np.float32) / np.float32(255))[None, None]
