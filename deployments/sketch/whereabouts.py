"""Whereabouts: while a denoiser learns to edit, it also tells from within where the edit is.

To draw another shape in the place of one, a token must know how far it is from that shape's middle,
and how large the shape is. The error of the picture alone teaches that slowly, since it pays only
once the outline is drawn right. So a lesson asks for it within the layers; what asks is not part of
the model.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, smooth_l1_loss

from deployments.sketch.reading import Reading

#: Places that count as one in what is told, and the most that is told.
_UNIT: Final = 8.0
_FAR: Final = 2.0
#: What is told of each place: the share of it that changes, rows and columns from the middle of all
#: that changes, and half the height and width of that.
_NUM_TOLD: Final = 5
#: How much places far from what changes count.
_BESIDE: Final = 0.1


class Whereabouts(torch.nn.Module):
    """Reads off a denoiser's tokens where the edit is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reading = Reading(width, _NUM_TOLD)

    def errors(self, tokens: Tensor, changed: Tensor) -> Tensor:
        """How wrong they tell it, (n,); zero where nothing changes.

        Args:
            tokens: (n, at least height * width / 4, model's width), the picture's before others.
            changed: whether a latent changes, (n, 1, height, width).
        """
        truth, counts = targets(changed.float())
        told = self.reading(tokens, truth.shape[1])
        errors = smooth_l1_loss(told, truth, reduction="none", beta=0.1).sum(dim=-1)
        return (errors * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1e-6)


def targets(changed: Tensor) -> tuple[Tensor, Tensor]:
    """What is to be told of each place, (n, places, 5), and how much it counts, (n, places).

    Places are the height * width / 4 tokens of a picture.

    Args:
        changed: 1 where a latent changes, else 0: (n, 1, height, width).
    """
    share = avg_pool2d(changed, 2)[:, 0]
    is_there = max_pool2d(changed, 2)[:, 0] > 0
    rows, height = _span(is_there.any(dim=2))
    columns, width = _span(is_there.any(dim=1))
    down = _offsets(share.shape[1], rows)[:, :, None].expand_as(share)
    right = _offsets(share.shape[2], columns)[:, None, :].expand_as(share)
    sides = [side[:, None, None].expand_as(share) for side in (height, width)]
    spans = [number / _UNIT for number in (down, right, *sides)]
    truth = torch.stack([share, *spans], dim=-1).clamp(-_FAR, _FAR).flatten(1, 2)
    is_near = (down.abs() < 2 * height[:, None, None]) & (right.abs() < 2 * width[:, None, None])
    counts = torch.where(is_near, 1.0, _BESIDE) * is_there.flatten(1).any(dim=1)[:, None, None]
    return truth, counts.flatten(1)


def _span(is_there: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and half the length of what is there, (n,), of (n, places)."""
    places = torch.arange(is_there.shape[1], device=is_there.device).float()
    first = torch.where(is_there, places, torch.inf).amin(dim=1)
    last = torch.where(is_there, places, -torch.inf).amax(dim=1)
    some = is_there.any(dim=1)
    middle = torch.where(some, (first + last) / 2, 0.0)
    return middle, torch.where(some, (last - first + 1) / 2, 0.0)


def _offsets(count: int, middle: Tensor) -> Tensor:
    return torch.arange(count, device=middle.device).float() - middle[:, None]
