"""Trains the decoder that the embedded models share, or that of the one that edits.

    python -m deployments.sketch.train_autoencoder FOLDER [--minutes 15] [--seed 0]

FOLDER is an ``AutoencoderKL`` of ours, begun in closed form if it does not exist, or an
``AutoencoderKLQwenImage`` that ``begin_qwen`` has written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d
from torch import Tensor
from torch.nn.functional import l1_loss

from deployments.families.qwen_image_autoencoder import see_still
from deployments.sketch.command import command_line, read
from deployments.sketch.lesson import Lesson, pick_device, save_first
from deployments.sketch.painter import paint
from deployments.sketch.qwen_thumbnails import qwen_latents
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
    vae = _read(folder)
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    vae.to(pick_device())
    decode = _decode
    if isinstance(vae, AutoencoderKLQwenImage):
        decode = _decode_video
        _see_stills(vae)
    else:
        vae.to(memory_format=torch.channels_last)
    lesson = Lesson([vae], minutes=minutes, rate=8e-3, memory=0.99)
    lesson.run(lambda _progress: _loss(vae, decode, rng), partial(save_first, folder))


def _read(folder: Path) -> Any:
    config = folder / "config.json"
    if not config.is_file():
        return thumbnail_autoencoder(SCALING_FACTOR)
    kind = AutoencoderKL
    if json.loads(config.read_text())["_class_name"] == AutoencoderKLQwenImage.__name__:
        kind = AutoencoderKLQwenImage
    return kind.from_pretrained(folder, torch_dtype=torch.float32)


def _decode(vae: Any, latents: Tensor) -> Tensor:
    pixels: Tensor = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
    return pixels


def _decode_video(vae: Any, latents: Tensor) -> Tensor:
    """Of single frames; empty channels are empty here, and are never looked at."""
    frames = qwen_latents(latents, vae.config.z_dim)[:, :, None]
    pixels: Tensor = vae.decoder(vae.post_quant_conv(frames))[:, :, 0]
    return pixels


def _see_stills(vae: Any) -> None:
    """As ``qwen_image_autoencoder.see_stills``, but that all weights stay, to be written again."""
    for conv in vae.modules():
        if isinstance(conv, QwenImageCausalConv3d):
            conv.forward = partial(_see_newest, conv)


def _see_newest(conv: Any, frames: Tensor, _cache: None = None) -> Tensor:
    return see_still(conv, conv.weight[:, :, -1], frames)


def _loss(vae: Any, decode: Callable[[Any, Tensor], Tensor], rng: Random) -> Tensor:
    """Mean distance to smooth pictures of what latents with a little noise are decoded to."""
    (width, height), count = rng.choice(_SIZES)
    pictures = [_picture(rng, width, height) for _ in range(count)]
    pixels = torch.stack(pictures).to(vae.device)
    latents = thumbnails(pixels)
    spread = torch.rand(count, 1, 1, 1, device=vae.device).square() * 0.12
    latents = latents + torch.randn_like(latents) * spread
    drawn = decode(vae, latents)
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
    given = read(command_line(__doc__, minutes=15))
    teach(given.folder, given.minutes, given.seed)


if __name__ == "__main__":
    main()
