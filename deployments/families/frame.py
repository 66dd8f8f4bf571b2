"""Frame: an input picture of which one box alone is drawn anew, and put back. Without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Left, top, right, bottom in pixels of a picture; may reach beyond its edges.
Box: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Frame:
    """The whole input picture around what is drawn.

    Attributes:
        image: the input, RGB, at its own size.
        mask: grey, of the same size; white is re-drawn.
        box: what is drawn of it.
    """

    image: Image.Image
    mask: Image.Image
    box: Box

    def inside(self) -> tuple[Image.Image, Image.Image]:
        """Image and mask in the box; beyond the edges the edge repeats, and nothing is re-drawn."""
        return _cut(self.image, self.box, "edge"), _cut(self.mask, self.box, "constant")

    def filled(self, drawn: NDArray[np.float32]) -> NDArray[np.float32]:
        """The input (height, width, 3), 0..1, with the drawn pixels of any size in its box."""
        left, top, right, bottom = self.box
        resized = _resized(drawn, (right - left, bottom - top))
        whole: NDArray[np.float32] = np.asarray(self.image, dtype=np.float32) / np.float32(255)
        x, y, end_x, end_y = _visible(self.box, self.image.size)
        new = resized[y - top : end_y - top, x - left : end_x - left]
        gray = np.asarray(self.mask.crop((x, y, end_x, end_y)), dtype=np.float32)
        share = gray[..., None] / np.float32(255)
        whole[y:end_y, x:end_x] = share * new + (1 - share) * whole[y:end_y, x:end_x]
        return whole


def redrawn_box(mask: Image.Image, padding: int, width: int, height: int) -> Box:
    """The box around all that is not black, ``padding`` wider on each side within the picture.

    It is extended to the shape of ``width`` by ``height``, beyond the picture's edges only where
    the picture is too small. An all black mask gives the whole picture's.
    """
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    left, top = max(left - padding, 0), max(top - padding, 0)
    right, bottom = min(right + padding, mask.width), min(bottom + padding, mask.height)
    longer_x = max(right - left, round((bottom - top) * width / height))
    longer_y = max(bottom - top, round((right - left) * height / width))
    left, right = _extended(left, right, longer_x, mask.width)
    top, bottom = _extended(top, bottom, longer_y, mask.height)
    return left, top, right, bottom


def _extended(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    """A range of ``length`` around start..end, moved into 0..limit, or around it if longer."""
    start -= (length - (end - start)) // 2
    start = (limit - length) // 2 if length > limit else min(max(start, 0), limit - length)
    return start, start + length


def _visible(box: Box, size: tuple[int, int]) -> Box:
    left, top, right, bottom = box
    return max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])


def _cut(image: Image.Image, box: Box, beyond: str) -> Image.Image:
    visible = _visible(box, image.size)
    margins = [
        (visible[1] - box[1], box[3] - visible[3]),
        (visible[0] - box[0], box[2] - visible[2]),
    ]
    pixels = np.asarray(image.crop(visible))
    margins += [(0, 0)] * (pixels.ndim - 2)
    return Image.fromarray(np.pad(pixels, margins, mode=beyond))  # type: ignore[call-overload]


def _resized(pixels: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Channel by channel in float32, so that NaN stays to be found."""
    if (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    channels = [
        Image.fromarray(np.ascontiguousarray(pixels[..., k])).resize(size, Image.Resampling.LANCZOS)
        for k in range(3)
    ]
    return np.stack([np.asarray(c) for c in channels], axis=-1).clip(0, 1)
