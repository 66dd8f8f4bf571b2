"""Forms: while a denoiser learns, it also tells from within what form is to come.

A form's colour is most of what a picture's error sees, and an outline that is off by one latent
next to nothing. So a lesson asks each token near it which of its latents the new form covers; what
asks is not part of the model.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, pixel_unshuffle

from deployments.sketch.reading import Reading

#: Latents of a token, two rows of two.
_NUM_LATENTS: Final = 4


class Forms(torch.nn.Module):
    """Reads off a denoiser's tokens which of their latents the form to come covers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reading = Reading(width, _NUM_LATENTS)

    def errors(self, tokens: Tensor, covered: Tensor, near: Tensor) -> Tensor:
        """Mean cross entropy of latents near a form, (n,), in nats; zero without one.

        Args:
            tokens: (n, at least height * width / 4, model's width), the picture's before others.
            covered, near: of ``Asked``, for each latent (n, 1, height, width).
        """
        truth, counts = (
            pixel_unshuffle(of.float(), 2).flatten(2).transpose(1, 2) for of in (covered, near)
        )
        told = self.reading(tokens, truth.shape[1])
        errors = binary_cross_entropy_with_logits(told, truth, reduction="none") * counts
        return errors.sum(dim=(1, 2)) / counts.sum(dim=(1, 2)).clamp(min=1)
