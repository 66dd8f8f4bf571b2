"""Arithmetic on pictures: pixels as floats in 0..1, rounded once, within a limit of size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deployments.errors import InvalidRequest
from router.apis.comfyui.values import MAX_BATCH, Images, Pixels

#: A picture, (height, width, channels), or masks; 0..1 where nothing else is said.
Floats: TypeAlias = NDArray[np.float32]

#: The most pixels, of all pictures together, that one node may ask for.
MAX_PIXELS: Final = 2**26


def check_size(width: int, height: int, count: int = 1) -> None:
    """Raise ``InvalidRequest`` for pictures without pixels, with too many, or too many pictures."""
    if width < 1 or height < 1 or count < 1:
        raise InvalidRequest(f"{count} x {width} x {height} pixels are none")
    if count > MAX_BATCH:
        raise InvalidRequest(f"{count} pictures are too many; accepted: at most {MAX_BATCH}")
    if width * height * count > MAX_PIXELS:
        raise InvalidRequest(
            f"{count} x {width} x {height} are too many pixels; accepted: at most {MAX_PIXELS}"
        )


def to_floats(pixels: Pixels) -> Floats:
    """0..255 to 0..1."""
    return pixels.astype(np.float32) / np.float32(255)


def to_pixels(values: Floats) -> Pixels:
    """0..1, and what lies beyond cut off, to 0..255, rounded."""
    scaled: Pixels = np.rint(np.clip(values, 0, 1) * np.float32(255)).astype(np.uint8)
    return scaled


def change(images: Images, function: Callable[[Floats], Floats]) -> Images:
    """Pictures of which each went through a function on floats."""
    return Images(pixels=tuple(to_pixels(function(to_floats(one))) for one in images.pixels))


def change_colours(images: Images, function: Callable[[Floats], Floats]) -> Images:
    """The same, with the alpha that a picture has left as it is."""
    return Images(pixels=tuple(_change_colours(one, function) for one in images.pixels))


def rearrange(images: Images, function: Callable[[Pixels], Pixels]) -> Images:
    """Pictures of which each had its pixels moved, none of them changed."""
    return Images(pixels=tuple(np.ascontiguousarray(function(one)) for one in images.pixels))


def with_alpha(pixels: Pixels) -> Pixels:
    """The picture with alpha, opaque if it had none."""
    if pixels.shape[2] == 4:
        return pixels
    return np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=2)


def _change_colours(pixels: Pixels, function: Callable[[Floats], Floats]) -> Pixels:
    changed = to_pixels(function(to_floats(pixels[..., :3])))
    return np.concatenate([changed, pixels[..., 3:]], axis=2)
