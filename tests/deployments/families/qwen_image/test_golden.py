"""Qwen-Image and Qwen-Image-Edit against the stock pipelines, picture by picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deployments import pictures
from deployments.families.base import Family
from tests.deployments.families.driver import ask, draw, inpainted, png
from tests.deployments.families.qwen_image.stock import Stock

Load = Callable[..., Family]

CHECKPOINTS = pytest.mark.parametrize("name", ["qwen", "qwen-edit"])
GUIDANCE = pytest.mark.parametrize("scale", [1.0, 4.0], ids=["unguided", "guided"])


def want(prompt: str = "a red circle on a blue background", **changes: Any) -> Any:
    """A request as Qwen's are usual, small."""
    return ask(prompt, **{"true_cfg_scale": 4.0, "strength": 1.0, **changes})


def scene(width: int = 96, height: int = 64, turn: float = 0.0) -> bytes:
    y, x = np.mgrid[0:height, 0:width]
    colours = [x / width, y / height, (x + y) / (width + height)]
    return png((np.stack(colours, axis=-1) + turn) % 1)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    assert one.std() > 10
    return float(np.abs(one - other).max())


@CHECKPOINTS
@GUIDANCE
@pytest.mark.parametrize("negative_prompt", ["", "blurry, low quality"], ids=["", "neg"])
def test_text_to_image_is_the_stock_picture(
    load_qwen: Load, stock_qwen: Stock, name: str, scale: float, negative_prompt: str
) -> None:
    request = want(width=96, true_cfg_scale=scale, negative_prompt=negative_prompt)
    [picture] = draw(load_qwen(name), request)
    assert picture.shape == (64, 96, 3)
    assert difference(picture, stock_qwen.draw("", request)) <= 0.01


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["unguided", "guided"])
@pytest.mark.parametrize("num_images", [1, 2, 3])
def test_an_edit_is_the_stock_picture(
    load_qwen: Load, stock_qwen: Stock, num_images: int, scale: float
) -> None:
    photos = (scene(), scene(64, 128, 0.3), scene(80, 80, 0.6))[:num_images]
    request = want("make the sky red", images=photos, true_cfg_scale=scale, width=80)
    [picture] = draw(load_qwen("qwen-edit"), request)
    assert difference(picture, stock_qwen.edit(request)) <= 0.01


@GUIDANCE
@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
def test_image_to_image_is_the_stock_picture(
    load_qwen: Load, stock_qwen: Stock, scale: float, strength: float
) -> None:
    request = want(images=(scene(),), strength=strength, true_cfg_scale=scale)
    image = pictures.decode_image(request.images[0])
    expected = stock_qwen.draw("Img2Img", request, image=image, strength=strength)
    assert difference(draw(load_qwen("qwen"), request)[0], expected) <= 0.01


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_inpainting_is_the_stock_picture_with_the_kept_pixels(
    load_qwen: Load, stock_qwen: Stock, mask: bytes, strength: float
) -> None:
    request = want(images=(scene(64),), mask=mask, strength=strength)
    image = pictures.decode_image(request.images[0])
    gray = pictures.decode_mask(mask, image.size)
    inputs = {"image": image, "mask_image": gray, "strength": strength}
    expected = inpainted(stock_qwen.draw("Inpaint", request, **inputs), image, gray)
    assert difference(draw(load_qwen("qwen"), request)[0], expected) <= 0.01
