"""Guided: the lesson on what guidance makes of a denoiser's pictures."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from deployments.sketch.lesson import forward_pass
from deployments.sketch.noising import UNDECIDED, noised_too_strongly, random_timesteps
from deployments.sketch.sheets import Format
from deployments.sketch.velocity import velocity_loss

#: The most guidance that pictures shall bear.
_MOST_GUIDANCE: Final = 8.0
#: What predictions with and without text count for beside what guidance makes of them.
_UNGUIDED: Final = (0.5, 0.25)


def guided_loss(model: Any, clean: Tensor, text: Tensor, nothing: Tensor, form: Format) -> Tensor:
    """Error of the velocity that any guidance makes of predictions with text and without, and of
    either, at random timesteps.

    Guidance multiplies every difference between them, mistakes too: pictures become grainy and
    their colours too strong, unless both have learnt to agree on what can already be seen. Some
    pictures are too strong already; they are to be led back.

    Args:
        nothing: what the empty text says, (1, 77, width).
    """
    timesteps = random_timesteps(len(clean), form).to(clean.device)
    noisy, velocity, _ = noised_too_strongly(clean, timesteps, since=UNDECIDED)
    noisy = noisy.to(memory_format=torch.channels_last)
    with forward_pass(clean.device):
        predicted = model(
            torch.cat([noisy, noisy]),
            torch.cat([timesteps, timesteps]),
            torch.cat([text, nothing.expand_as(text)]),
            return_dict=False,
        )[0]
    named, unnamed = predicted.float().chunk(2)
    guidance = 1 + (_MOST_GUIDANCE - 1) * torch.rand(len(clean), 1, 1, 1, device=clean.device)
    guidance = torch.where((timesteps >= UNDECIDED).view(-1, 1, 1, 1), 1.0, guidance)
    losses = [velocity_loss(unnamed + guidance * (named - unnamed), velocity, clean)]
    for share, alone in zip(_UNGUIDED, (named, unnamed), strict=True):
        losses.append(share * velocity_loss(alone, velocity, clean))
    return torch.stack(losses).sum()
