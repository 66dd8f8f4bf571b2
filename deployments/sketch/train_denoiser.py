"""Trains the denoiser of the Stable Diffusion 1 folder.

    python -m deployments.sketch.train_denoiser FOLDER [--minutes 60] [--seed 0] [--begin 0]
                                                 [--times 1] [--guided] [--rate 0.02]
                                                 [--workers 1]

FOLDER has ``tokenizer`` and ``text_encoder``, which stay as they are, and gets ``unet``, which is
trained on if it exists. With ``--guided`` it learns what guidance and negative prompts make of its
pictures, too; that comes after ``train_turbo``, which writes this UNet anew.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final, Self

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn.functional import avg_pool2d
from transformers import CLIPTextModel, CLIPTokenizer

from deployments.sketch import workers
from deployments.sketch.command import command_line, run
from deployments.sketch.lesson import Lesson, forward_pass, pick_device, rooted, save_first
from deployments.sketch.negatives import Told, with_negatives
from deployments.sketch.noising import (
    NUM_TIMESTEPS,
    UNDECIDED,
    noised_astray,
    noised_too_strongly,
)
from deployments.sketch.scenes import Scene
from deployments.sketch.sheets import (
    HUGE,
    LARGE,
    MEDIUM,
    SMALL,
    TINY,
    Format,
    draw_sheet,
    latents_of_scenes,
)
from deployments.sketch.tokenizer import MAX_LENGTH
from deployments.sketch.unet import unet
from deployments.sketch.wording import captioned

#: Share of the captions that are left out, so that guidance has something to lead away from.
UNNAMED: Final = 0.1
#: Share of the batches whose pictures are all but noise, where a picture begins.
_PURE_NOISE: Final = 0.12

#: The most guidance that pictures shall bear.
_MOST_GUIDANCE: Final = 8.0
#: The least guidance at which nothing shall be left of what the negative prompt refuses.
_LEADING_GUIDANCE: Final = 5.0
#: What predictions with text, and with a negative prompt where pictures are decided and where they
#: are not, count for beside what guidance makes of them.
_UNGUIDED: Final = (0.5, 0.25, 1.0)
#: How much more a place counts the more it differs from those around it.
_OUTLINED: Final = 4.0
#: Mean squared error below which a picture counts less and less.
_SMALL_ERROR: Final = 0.01

#: From which share of the lesson on -> sizes, each with its weight.
_PLAN: Final[tuple[tuple[float, tuple[tuple[float, tuple[Format, ...]], ...]], ...]] = (
    (0.0, ((0.35, TINY), (0.4, SMALL), (0.25, MEDIUM))),
    (0.25, ((0.2, SMALL), (0.5, MEDIUM), (0.3, LARGE))),
    (0.6, ((0.1, SMALL), (0.3, MEDIUM), (0.4, LARGE), (0.2, HUGE))),
)


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


def teach(
    folder: Path,
    minutes: float,
    *,
    begin: float,
    times: int,
    seed: int,
    rate: float,
    is_guided: bool,
) -> None:
    """Train for some minutes.

    Args:
        begin: share of the sizes' plan that is skipped.
        is_guided: whether guidance is part of it, see ``guided_loss``.
    """
    choices, rng = workers.dice(seed)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
    encoder.requires_grad_(False).to(pick_device())
    model = made_trainable(read_unet(folder / "unet") or unet(encoder.config.hidden_size))
    lesson = Lesson([model], minutes=minutes, rate=rate, memory=0.995)
    embedded = partial(embed, tokenizer, encoder)

    def loss(progress: float) -> Tensor:
        form = _pick_format(begin + (1 - begin) * progress, choices)
        if is_guided:
            return guided_loss(model, guided_batch(form, captioned, rng, embedded, times), form)
        clean, captions = draw_sheet(form, captioned, rng, times)
        text = embedded(_forgotten(captions, rng))
        return _denoising_loss(model, clean.to(model.device), text, form)

    lesson.run(loss, partial(save_first, folder / "unet"))


def read_unet(folder: Path) -> Any:
    """The saved UNet in float32, or None."""
    if not folder.is_dir():
        return None
    return UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32)


def made_trainable(model: Any) -> Any:
    """On the device, in the memory format that convolutions are fastest in."""
    return model.to(pick_device(), memory_format=torch.channels_last)


def _pick_format(progress: float, rng: Random) -> Format:
    """A size of the plan's for this share of the lesson."""
    _, kinds = max(step for step in _PLAN if step[0] <= progress)
    [forms] = rng.choices([forms for _, forms in kinds], [weight for weight, _ in kinds])
    return rng.choice(forms)


def _forgotten(captions: Sequence[str], rng: Random) -> list[str]:
    """The captions, some of them empty."""
    return ["" if rng.random() < UNNAMED else caption for caption in captions]


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


def tokens(tokenizer: Any, captions: Sequence[str]) -> Tensor:
    """(n, 77): the captions' token ids, cut and padded as pipelines do."""
    ids: Tensor = tokenizer(
        list(captions),
        padding="max_length",
        truncation=True,
        max_length=MAX_LENGTH,
        return_tensors="pt",
    ).input_ids
    return ids


@torch.no_grad()
def embed(tokenizer: Any, encoder: Any, captions: Sequence[str]) -> Tensor:
    """(n, 77, width): the encoder's last hidden states."""
    ids = tokens(tokenizer, captions).to(encoder.device)
    hidden: Tensor = encoder(ids).last_hidden_state
    return hidden


def _denoising_loss(model: Any, clean: Tensor, text: Tensor, form: Format) -> Tensor:
    """Error of the velocity at random timesteps, later ones for larger pictures."""
    timesteps = _random_timesteps(len(clean), form).to(clean.device)
    noisy, velocity = noised_astray(clean, timesteps)
    noisy = noisy.to(memory_format=torch.channels_last)
    with forward_pass(clean.device):
        predicted = model(noisy, timesteps, text, return_dict=False)[0]
    return velocity_loss(predicted, velocity, clean)


def guided_loss(model: Any, batch: GuidedBatch, form: Format) -> Tensor:
    """The same of what any guidance makes of predictions with text and with a negative prompt.

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
    timesteps = _random_timesteps(len(clean), form).to(clean.device)
    # Only a decided picture's negative prompt names anything: these rows are all decided.
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


def velocity_loss(predicted: Tensor, velocity: Tensor, clean: Tensor) -> Tensor:
    """Mean of ``velocity_losses``."""
    return velocity_losses(predicted, velocity, clean).mean()


def velocity_losses(predicted: Tensor, velocity: Tensor, shown: Tensor) -> Tensor:
    """(n,): root of each picture's mean squared error, of which outlines of ``shown`` count more.

    Small things are little of a picture's area; counted by that alone, they are left out.
    """
    counts = 1 + _OUTLINED * outlines(shown)
    errors = ((predicted.float() - velocity).square() * counts).mean(dim=(1, 2, 3))
    return rooted(errors / counts.mean(dim=(1, 2, 3)), _SMALL_ERROR)


def outlines(clean: Tensor) -> Tensor:
    """0..1 for each place of latents, (n, 1, h, w): how much it differs from those around it."""
    around = avg_pool2d(clean, 3, stride=1, padding=1, count_include_pad=False)
    return (clean - around).abs().amax(dim=1, keepdim=True).clamp(max=1)


def _random_timesteps(count: int, form: Format) -> Tensor:
    """Uniform ones, bent towards noise with the size: noise hides less of what is large."""
    bend = max(form.width * form.height, 1) ** 0.5 / 256
    uniform = torch.rand(count) ** (1 / max(bend, 1) ** 0.7)
    timesteps = (uniform * NUM_TIMESTEPS).long().clamp(0, NUM_TIMESTEPS - 1)
    is_pure = torch.rand(count) < _PURE_NOISE
    return torch.where(is_pure, NUM_TIMESTEPS - 1, timesteps)


def main() -> None:
    """Read the command line and teach."""
    parser = command_line(__doc__, minutes=60)
    parser.add_argument("--begin", type=float, default=0, help="share of the sizes' plan to skip")
    parser.add_argument("--times", type=int, default=1, help="how many times larger batches")
    parser.add_argument("--rate", type=float, default=2e-2)
    parser.add_argument("--guided", action="store_true", help="learn what guidance makes of it")
    run(parser, _teach)


def _teach(given: argparse.Namespace) -> None:
    teach(
        given.folder,
        given.minutes,
        begin=given.begin,
        times=given.times,
        seed=given.seed,
        rate=given.rate,
        is_guided=given.guided,
    )


if __name__ == "__main__":
    main()
