"""Trains the Stable Diffusion XL folder for few steps without guidance, and its plain sister.

    python -m deployments.sketch.train_turbo FOLDER --start SD_FOLDER [--minutes 30] [--seed 0]
                                                    [--rate 0.01] [--huge 0.25] [--times 1]
                                                    [--workers 1] [--guidance 2]

FOLDER's ``unet`` is trained on if it exists; else everything is made from SD_FOLDER, a trained
Stable Diffusion 1. Text encoders stay as they are. A share of the pictures is drawn without pooled
text and sizes, so that SD_FOLDER's ``unet`` can be taken from it again: one training for both.

With ``--guidance`` it learns to draw at once what FOLDER's drew with that much guidance, in half
the time, and to bear more; SD_FOLDER's stays as it is. This lesson is the last, and given once:
another would guide what is guided, and one on all else would make SD_FOLDER's guided, too; one that
was cut off begins again from a copy. (Meng 2023, "On distillation of guided diffusion models".)
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import layer_norm
from transformers import CLIPTextModel, CLIPTokenizer

from deployments.sketch import workers
from deployments.sketch.command import command_line, run
from deployments.sketch.lesson import Lesson, forward_pass, pick_device, save_half
from deployments.sketch.noising import (
    NUM_TIMESTEPS,
    noised_astray,
    noised_too_strongly,
)
from deployments.sketch.sheets import HUGE, LARGE, MEDIUM, SMALL, TINY, Format, draw_sheet
from deployments.sketch.train_denoiser import (
    UNNAMED,
    made_trainable,
    read_unet,
    tokens,
)
from deployments.sketch.turbo import (
    LOUD,
    amplify,
    beside_silence,
    plain_unet,
    turbo_encoders,
    turbo_unet,
)
from deployments.sketch.velocity import velocity_loss
from deployments.sketch.wording import captioned

#: Sizes, each kind with its weight.
_KINDS: Final = ((0.04, TINY), (0.16, SMALL), (0.4, MEDIUM), (0.4, LARGE))
#: Timesteps that 4 and 8 steps visit; most of a picture is decided in the first.
_VISITED: Final = (*(999,) * 6, *(874,) * 2, *(749,) * 3, 624, 499, 374, 249, 124)
#: Share of the pictures whose timesteps are such ones; the others' are any.
_FEW: Final = 0.75
#: Timestep below which a share of the pictures has another's text, so that a picture which is only
#: noised a little stays what it is.
_SETTLED: Final = 400
_MISTOLD: Final = 0.25
#: Share of the pictures without pooled text and sizes.
_PLAIN: Final = 0.4
#: Of a lesson on guidance, the share of pictures whose text the student is not told.
_UNTOLD: Final = 0.2
#: Where the first of four steps ends.
_FIRST_DECIDED: Final = 749


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Pictures as latents, and what is said of them.

    Attributes:
        text, pooled: of ``embed``.
        form: the pictures' size.
    """

    clean: Tensor
    text: Tensor
    pooled: Tensor
    form: Format

    def with_some_unnamed(self, share: float) -> Batch:
        """The same, without what is said of so many of them."""
        is_named = (torch.rand(len(self.clean), 1) >= share).to(self.text)
        return replace(self, text=self.text * is_named[..., None], pooled=self.pooled * is_named)


def teach(
    folder: Path,
    base: Path,
    minutes: float,
    *,
    rate: float,
    huge: float,
    times: int,
    seed: int,
    guidance: float | None = None,
) -> None:
    """Train the UNet for some minutes.

    Args:
        base: a trained Stable Diffusion 1.
        huge: the largest sizes' share of the second half.
        guidance: whose pictures are to be drawn without any; None for a lesson on all else.
    """
    choices, rng = workers.dice(seed)
    if workers.rank() == 0 and not (folder / "unet").is_dir():
        _begin(folder, base)
    workers.wait()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(base / "text_encoder", dtype=torch.float32)
    encoder.eval().to(pick_device())
    # NOTE: trained on text as loud as all else, since a step is as large for small weights.
    model = made_trainable(amplify(read_unet(folder / "unet"), LOUD))
    lesson = Lesson([model], minutes=minutes, rate=rate, memory=0.995)
    if guidance is None:
        judge = partial(_loss, model, Conditions(model))
    else:
        teacher = copy.deepcopy(model).requires_grad_(False)
        judge = partial(_guided_loss, model, teacher, guidance=guidance)

    def loss(progress: float) -> Tensor:
        form = _pick_format(choices, huge if progress > 0.5 else 0.0)
        clean, captions = draw_sheet(form, captioned, rng, times)
        text, pooled = embed(tokenizer, encoder, captions)
        return judge(Batch(clean=clean.to(model.device), text=text, pooled=pooled, form=form))

    plain = base / "unet" if guidance is None else None
    lesson.run(loss, partial(_save, folder / "unet", plain))


class Conditions:
    """What pooled text and sizes add to the time embedding, for those rows that are told them."""

    def __init__(self, model: Any) -> None:
        self.is_told = torch.ones(0, dtype=torch.bool)
        model.add_embedding.register_forward_hook(self._hide)

    def _hide(self, _module: Any, _inputs: Any, output: Tensor) -> Tensor:
        return output * self.is_told[:, None].to(output)


def _pick_format(rng: Random, huge: float) -> Format:
    if rng.random() < huge:
        return rng.choice(HUGE)
    [forms] = rng.choices([forms for _, forms in _KINDS], [weight for weight, _ in _KINDS])
    return rng.choice(forms)


def _begin(folder: Path, base: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    trained = CLIPTextModel.from_pretrained(base / "text_encoder", dtype=torch.float32)
    first, second = turbo_encoders(tokenizer, trained)
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer.save_pretrained(folder / name)
    save_half(first, folder / "text_encoder")
    save_half(second, folder / "text_encoder_2")
    save_half(turbo_unet(read_unet(base / "unet")), folder / "unet")


@torch.no_grad()
def embed(tokenizer: Any, encoder: Any, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """What both of SDXL's encoders say, (n, 77, width), and pooled text, in one run.

    The first model's encoder says it, as ``turbo_encoders`` are made of it; the text is not loud.
    """
    ids = tokens(tokenizer, captions).to(encoder.device)
    hidden = encoder(ids).last_hidden_state
    ends = (ids == tokenizer.eos_token_id).int().argmax(dim=1)
    pooled = layer_norm(hidden[torch.arange(len(ids), device=ids.device), ends], hidden.shape[-1:])
    return beside_silence(hidden), pooled


def _loss(model: Any, conditions: Conditions, batch: Batch) -> Tensor:
    """Error of the velocity at the timesteps of few steps, and at any."""
    timesteps = _random_timesteps(batch)
    told = _told_at(timesteps, batch.with_some_unnamed(UNNAMED))
    conditions.is_told = torch.rand(len(batch.clean)) >= _PLAIN
    noisy, velocity = noised_astray(batch.clean, timesteps)
    return velocity_loss(_predicted(model, told, noisy, timesteps), velocity, batch.clean)


def _guided_loss(model: Any, teacher: Any, batch: Batch, guidance: float) -> Tensor:
    """The same from the velocity that the teacher's guidance makes, for some without their text.

    So what is left for more guidance to multiply is only what cannot be seen yet. Some pictures are
    too strong already; the teacher has met none such, so there the truth is taught.
    """
    timesteps = _random_timesteps(batch)
    told = _told_at(timesteps, batch)
    noisy, velocity, is_strong = noised_too_strongly(batch.clean, timesteps, since=_FIRST_DECIDED)
    with torch.no_grad():
        named, unnamed = (
            _predicted(teacher, said, noisy, timesteps).float()
            for said in (told, told.with_some_unnamed(1.0))
        )
    wanted = torch.where(is_strong, velocity, unnamed + guidance * (named - unnamed))
    said = told.with_some_unnamed(_UNTOLD)
    return velocity_loss(_predicted(model, said, noisy, timesteps), wanted, batch.clean)


def _told_at(timesteps: Tensor, batch: Batch) -> Batch:
    """The same, with another's text for some of those that are hardly noised."""
    mistold = (timesteps.cpu() < _SETTLED) & (torch.rand(len(batch.clean)) < _MISTOLD)
    return replace(
        batch, text=_mixed_up(batch.text, mistold), pooled=_mixed_up(batch.pooled, mistold)
    )


def _random_timesteps(batch: Batch) -> Tensor:
    """Mostly those that few steps visit."""
    count = len(batch.clean)
    chosen = torch.tensor(_VISITED)[torch.randint(len(_VISITED), (count,))]
    anywhere = torch.randint(NUM_TIMESTEPS, (count,))
    return torch.where(torch.rand(count) < _FEW, chosen, anywhere).to(batch.clean.device)


def _predicted(model: Any, batch: Batch, noisy: Tensor, timesteps: Tensor) -> Tensor:
    size = [batch.form.height, batch.form.width]
    sizes = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32, device=noisy.device)
    with forward_pass(noisy.device):
        predicted: Tensor = model(
            noisy.to(memory_format=torch.channels_last),
            timesteps,
            batch.text,
            added_cond_kwargs={
                "text_embeds": batch.pooled,
                "time_ids": sizes.expand(len(noisy), -1),
            },
            return_dict=False,
        )[0]
    return predicted


def _mixed_up(told: Tensor, mistold: Tensor) -> Tensor:
    """What is said (n, ...), but in some rows (n,) the next one's."""
    # NOTE: the next, as ``strayed`` lets the previous one's picture show in a row's noise.
    rows = torch.arange(len(told))
    return told[torch.where(mistold, rows.roll(-1), rows).to(told.device)]


def _save(folder: Path, plain: Path | None, modules: Any) -> None:
    written = amplify(copy.deepcopy(modules[0]), 1 / LOUD)
    save_half(written, folder)
    if plain is not None:
        save_half(plain_unet(written), plain)


def main() -> None:
    """Read the command line and teach."""
    parser = command_line(__doc__, minutes=30)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=1e-2)
    parser.add_argument("--huge", type=float, default=0.25)
    parser.add_argument("--times", type=int, default=1, help="how many times larger batches")
    parser.add_argument("--guidance", type=float, help="whose pictures to draw without any")
    run(parser, _teach)


def _teach(given: argparse.Namespace) -> None:
    teach(
        given.folder,
        given.start,
        given.minutes,
        rate=given.rate,
        huge=given.huge,
        times=given.times,
        seed=given.seed,
        guidance=given.guidance,
    )


if __name__ == "__main__":
    main()
