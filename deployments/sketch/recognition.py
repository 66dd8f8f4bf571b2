"""Recognition: a denoiser that learns also tells what shape is where, and which is meant.

"Make the square red" among three shapes is worth one bit when it is done right, which teaches a
denoiser hardly anything of what a square is. So a lesson asks each token for the kind of the shape
that it is a part of, and whether that shape is meant; what asks is not part of the model.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from deployments.sketch.reading import Reading
from deployments.sketch.scenes import KINDS
from deployments.sketch.shape_places import NO_KIND


class Recognition(torch.nn.Module):
    """Reads off a denoiser's tokens what kind of shape each is a part of."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reading = Reading(width, len(KINDS))

    def errors(self, tokens: Tensor, kinds: Tensor) -> Tensor:
        """Mean cross entropy of each picture's shapes' places, (n,), in nats; zero without any.

        Args:
            tokens: (n, at least places, model's width), the picture's before others.
            kinds: of ``Asked``.
        """
        told = self.reading(tokens, kinds.shape[1]).transpose(1, 2)
        there = kinds != NO_KIND
        errors = cross_entropy(told, kinds, reduction="none", ignore_index=NO_KIND)
        return errors.sum(dim=1) / there.sum(dim=1).clamp(min=1)


class Choice(torch.nn.Module):
    """Reads off a denoiser's tokens whether the shape that each is a part of shall change."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reading = Reading(width, 1)

    def errors(self, tokens: Tensor, kinds: Tensor, meant: Tensor) -> Tensor:
        """Mean cross entropy, (n,), in nats, half of it of the places that are meant; zero where
        all shapes are meant or none is.

        Args:
            tokens: (n, at least places, model's width), the picture's before others.
            kinds, meant: of ``Asked``.
        """
        told = self.reading(tokens, meant.shape[1])[..., 0]
        errors = binary_cross_entropy_with_logits(told, meant.float(), reduction="none")
        halves = [meant, (kinds != NO_KIND) & ~meant]
        means = [(errors * half).sum(dim=1) / half.sum(dim=1).clamp(min=1) for half in halves]
        is_asked = halves[0].any(dim=1) & halves[1].any(dim=1)
        return torch.stack(means).mean(dim=0) * is_asked
