"""Guided: lessons on what guidance and negative prompts make of pictures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Final, Self

import torch
from torch import Tensor

from deployments.sketch.lesson import forward_pass
from deployments.sketch.negatives import Told, with_negatives
from deployments.sketch.noising import (
    NUM_TIMESTEPS,
    UNDECIDED,
    noised_too_strongly,
    random_timesteps,
)
from deployments.sketch.scenes import Scene
from deployments.sketch.sheets import Format, draw_sheet, latents_of_scenes
from deployments.sketch.velocity import velocity_losses

#: The most guidance that pictures shall bear.
_MOST_GUIDANCE: Final = 8.0
#: The least guidance at which nothing shall be left of what the negative prompt refuses.
_LEADING_GUIDANCE: Final = 5.0
#: What predictions with text, and with a negative prompt where pictures are decided and where they
#: are not, count for beside what guidance makes of them.
_UNGUIDED: Final = (0.5, 0.25, 1.0)


@dataclass(frozen=True, slots=True)
class GuidedBatch:
    """Pictures for ``guided_loss``, on one device.

    Attributes:
        clean: latents (n, 4, height / 8, width / 8).
        unwanted: likewise, what to add to each to see what its negative prompt refuses; 0 in rows
            that need not be led away from anything.
        prompts: what is told of them.
    """

    clean: Tensor
    unwanted: Tensor
    prompts: Prompts


@dataclass(frozen=True, slots=True)
class Prompts:
    """What an encoder says of pictures' captions and of both their negative prompts.

    Attributes:
        text, early, naming: (n, 77, width) each.
    """

    text: Tensor
    early: Tensor
    naming: Tensor

    @classmethod
    def encoded(cls, told: Sequence[Told], encode: Callable[[Sequence[str]], Tensor]) -> Self:
        """Those of each picture's three texts; texts that are the same are encoded once."""
        texts = [(each.caption, each.early, each.naming) for each in told]
        rows: dict[str, int] = {}
        for text in itertools.chain.from_iterable(texts):
            rows.setdefault(text, len(rows))
        hidden = encode(list(rows))
        columns = zip(*texts, strict=True)
        return cls(*(hidden[[rows[text] for text in column]] for column in columns))


def guided_batch(
    form: Format,
    draw: Callable[[Random], tuple[Scene, str]],
    rng: Random,
    encode: Callable[[Sequence[str]], Tensor],
    times: int = 1,
) -> GuidedBatch:
    """Scenes in a format, ``with_negatives``, on the device of what ``encode`` returns."""
    clean, told = draw_sheet(form, partial(with_negatives, draw), rng, times)
    unwanted = torch.zeros_like(clean)
    if refused := {row: each.refused for row, each in enumerate(told) if each.refused is not None}:
        rows = [*refused]
        unwanted[rows] = latents_of_scenes([*refused.values()], form) - clean[rows]
    prompts = Prompts.encoded(told, encode)
    device = prompts.text.device
    return GuidedBatch(clean.to(device), unwanted.to(device), prompts)


def guided_loss(model: Any, batch: GuidedBatch, form: Format) -> Tensor:
    """Error of what any guidance makes of predictions with text and with a negative prompt, and of
    either, at random timesteps.

    Guidance multiplies every difference between them, mistakes too: pictures become grainy and
    their colours too strong, unless both have learnt to agree on what can already be seen. Some
    pictures are too strong already; they are to be led back.

    The negative prompt is ``naming`` where a picture is decided, and ``early`` from there up, where
    each prediction is by itself: what its text says, whatever that leaves open. A ``naming`` one
    that names what is not ``unwanted`` changes nothing. Away from what is, much guidance is to
    lead; that is for the prediction with the negative prompt to learn: the other says what its own
    text does. Alone, neither is to leave out what can be seen, so these rows do not ask that.
    """
    clean = batch.clean
    leads = batch.unwanted.flatten(1).any(dim=1)
    timesteps = random_timesteps(len(clean), form).to(clean.device)
    # Only a decided picture's negative prompt refuses anything: these rows are all decided.
    timesteps = torch.where(leads, timesteps * UNDECIDED // NUM_TIMESTEPS, timesteps)
    is_decided = (timesteps < UNDECIDED).view(-1, 1, 1, 1)
    noisy, velocity, _ = noised_too_strongly(
        clean, timesteps, since=UNDECIDED, unwanted=batch.unwanted
    )
    noisy = noisy.to(memory_format=torch.channels_last)
    prompts = batch.prompts
    negative = torch.where(is_decided[..., 0], prompts.naming, prompts.early)
    with forward_pass(clean.device):
        predicted = model(
            torch.cat([noisy, noisy]),
            torch.cat([timesteps, timesteps]),
            torch.cat([prompts.text, negative]),
            return_dict=False,
        )[0]
    named, unnamed = predicted.float().chunk(2)
    led = leads.view(-1, 1, 1, 1)
    least = torch.where(led, _LEADING_GUIDANCE, 1.0)
    guidance = least + (_MOST_GUIDANCE - least) * torch.rand_like(least)
    guidance = torch.where(is_decided, guidance, 1.0)
    guided = unnamed + guidance * (torch.where(led, named.detach(), named) - unnamed)
    losses = velocity_losses(guided, velocity, clean + batch.unwanted)
    with_text, decided, undecided = _UNGUIDED
    shares = torch.where(is_decided.flatten(), decided, undecided)
    alone = with_text * velocity_losses(named, velocity, clean)
    alone = alone + shares * velocity_losses(unnamed, velocity, clean)
    return (losses + alone * ~leads).mean()
