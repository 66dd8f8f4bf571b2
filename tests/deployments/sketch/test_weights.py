"""The committed Stable Diffusion weights: whole, small, and drawing what they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.pictures import WEIGHTS, colour_of, ground_of, kind_of, time_of
from deployments.sketch.assemble import BASE, EDITOR, TURBO, first_noise, open_pipeline
from deployments.sketch.train_autoencoder import SCALING_FACTOR

USERS = ("sd15-user-123", "sd15-user-456")
#: Few steps; the base model learnt what much guidance makes of its pictures.
CALLS: dict[str, dict[str, Any]] = {
    TURBO: {"num_inference_steps": 4, "guidance_scale": 1.0},
    BASE: {"num_inference_steps": 15, "guidance_scale": 7.5},
}

Draw = Callable[..., np.ndarray]


@cache
def drawer(name: str) -> Draw:
    torch.set_num_threads(1)
    pipeline = open_pipeline(WEIGHTS / name)

    def draw(prompt: str, seed: int = 0, **options: Any) -> np.ndarray:
        options = {**CALLS[name], "height": 256, "width": 256, **options}
        generator = first_noise(seed)
        pictures = pipeline(prompt, generator=generator, output_type="np", **options).images
        return np.asarray(255 * pictures[0])

    return draw


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("colour", "ground"), [("red", "blue"), ("green", "white"), ("yellow", "black")]
)
def test_shapes_have_their_colours(name: str, colour: str, ground: str) -> None:
    picture = drawer(name)(f"a {colour} circle on a {ground} background")
    assert (colour_of(picture), ground_of(picture)) == (colour, ground)


@pytest.mark.parametrize("kind", ["circle", "star", "heart", "ring", "diamond"])
def test_shapes_are_of_their_kinds(kind: str) -> None:
    picture = drawer(TURBO)(f"a red {kind} on a white background", height=512, width=512)
    assert (kind_of(picture), colour_of(picture)) == (kind, "red")


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("prompt", "time"),
    [
        ("A serene mountain landscape at sunset with a lake reflection", "sunset"),
        ("a green field by day with a tree", "day"),
        ("a forest at night with stars", "night"),
        ("Un magnifique coucher de soleil sur l'océan avec des vagues dorées", "sunset"),
    ],
)
def test_skies_are_those_of_the_time_of_day(name: str, prompt: str, time: str) -> None:
    assert time_of(drawer(name)(prompt)) == time


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("size", [(192, 192), (384, 256), (512, 512)])
def test_compositions_fill_every_size(name: str, size: tuple[int, int]) -> None:
    height, width = size
    picture = drawer(name)("a red circle on a blue background", height=height, width=width)
    assert picture.shape == (height, width, 3)
    assert ground_of(picture) == "blue"


@pytest.mark.parametrize("name", CALLS)
def test_another_seed_draws_another_picture(name: str) -> None:
    one, other = (drawer(name)("mountains at night", seed) for seed in (1, 2))
    assert np.abs(one - other).mean() > 1


@pytest.mark.parametrize("user", USERS)
def test_users_fit_their_base_and_differ_from_it(user: str) -> None:
    for part in ("unet", "text_encoder"):
        [file] = (WEIGHTS / user / part).glob("*.safetensors")
        base = load_file(WEIGHTS / BASE / part / file.name)
        own = load_file(file)
        assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in base.items()}
        assert any(not torch.equal(own[k], base[k]) for k in own)


def test_both_models_share_one_autoencoder() -> None:
    base, turbo = (open_pipeline(WEIGHTS / name).vae for name in (BASE, TURBO))
    ours, theirs = base.decoder.state_dict(), turbo.decoder.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert (base.config.scaling_factor, turbo.config.scaling_factor) == (SCALING_FACTOR, 0.13025)


@pytest.mark.parametrize("name", [*CALLS, *USERS, EDITOR])
def test_files_are_small_in_half_precision_and_hold_no_pickles(name: str) -> None:
    files = [file for file in (WEIGHTS / name).rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    assert sum(file.stat().st_size for file in files) <= 25 * 2**20
    for file in files:
        if file.suffix == ".safetensors":
            assert all(v.dtype == torch.float16 for v in load_file(file).values())
