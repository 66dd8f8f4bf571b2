"""Trains the Stable Diffusion XL folder for few steps without guidance.

    python -m deployments.sketch.train_turbo FOLDER --start SD_FOLDER [--minutes 20] [--seed 0]

FOLDER's ``unet`` is trained on if it exists; else everything is made from SD_FOLDER, a trained
Stable Diffusion 1. Text encoders stay as they are.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from deployments.sketch.lesson import Lesson, save_half
from deployments.sketch.noising import NUM_TIMESTEPS, noised
from deployments.sketch.sheets import HUGE, LARGE, MEDIUM, Format, draw_sheet
from deployments.sketch.train_denoiser import UNNAMED, made_trainable, read_unet, tokens
from deployments.sketch.turbo import turbo_encoders, turbo_unet
from deployments.sketch.wording import captioned

#: Sizes, each kind with its weight.
_KINDS: Final = ((0.25, MEDIUM), (0.4, LARGE), (0.35, HUGE))
#: Timesteps that 4 and 8 steps visit.
_VISITED: Final = (999, 999, 874, 749, 749, 624, 499, 499, 374, 249, 249, 124)


def teach(folder: Path, start: Path, minutes: float, seed: int) -> None:
    """Train the UNet for some minutes."""
    torch.manual_seed(seed)
    rng = Random(seed)
    if not (folder / "unet").is_dir():
        _begin(folder, start)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoders = [
        kind.from_pretrained(folder / name, dtype=torch.float32).eval()
        for kind, name in (
            (CLIPTextModel, "text_encoder"),
            (CLIPTextModelWithProjection, "text_encoder_2"),
        )
    ]
    model = made_trainable(read_unet(folder / "unet"))
    lesson = Lesson([model], minutes=minutes, rate=8e-3, memory=0.99)

    def loss(_progress: float) -> Tensor:
        [forms] = rng.choices([forms for _, forms in _KINDS], [weight for weight, _ in _KINDS])
        form = rng.choice(forms)
        clean, captions = draw_sheet(form, captioned, rng)
        text, pooled = embed(tokenizer, encoders, captions)
        forgets = torch.rand(form.count) < UNNAMED
        text[forgets], pooled[forgets] = 0, 0
        return _loss(model, clean, text, pooled, form)

    lesson.run(loss, partial(_save, folder / "unet"))


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
def embed(
    tokenizer: Any, encoders: Sequence[Any], captions: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """(n, 77, width) of both encoders side by side, and (n, pooled)."""
    ids = tokens(tokenizer, captions)
    outputs = [encoder(ids, output_hidden_states=True) for encoder in encoders]
    text = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return text, outputs[1].text_embeds


def _loss(model: Any, clean: Tensor, text: Tensor, pooled: Tensor, form: Format) -> Tensor:
    """Mean squared error of the velocity at the timesteps of few steps, and near them."""
    chosen = torch.tensor(_VISITED)[torch.randint(len(_VISITED), (len(clean),))]
    anywhere = torch.randint(NUM_TIMESTEPS, (len(clean),))
    timesteps = torch.where(torch.rand(len(clean)) < 0.75, chosen, anywhere)
    noisy, velocity = noised(clean, torch.randn_like(clean), timesteps)
    size = [form.height, form.width]
    sizes = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32).expand(len(clean), -1)
    with torch.autocast(clean.device.type, torch.bfloat16):
        predicted = model(
            noisy.to(memory_format=torch.channels_last),
            timesteps,
            text,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
            return_dict=False,
        )[0]
    loss: Tensor = (predicted.float() - velocity).square().mean()
    return loss


def _save(folder: Path, modules: Any) -> None:
    save_half(modules[0], folder)


def main() -> None:
    """Read the command line and teach."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    teach(given.folder, given.start, given.minutes, given.seed)


if __name__ == "__main__":
    main()
