"""The fake family does with latents, parts and masks what a family must."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deployments.errors import InvalidRequest
from deployments.families.fake import FakeFamily
from deployments.types import GenerationRequest, Latents, PromptPart
from tests.deployments.families.test_fake import family, png, request, run

ZEROS = Latents(num_images=1, width=64, height=48)


def of(value: np.ndarray) -> Latents:
    n, _, height, width = value.shape
    return Latents(num_images=n, width=width * 8, height=height * 8, value=value, family="fake")


def some(colour: float = 0.3) -> np.ndarray:
    return np.full((1, 3, 6, 8), colour, np.float32)


def latents_of(asked: GenerationRequest) -> np.ndarray:
    fake: FakeFamily = family()
    states = fake.encode(asked, fake.load_weights(None))
    run(fake, states)
    return np.stack([fake.latents(state) for state in states])


def differ(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


def test_a_picture_comes_back_from_its_latents() -> None:
    encoded = latents_of(request("", task="encode", images=(png((200, 100, 0)), png(0))))
    assert encoded.shape == (2, 3, 6, 8)
    fake = family()
    decode = request("", task="decode", latents=of(encoded), num_images=2)
    first, second = run(fake, fake.encode(decode, fake.load_weights(None)))
    assert np.allclose(first, np.array([200, 100, 0]) / 255, atol=1e-3)
    assert not second.any()


def test_two_halves_are_a_whole() -> None:
    steps = {"num_inference_steps": 10, "latents": ZEROS}
    whole = latents_of(request(**steps))
    first = latents_of(request(last_step=4, keeps_noise=True, **steps))
    rest = request(num_inference_steps=10, first_step=4, adds_noise=False, latents=of(first))
    assert differ(first, whole) > 0.01
    assert np.allclose(latents_of(rest), whole, atol=1e-6)


def test_the_change_grows_with_the_part_that_is_walked() -> None:
    parts = [
        latents_of(request(num_inference_steps=20, first_step=first, latents=of(some())))
        for first in (20, 19, 10, 0)
    ]
    changes = [differ(part, some()) for part in parts]
    assert changes[0] == 0
    assert changes == sorted(changes)
    assert 0 < changes[1] < changes[3] / 3


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"prompt": "a dog"},
        {"latents": of(some(0.9))},
        {"parts": (PromptPart(text="a cat"), PromptPart(text="a dog"))},
        {"parts": (PromptPart(text="a cat", is_zeroed=True),)},
        {"negative_parts": (PromptPart(text="red"),)},
        {"last_step": 3, "keeps_noise": True},
        {"adds_noise": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_is_asked_shows(change: dict[str, Any]) -> None:
    asked = {"prompt": "a cat", "latents": of(some()), "num_inference_steps": 4, "first_step": 2}
    assert differ(latents_of(request(**asked)), latents_of(request(**asked | change))) > 1e-4
    assert differ(latents_of(request(**asked)), latents_of(request(**asked))) == 0


def test_a_mask_keeps_what_is_black() -> None:
    white_right = np.zeros((48, 64), np.uint8)
    white_right[:, 32:] = 255
    file = io.BytesIO()
    Image.fromarray(white_right).save(file, "png")
    found = latents_of(request(latents=of(some()), mask=file.getvalue()))
    assert np.allclose(found[..., :3], 0.3, atol=1e-6)
    assert differ(found[..., 5:], some()[..., 5:]) > 0.05


def test_latents_of_another_shape_are_refused() -> None:
    asked = Latents(num_images=2, width=64, height=48, value=some(), family="fake")
    with pytest.raises(InvalidRequest, match=r"shape \(1, 3, 6, 8\); .* \(2, 3, 6, 8\)"):
        latents_of(request(latents=asked, num_images=2))
