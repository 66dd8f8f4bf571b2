"""Resampling: pictures and masks in another size, as torch's ``interpolate`` makes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from router.apis.comfyui.pixels import Floats, check_size, to_floats, to_pixels
from router.apis.comfyui.values import Images, Pixels

Crop: TypeAlias = Literal["disabled", "center"]
#: For each place of an axis, which places of the old axis it is made of and their weights, both
#: (places, taps).
_Taps: TypeAlias = tuple[NDArray[np.intp], Floats]

#: ``upscale_method`` of ComfyUI's nodes for pictures.
METHODS: Final = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
#: The slope of torch's bicubic kernel.
_SLOPE: Final = -0.75


def resize_images(
    images: Images, width: int, height: int, method: str, crop: str = "disabled"
) -> Images:
    """Pictures of another size; with ``crop`` "center" in their own proportions, edges cut off.

    Raises ``InvalidRequest`` when they would be too large.
    """
    check_size(width, height, len(images))
    return Images(
        pixels=tuple(_resize_one(one, width, height, method, crop) for one in images.pixels)
    )


def resize(values: Floats, width: int, height: int, method: str = "bilinear") -> Floats:
    """An array (height, width, ...) with these two axes resized by a method other than lanczos."""
    old_height, old_width = values.shape[:2]
    if _is_columns_first(old_width, old_height, width, height):
        turned = resize(np.swapaxes(values, 0, 1), height, width, method)
        return np.swapaxes(turned, 0, 1)
    rows = _apply(values, _TAPS[method](old_height, height))
    columns = _apply(np.swapaxes(rows, 0, 1), _TAPS[method](old_width, width))
    return np.swapaxes(columns, 0, 1)


def resize_masks(masks: Floats, width: int, height: int) -> Floats:
    """Masks (count, height, width), bilinear."""
    if masks.shape[1:] == (height, width):
        return masks
    check_size(width, height, len(masks))
    return np.stack([resize(mask, width, height) for mask in masks])


def crop_to_shape(pixels: Pixels, width: int, height: int) -> Pixels:
    """The middle of a picture that has the proportions of a size."""
    old_height, old_width = pixels.shape[:2]
    old, new = old_width / old_height, width / height
    x = round((old_width - old_width * (new / old)) / 2) if old > new else 0
    y = round((old_height - old_height * (old / new)) / 2) if old < new else 0
    x, y = min(x, (old_width - 1) // 2), min(y, (old_height - 1) // 2)  # at least a pixel is left
    return pixels[y : old_height - y, x : old_width - x]


def _resize_one(pixels: Pixels, width: int, height: int, method: str, crop: str) -> Pixels:
    if crop == "center":
        pixels = crop_to_shape(pixels, width, height)
    if pixels.shape[:2] == (height, width):
        return pixels
    if method == "lanczos":
        return _resize_lanczos(pixels, width, height)
    return to_pixels(resize(to_floats(pixels), width, height, method))


def _resize_lanczos(pixels: Pixels, width: int, height: int) -> Pixels:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if not _is_columns_first(*image.size, width, height):  # else Pillow begins with the columns
        image = image.resize((image.width, height), Image.Resampling.LANCZOS)
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def _is_columns_first(old_width: int, old_height: int, width: int, height: int) -> bool:
    """Which axis to resize first, so that what lies between is no larger than what comes of it or
    went into it: a strip of 16384 x 1 that becomes one of 1 x 16384 is never a square."""
    return width * old_height < old_width * height


def _apply(values: Floats, taps: _Taps) -> Floats:
    """The first axis replaced by weighted sums of its places."""
    places, weights = taps
    total = np.zeros((len(places), *values.shape[1:]), np.float32)
    shape = (-1, *[1] * (values.ndim - 1))
    for tap in range(places.shape[1]):
        total += values[places[:, tap]] * weights[:, tap].reshape(shape)
    return total


def _centres(old: int, new: int) -> NDArray[np.float64]:
    return (np.arange(new, dtype=np.float64) + 0.5) * (old / new) - 0.5


def _nearest(old: int, new: int) -> _Taps:
    places = np.floor((np.arange(new) + 0.5) * (old / new)).astype(np.intp)
    return np.minimum(places, old - 1)[:, None], np.ones((new, 1), np.float32)


def _bilinear(old: int, new: int) -> _Taps:
    centres = np.maximum(_centres(old, new), 0)
    first = np.minimum(centres.astype(np.intp), old - 1)
    share = (centres - first).astype(np.float32)
    places = np.stack([first, np.minimum(first + 1, old - 1)], axis=1)
    return places, np.stack([1 - share, share], axis=1)


def _bicubic(old: int, new: int) -> _Taps:
    centres = _centres(old, new)
    first = np.floor(centres)
    share = centres - first
    places = first[:, None].astype(np.intp) + np.arange(-1, 3)
    distances = np.stack([share + 1, share, 1 - share, 2 - share], axis=1)
    return np.clip(places, 0, old - 1), _cubic(distances).astype(np.float32)


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The kernel of cubic convolution (Keys 1981) at distances 0..2."""
    near = ((_SLOPE + 2) * distance - (_SLOPE + 3)) * distance * distance + 1
    far = ((_SLOPE * distance - 5 * _SLOPE) * distance + 8 * _SLOPE) * distance - 4 * _SLOPE
    kernel: NDArray[np.float64] = np.where(distance <= 1, near, far)
    return kernel


def _area(old: int, new: int) -> _Taps:
    """The plain mean of all places that a new one touches, as adaptive pooling takes it."""
    index = np.arange(new)
    starts = index * old // new
    ends = -(-(index + 1) * old // new)
    places = starts[:, None] + np.arange(int((ends - starts).max()))
    is_inside = places < ends[:, None]
    weights = is_inside / (ends - starts)[:, None]
    return np.where(is_inside, places, 0), weights.astype(np.float32)


_TAPS: Final[Mapping[str, Callable[[int, int], _Taps]]] = {
    "nearest-exact": _nearest,
    "bilinear": _bilinear,
    "area": _area,
    "bicubic": _bicubic,
}


def scale_to_pixels(width: int, height: int, total: float, multiple: int = 1) -> tuple[int, int]:
    """A size of about ``total`` pixels in the same proportions, in multiples."""
    scale = math.sqrt(total / (width * height))
    return round(width * scale / multiple) * multiple, round(height * scale / multiple) * multiple
