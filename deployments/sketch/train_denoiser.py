"""Trains the denoiser of the Stable Diffusion 1 folder.

    python -m deployments.sketch.train_denoiser FOLDER [--minutes 60] [--seed 0] [--begin 0]
                                                 [--times 1] [--guided] [--rate 0.02]
                                                 [--workers 1]

FOLDER has ``tokenizer`` and ``text_encoder``, which stay as they are, and gets ``unet``, which is
trained on if it exists. With ``--guided`` it learns what guidance makes of its pictures, too; that
comes after ``train_turbo``, which writes this UNet anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from deployments.sketch import workers
from deployments.sketch.command import command_line, run
from deployments.sketch.guided import guided_loss
from deployments.sketch.lesson import Lesson, forward_pass, pick_device, save_first
from deployments.sketch.noising import noised_astray, random_timesteps
from deployments.sketch.sheets import HUGE, LARGE, MEDIUM, SMALL, TINY, Format, draw_sheet
from deployments.sketch.tokenizer import MAX_LENGTH
from deployments.sketch.unet import unet
from deployments.sketch.velocity import velocity_loss
from deployments.sketch.wording import captioned

#: Share of the captions that are left out, so that guidance has something to lead away from.
UNNAMED: Final = 0.1

#: From which share of the lesson on -> sizes, each with its weight.
_PLAN: Final[tuple[tuple[float, tuple[tuple[float, tuple[Format, ...]], ...]], ...]] = (
    (0.0, ((0.35, TINY), (0.4, SMALL), (0.25, MEDIUM))),
    (0.25, ((0.2, SMALL), (0.5, MEDIUM), (0.3, LARGE))),
    (0.6, ((0.1, SMALL), (0.3, MEDIUM), (0.4, LARGE), (0.2, HUGE))),
)


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
        is_guided: whether guidance is part of it, see ``guided``.
    """
    choices, rng = workers.dice(seed)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
    encoder.requires_grad_(False).to(pick_device())
    model = made_trainable(read_unet(folder / "unet") or unet(encoder.config.hidden_size))
    lesson = Lesson([model], minutes=minutes, rate=rate, memory=0.995)
    nothing = embed(tokenizer, encoder, [""])

    def loss(progress: float) -> Tensor:
        form = _pick_format(begin + (1 - begin) * progress, choices)
        clean, captions = draw_sheet(form, captioned, rng, times)
        clean = clean.to(model.device)
        if is_guided:
            text = embed(tokenizer, encoder, captions)
            return guided_loss(model, clean, text, nothing, form)
        return _denoising_loss(
            model, clean, embed(tokenizer, encoder, _forgotten(captions, rng)), form
        )

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
    timesteps = random_timesteps(len(clean), form).to(clean.device)
    noisy, velocity = noised_astray(clean, timesteps)
    noisy = noisy.to(memory_format=torch.channels_last)
    with forward_pass(clean.device):
        predicted = model(noisy, timesteps, text, return_dict=False)[0]
    return velocity_loss(predicted, velocity, clean)


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
