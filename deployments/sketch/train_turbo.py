"""Trains the Stable Diffusion XL folder for few steps without guidance, and its plain sister.

    python -m deployments.sketch.train_turbo FOLDER --start SD_FOLDER [--minutes 30] [--seed 0]
                                                    [--rate 0.01] [--huge 0.25] [--times 1]

FOLDER's ``unet`` is trained on if it exists; else everything is made from SD_FOLDER, a trained
Stable Diffusion 1. Text encoders stay as they are. A share of the pictures is drawn without pooled
text and sizes, so that SD_FOLDER's ``unet`` can be taken from it again: one training for both.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import layer_norm
from transformers import CLIPTextModel, CLIPTokenizer

from deployments.sketch.command import command_line, read
from deployments.sketch.lesson import Lesson, pick_device, reduced_precision, save_half
from deployments.sketch.noising import NUM_TIMESTEPS, noised_astray
from deployments.sketch.sheets import HUGE, LARGE, MEDIUM, SMALL, TINY, Format, draw_sheet
from deployments.sketch.train_denoiser import (
    UNNAMED,
    made_trainable,
    read_unet,
    tokens,
    velocity_loss,
)
from deployments.sketch.turbo import (
    LOUD,
    amplify,
    beside_silence,
    plain_unet,
    turbo_encoders,
    turbo_unet,
)
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


def teach(
    folder: Path, start: Path, minutes: float, *, rate: float, huge: float, times: int, seed: int
) -> None:
    """Train the UNet for some minutes; ``huge`` is the largest sizes' share of the second half."""
    torch.manual_seed(seed)
    rng = Random(seed)
    if not (folder / "unet").is_dir():
        _begin(folder, start)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32)
    encoder.eval().to(pick_device())
    # NOTE: trained on text as loud as all else, since a step is as large for small weights.
    model = made_trainable(amplify(read_unet(folder / "unet"), LOUD))
    lesson = Lesson([model], minutes=minutes, rate=rate, memory=0.995)
    conditions = Conditions(model)

    def loss(progress: float) -> Tensor:
        form = _pick_format(rng, huge if progress > 0.5 else 0.0)
        clean, captions = draw_sheet(form, captioned, rng, times)
        clean = clean.to(model.device)
        text, pooled = embed(tokenizer, encoder, captions)
        forgets = torch.rand(len(clean)) < UNNAMED
        text[forgets], pooled[forgets] = 0, 0
        conditions.is_told = torch.rand(len(clean)) >= _PLAIN
        return _loss(model, clean, text, pooled, form)

    lesson.run(loss, partial(_save, folder / "unet", start / "unet"))


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


def _begin(folder: Path, start: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(start / "tokenizer")
    trained = CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32)
    first, second = turbo_encoders(tokenizer, trained)
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer.save_pretrained(folder / name)
    save_half(first, folder / "text_encoder")
    save_half(second, folder / "text_encoder_2")
    save_half(turbo_unet(read_unet(start / "unet")), folder / "unet")


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


def _loss(model: Any, clean: Tensor, text: Tensor, pooled: Tensor, form: Format) -> Tensor:
    """Error of the velocity at the timesteps of few steps, and at any."""
    chosen = torch.tensor(_VISITED)[torch.randint(len(_VISITED), (len(clean),))]
    anywhere = torch.randint(NUM_TIMESTEPS, (len(clean),))
    timesteps = torch.where(torch.rand(len(clean)) < _FEW, chosen, anywhere)
    mistold = (timesteps < _SETTLED) & (torch.rand(len(clean)) < _MISTOLD)
    text, pooled = (_mixed_up(told, mistold) for told in (text, pooled))
    timesteps = timesteps.to(clean.device)
    noisy, velocity = noised_astray(clean, timesteps)
    size = [form.height, form.width]
    sizes = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32, device=clean.device)
    with reduced_precision(clean.device):
        predicted = model(
            noisy.to(memory_format=torch.channels_last),
            timesteps,
            text,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes.expand(len(clean), -1)},
            return_dict=False,
        )[0]
    return velocity_loss(predicted, velocity, clean)


def _mixed_up(told: Tensor, mistold: Tensor) -> Tensor:
    """What is said (n, ...), but in some rows (n,) the next one's."""
    # NOTE: the next, as ``strayed`` lets the previous one's picture show in a row's noise.
    rows = torch.arange(len(told))
    return told[torch.where(mistold, rows.roll(-1), rows).to(told.device)]


def _save(folder: Path, plain: Path, modules: Any) -> None:
    written = amplify(copy.deepcopy(modules[0]), 1 / LOUD)
    save_half(written, folder)
    save_half(plain_unet(written), plain)


def main() -> None:
    """Read the command line and teach."""
    parser = command_line(__doc__, minutes=30)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=1e-2)
    parser.add_argument("--huge", type=float, default=0.25)
    parser.add_argument("--times", type=int, default=1, help="how many times larger batches")
    given = read(parser)
    teach(
        given.folder,
        given.start,
        given.minutes,
        rate=given.rate,
        huge=given.huge,
        times=given.times,
        seed=given.seed,
    )


if __name__ == "__main__":
    main()
