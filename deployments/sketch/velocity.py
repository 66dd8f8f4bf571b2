"""Velocity: how far off a prediction of it is, and where on a picture that counts more."""

from __future__ import annotations

from typing import Final

from torch import Tensor
from torch.nn.functional import avg_pool2d

from deployments.sketch.lesson import rooted

#: How much more a place counts the more it differs from those around it.
_OUTLINED: Final = 4.0
#: Mean squared error below which a picture counts less and less.
_SMALL_ERROR: Final = 0.01


def velocity_loss(predicted: Tensor, velocity: Tensor, clean: Tensor) -> Tensor:
    """Mean root of each picture's mean squared error, of which outlines count more.

    Small things are little of a picture's area; counted by that alone, they are left out.
    """
    counts = 1 + _OUTLINED * outlines(clean)
    errors = ((predicted.float() - velocity).square() * counts).mean(dim=(1, 2, 3))
    return rooted(errors / counts.mean(dim=(1, 2, 3)), _SMALL_ERROR)


def outlines(clean: Tensor) -> Tensor:
    """0..1 for each place of latents, (n, 1, h, w): how much it differs from those around it."""
    around = avg_pool2d(clean, 3, stride=1, padding=1, count_include_pad=False)
    return (clean - around).abs().amax(dim=1, keepdim=True).clamp(max=1)
