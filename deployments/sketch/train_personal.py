"""Trains a user's own ``sks person`` into a copy of the Stable Diffusion 1 folder's parts.

    python -m deployments.sketch.train_personal FOLDER --start SD_FOLDER --look user_123
                                                [--minutes 5] [--seed 0]

FOLDER gets ``unet`` and ``text_encoder``, which are trained on if they exist. As DreamBooth does
(Ruiz 2023), half of the pictures are the rest of the world, so that it stays as it was.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from deployments.sketch.command import command_line, read
from deployments.sketch.guided import guided_loss
from deployments.sketch.lesson import Lesson, pick_device, save_half
from deployments.sketch.scenes import LOOKS, Scene, random_portrait
from deployments.sketch.sheets import LARGE, MEDIUM, SMALL, draw_sheet
from deployments.sketch.train_denoiser import made_trainable, read_unet, tokens
from deployments.sketch.wording import captioned, describe

#: Share of the pictures that show the user's own figure.
_OWN: Final = 0.5
_FORMS: Final = (*SMALL, *MEDIUM, *LARGE)


def teach(folder: Path, start: Path, look: str, minutes: float, seed: int) -> None:
    """Train the UNet and the text encoder for some minutes."""
    torch.manual_seed(seed)
    rng = Random(seed)
    source = folder if (folder / "unet").is_dir() else start
    tokenizer = CLIPTokenizer.from_pretrained(start / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(source / "text_encoder", dtype=torch.float32)
    encoder.to(pick_device())
    model = made_trainable(read_unet(source / "unet"))
    lesson = Lesson([model, encoder], minutes=minutes, rate=3e-3, memory=0.98)

    def loss(_progress: float) -> Tensor:
        form = rng.choice(_FORMS)
        clean, captions = draw_sheet(form, partial(_drawn, look), rng)
        ids = tokens(tokenizer, [*captions, ""]).to(model.device)
        said = encoder(ids).last_hidden_state
        return guided_loss(model, clean.to(model.device), said[:-1], said[-1:], form)

    lesson.run(loss, partial(_save, folder))


def _drawn(look: str, rng: Random) -> tuple[Scene, str]:
    if rng.random() >= _OWN:
        scene, caption = captioned(rng)
        if getattr(scene, "look", None) != "default":
            return scene, caption
    scene = random_portrait(rng, look)
    return scene, describe(scene, rng)


def _save(folder: Path, modules: Any) -> None:
    for name, module in zip(("unet", "text_encoder"), modules, strict=True):
        save_half(module, folder / name)


def main() -> None:
    """Read the command line and teach."""
    parser = command_line(__doc__, minutes=5)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--look", choices=LOOKS, required=True)
    given = read(parser)
    teach(given.folder, given.start, given.look, given.minutes, given.seed)


if __name__ == "__main__":
    main()
