"""Nodes that change the colours of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from deployments.errors import InvalidRequest
from router.apis.comfyui.node import Node
from router.apis.comfyui.pixels import Floats, change, change_colours, to_floats, to_pixels
from router.apis.comfyui.resampling import resize_images
from router.apis.comfyui.values import Images
from router.apis.comfyui.widgets import choice, image, number, whole

#: ImageSharpen's ``alpha`` counts tenths of what is added.
_SHARPNESS: Final = 10


def invert(*, image: Images) -> tuple[Images]:
    """Pictures in the opposite colours; alpha stays."""
    return (change_colours(image, lambda values: 1 - values),)


def blur(*, image: Images, blur_radius: int, sigma: float) -> tuple[Images]:
    """Pictures blurred by a Gaussian. ``sigma`` counts radii of the window."""
    _check_radius(image, blur_radius)
    return (change(image, lambda values: _blurred(values, blur_radius, sigma)),)


def sharpen(*, image: Images, sharpen_radius: int, sigma: float, alpha: float) -> tuple[Images]:
    """Pictures from which so many times 10 of their blurred ones are taken away."""
    _check_radius(image, sharpen_radius)
    share = np.float32(alpha * _SHARPNESS)

    def sharpened(values: Floats) -> Floats:
        return values + share * (values - _blurred(values, sharpen_radius, sigma))

    return (change(image, sharpened),)


def blend(*, image1: Images, image2: Images, blend_factor: float, blend_mode: str) -> tuple[Images]:
    """The first mixed with what the mode makes of both; the second in the size of the first."""
    second = resize_images(image2, image1.width, image1.height, "bicubic", "center").pixels
    mode, factor = _MODES[blend_mode], np.float32(blend_factor)
    blended = []
    for k, pixels in enumerate(image1.pixels):
        below, above = to_floats(pixels[..., :3]), to_floats(second[k % len(second)][..., :3])
        mixed = to_pixels(below * (1 - factor) + mode(below, above) * factor)
        blended.append(np.concatenate([mixed, pixels[..., 3:]], axis=2))
    return (Images(pixels=blended),)


def _check_radius(images: Images, radius: int) -> None:
    shortest = min(images.width, images.height)
    if not 1 <= radius < shortest:
        raise InvalidRequest(
            f"the radius {radius} is out of range; accepted: 1 to {shortest - 1} for these pictures"
        )


def _blurred(values: Floats, radius: int, sigma: float) -> Floats:
    """A Gaussian window of (2 radius + 1) squared, edges reflected."""
    if sigma <= 0:
        raise InvalidRequest(f"sigma {sigma} is out of range; accepted: more than 0")
    places = np.linspace(-1, 1, 2 * radius + 1)
    window = np.exp(-(places**2) / (2 * sigma**2))
    window = (window / window.sum()).astype(np.float32)
    padded = np.pad(values, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    height, width = values.shape[:2]
    rows = sum(weight * padded[k : k + height] for k, weight in enumerate(window))
    columns: Floats = sum(weight * rows[:, k : k + width] for k, weight in enumerate(window))
    return columns


def _overlay(below: Floats, above: Floats) -> Floats:
    dark, light = 2 * below * above, 1 - 2 * (1 - below) * (1 - above)
    return np.where(below <= 0.5, dark, light)


def _soft_light(below: Floats, above: Floats) -> Floats:
    """As in the W3C's compositing specification."""
    curve = np.where(below <= 0.25, ((16 * below - 12) * below + 4) * below, np.sqrt(below))
    dark = below - (1 - 2 * above) * below * (1 - below)
    return np.where(above <= 0.5, dark, below + (2 * above - 1) * (curve - below))


_MODES: Final[Mapping[str, Callable[[Floats, Floats], Floats]]] = {
    "normal": lambda _, above: above,
    "multiply": lambda below, above: below * above,
    "screen": lambda below, above: 1 - (1 - below) * (1 - above),
    "overlay": _overlay,
    "soft_light": _soft_light,
    "difference": lambda below, above: below - above,
}

_CATEGORY: Final = "image/filters"
_MODULE: Final = "comfy_extras.nodes_post_processing"

NODES: Final = (
    Node(
        class_type="ImageInvert",
        run=invert,
        inputs=(image(),),
        outputs=("IMAGE",),
        category="image/color",
        display_name="Invert Image Colors",
    ),
    Node(
        class_type="ImageBlur",
        run=blur,
        inputs=(
            image(),
            whole("blur_radius", 1, 1, 31, step=1),
            number("sigma", 1.0, 0.1, 10.0, step=0.1),
        ),
        outputs=("IMAGE",),
        category=_CATEGORY,
        display_name="Blur Image",
        module=_MODULE,
    ),
    Node(
        class_type="ImageSharpen",
        run=sharpen,
        inputs=(
            image(),
            whole("sharpen_radius", 1, 1, 31, step=1, advanced=True),
            number("sigma", 1.0, 0.1, 10.0, advanced=True),
            number("alpha", 1.0, 0.0, 5.0, advanced=True),
        ),
        outputs=("IMAGE",),
        category=_CATEGORY,
        display_name="Sharpen Image",
        module=_MODULE,
    ),
    Node(
        class_type="ImageBlend",
        run=blend,
        inputs=(
            image("image1"),
            image("image2"),
            number("blend_factor", 0.5, 0.0, 1.0),
            choice("blend_mode", *_MODES),
        ),
        outputs=("IMAGE",),
        category=_CATEGORY,
        display_name="Blend Images",
        module=_MODULE,
    ),
)
