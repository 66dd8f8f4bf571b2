"""OwnPlace: a denoiser that learns also tells where in its picture each token is.

Rotary positions say how far tokens are from each other, not where the picture's sides are. To draw
a circle in the middle of a picture a token must know how far away that is, whatever the picture's
size and however long its text; the error of the picture teaches that slowly. So a lesson asks for
it within the layers; what asks is not part of the model.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from deployments.sketch.reading import Reading

#: Places that count as one where the sides are told.
_UNIT: Final = 32.0
#: Errors below which they count less and less; one place in a picture of 512 pixels is 1/16.
_SMALL: Final = 0.02


class OwnPlace(torch.nn.Module):
    """Reads off a denoiser's tokens where each is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reading = Reading(width, 4)

    def errors(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        """How wrong they tell it, (n,).

        Args:
            tokens: (n, at least rows * columns, model's width), the picture's before others.
            rows, columns: of the picture's tokens.
        """
        truth = own_places(rows, columns).to(tokens.device)
        told = self.reading(tokens, rows * columns)
        errors = smooth_l1_loss(told, truth.expand_as(told), reduction="none", beta=_SMALL)
        return errors.sum(dim=-1).mean(dim=1)


def own_places(rows: int, columns: int) -> Tensor:
    """(rows * columns, 4): how far down and how far right of the middle each place is, -1 to 1
    from side to side, and how many rows and columns there are."""
    down, right = ((2 * torch.arange(count).float() + 1) / count - 1 for count in (rows, columns))
    places = torch.stack(torch.meshgrid(down, right, indexing="ij"), dim=-1).flatten(0, 1)
    sides = torch.tensor([rows, columns]) / _UNIT
    return torch.cat([places, sides.expand_as(places)], dim=1)
