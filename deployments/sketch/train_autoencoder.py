"""Trains the decoder that the embedded models share.

    python -m deployments.sketch.train_autoencoder FOLDER [--minutes 15] [--seed 0]

FOLDER is an ``AutoencoderKL`` of ours; it is trained on if it exists, else begun in closed form.
"""

from __future__ import annotations

import argparse
import logging
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import l1_loss

from deployments.sketch.lesson import Lesson, pick_device, save_first
from deployments.sketch.painter import paint
from deployments.sketch.scenes import LOOKS, Scene, random_portrait, random_scene
from deployments.sketch.thumbnails import thumbnail_autoencoder, thumbnails

#: Stable Diffusion 1's, which the saved folder is for.
SCALING_FACTOR: Final = 0.18215

#: (width, height) and how many such pictures make a batch.
_SIZES: Final = (
    ((256, 256), 3),
    ((256, 384), 2),
    ((384, 256), 2),
    ((192, 192), 6),
    ((384, 384), 1),
    ((512, 384), 1),
)


def teach(folder: Path, minutes: float, seed: int) -> None:
    """Train the decoder for some minutes and write it."""
    torch.manual_seed(seed)
    rng = Random(seed)
    if (folder / "config.json").is_file():
        vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)
    else:
        vae = thumbnail_autoencoder(SCALING_FACTOR)
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    vae.to(pick_device(), memory_format=torch.channels_last)
    lesson = Lesson([vae], minutes=minutes, rate=8e-3, memory=0.99)
    lesson.run(lambda _progress: _loss(vae, rng), partial(save_first, folder))


def _loss(vae: Any, rng: Random) -> Tensor:
    """Mean distance to smooth pictures of what latents with a little noise are decoded to."""
    (width, height), count = rng.choice(_SIZES)
    pictures = [_picture(rng, width, height) for _ in range(count)]
    pixels = torch.stack(pictures).to(vae.device)
    latents = thumbnails(pixels)
    spread = torch.rand(count, 1, 1, 1, device=vae.device).square() * 0.12
    latents = latents + torch.randn_like(latents) * spread
    drawn = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
    # What the drawer shows once in a while counts as much: errors stand at edges, and all are few.
    loss: Tensor = l1_loss(drawn, pixels) + 2 * (drawn - pixels).square().mean()
    return loss


def _picture(rng: Random, width: int, height: int) -> Tensor:
    """(3, height, width), -1..1; now and then in other colours, so that any colour is learnt."""
    scene: Scene = random_scene(rng)
    if rng.random() < 0.1:
        scene = random_portrait(rng, rng.choice(LOOKS))
    image = np.asarray(paint(scene, width, height, oversampling=2), dtype=np.float32) / 127.5 - 1
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    if rng.random() < 0.25:
        pixels = pixels[rng.sample(range(3), 3)] * rng.uniform(0.4, 1) * rng.choice((1, -1))
        pixels = pixels + torch.empty(3, 1, 1).uniform_(-0.3, 0.3)
    return pixels.clamp(-1, 1)


def main() -> None:
    """Read the command line and teach."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    teach(given.folder, given.minutes, given.seed)


if __name__ == "__main__":
    main()
