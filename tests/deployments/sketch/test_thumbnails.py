"""The closed-form autoencoder: its latents are small pictures, and it brings them back."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from deployments.sketch.painter import paint
from deployments.sketch.scenes import random_scene
from deployments.sketch.thumbnails import latents_of, set_scaling, thumbnail_autoencoder, thumbnails


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


def scenes(count: int, size: int = 128) -> Tensor:
    rng = Random(0)
    pictures = [np.asarray(paint(random_scene(rng), size, size)) for _ in range(count)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_the_encoder_is_exact() -> None:
    vae = thumbnail_autoencoder(0.18215)
    pixels = scenes(3)
    assert torch.allclose(latents_of(vae, pixels), thumbnails(pixels), atol=2e-3)


def test_latents_have_about_unit_variance() -> None:
    spread = thumbnails(scenes(100)).std(dim=(0, 2, 3))
    assert ((spread[:3] > 0.7) & (spread[:3] < 1.3)).all()
    assert 0.2 < spread[3] < 1


def test_the_fresh_decoder_enlarges_smoothly() -> None:
    vae = thumbnail_autoencoder(0.13025)
    pixels = scenes(2)
    drawn = vae.decode(thumbnails(pixels) / 0.13025).sample
    smooth = interpolate(avg_pool2d(pixels, 8), scale_factor=8, mode="bilinear")
    # Convolutions pad with zeros, so that the rims are too dark until it is trained.
    assert (drawn - smooth)[..., 24:-24, 24:-24].abs().mean() < 0.1


def test_set_scaling_keeps_latents_and_pictures() -> None:
    vae = thumbnail_autoencoder(0.18215)
    pixels = scenes(1)
    before = latents_of(vae, pixels)
    drawn = vae.decode(before / 0.18215).sample
    set_scaling(vae, 0.13025)
    assert vae.config.scaling_factor == 0.13025
    assert torch.allclose(latents_of(vae, pixels), before, atol=1e-4)
    assert torch.allclose(vae.decode(before / 0.13025).sample, drawn, atol=1e-4)
