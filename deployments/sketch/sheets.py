"""Batches to train denoisers with: scenes of one size as latents, and their captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np
import torch
from torch import Tensor

from deployments.sketch.foreign import Pixels
from deployments.sketch.painter import paint
from deployments.sketch.scenes import Scene
from deployments.sketch.thumbnails import thumbnails

Drawn = Callable[[Random], tuple[Scene, str]]


@dataclass(frozen=True, slots=True)
class Format:
    """Pictures of one size, and how many of them make a batch (always about as much work)."""

    width: int
    height: int
    count: int


TINY: Final = (Format(128, 128, 48),)
SMALL: Final = (
    Format(192, 192, 32),
    Format(256, 192, 24),
    Format(192, 256, 24),
)
MEDIUM: Final = (
    Format(256, 256, 24),
    Format(384, 256, 16),
    Format(256, 384, 16),
    Format(448, 256, 14),
)
LARGE: Final = (
    Format(384, 384, 12),
    Format(512, 512, 8),
    Format(512, 512, 8),
    Format(768, 512, 5),
    Format(512, 768, 5),
)
HUGE: Final = (
    Format(768, 768, 3),
    Format(1024, 1024, 2),
    Format(1024, 1024, 2),
    Format(1024, 576, 3),
    Format(576, 1024, 3),
)


def draw_sheet(form: Format, draw: Drawn, rng: Random, times: int = 1) -> tuple[Tensor, list[str]]:
    """Latents (times * count, 4, height / 8, width / 8) and the captions."""
    scenes, captions = zip(*(draw(rng) for _ in range(times * form.count)), strict=True)
    return painted_latents(scenes, form), list(captions)


def painted_latents(scenes: Sequence[Scene], form: Format) -> Tensor:
    """Latents of scenes' pictures, (n, 4, height / 8, width / 8)."""
    return picture_latents([np.asarray(paint(of, form.width, form.height)) for of in scenes])


def picture_latents(pictures: Sequence[Pixels]) -> Tensor:
    """The same of pictures of one size."""
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return thumbnails(pixels.float() / 127.5 - 1)
