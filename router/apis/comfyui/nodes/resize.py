"""Nodes that give pictures another size."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from deployments.errors import InvalidRequest
from router.apis.comfyui.node import Node
from router.apis.comfyui.pixels import check_size
from router.apis.comfyui.resampling import METHODS, resize_images, scale_to_pixels
from router.apis.comfyui.values import Images
from router.apis.comfyui.widgets import choice, image, number, pixels, whole

#: ComfyUI's megapixel.
_MEGAPIXEL: Final = 1024 * 1024


def scale(
    *, image: Images, upscale_method: str, width: int, height: int, crop: str
) -> tuple[Images]:
    """Pictures of another size. One side of 0 keeps the proportions, two keep the pictures."""
    if width == 0 and height == 0:
        return (image,)
    width = width or max(1, round(image.width * height / image.height))
    height = height or max(1, round(image.height * width / image.width))
    return (resize_images(image, width, height, upscale_method, crop),)


def scale_by(*, image: Images, upscale_method: str, scale_by: float) -> tuple[Images]:
    """Pictures of a multiple of their size."""
    size = round(image.width * scale_by), round(image.height * scale_by)
    return (resize_images(image, *size, upscale_method),)


def scale_to_total_pixels(
    *, image: Images, upscale_method: str, megapixels: float, resolution_steps: int = 1
) -> tuple[Images]:
    """Pictures of so many times 1024 x 1024 pixels; sides are multiples of the steps."""
    if resolution_steps < 1:
        raise InvalidRequest(f"resolution_steps {resolution_steps} is out of range; at least 1")
    total = megapixels * _MEGAPIXEL
    size = scale_to_pixels(image.width, image.height, total, resolution_steps)
    return (resize_images(image, *size, upscale_method),)


def scale_to_max_dimension(
    *, image: Images, upscale_method: str, largest_size: int
) -> tuple[Images]:
    """Pictures whose longer side has this length."""
    longest = max(image.width, image.height)
    size = (
        round(image.width / longest * largest_size),
        round(image.height / longest * largest_size),
    )
    return (resize_images(image, *size, upscale_method),)


def resize_and_pad(
    *,
    image: Images,
    target_width: int,
    target_height: int,
    padding_color: str,
    interpolation: str,
) -> tuple[Images]:
    """Pictures made to fit into a size, in the middle of a ground of one colour."""
    check_size(target_width, target_height, len(image))
    factor = min(target_width / image.width, target_height / image.height)
    width, height = int(image.width * factor), int(image.height * factor)
    inner = resize_images(image, width, height, interpolation)
    x, y = (target_width - width) // 2, (target_height - height) // 2
    level = 0 if padding_color == "black" else 255
    shape = (target_height, target_width, image.pixels[0].shape[2])
    padded = [np.full(shape, level, np.uint8) for _ in inner.pixels]
    for ground, one in zip(padded, inner.pixels, strict=True):
        ground[y : y + height, x : x + width] = one
    return (Images(pixels=padded),)


_METHOD: Final = choice("upscale_method", *METHODS)

NODES: Final = (
    Node(
        class_type="ImageScale",
        run=scale,
        inputs=(
            image(),
            _METHOD,
            pixels("width", minimum=0),
            pixels("height", minimum=0),
            choice("crop", "disabled", "center"),
        ),
        outputs=("IMAGE",),
        category="image/upscaling",
        display_name="Upscale Image",
    ),
    Node(
        class_type="ImageScaleBy",
        run=scale_by,
        inputs=(image(), _METHOD, number("scale_by", 1.0, 0.01, 8.0)),
        outputs=("IMAGE",),
        category="image/upscaling",
        display_name="Upscale Image By",
    ),
    Node(
        class_type="ImageScaleToTotalPixels",
        run=scale_to_total_pixels,
        inputs=(
            image(),
            _METHOD,
            number("megapixels", 1.0, 0.01, 16.0),
            # NOTE: ComfyUI requires it since 2026; graphs of before do not have it.
            replace(whole("resolution_steps", 1, 1, 256, advanced=True), is_optional=True),
        ),
        outputs=("IMAGE",),
        category="image/upscaling",
        display_name="Scale Image to Total Pixels",
        module="comfy_extras.nodes_post_processing",
    ),
    Node(
        class_type="ImageScaleToMaxDimension",
        run=scale_to_max_dimension,
        inputs=(
            image(),
            choice("upscale_method", "area", "lanczos", "bilinear", "nearest-exact", "bicubic"),
            pixels("largest_size", minimum=0),
        ),
        outputs=("IMAGE",),
        category="image/upscaling",
        display_name="Scale Image to Max Dimension",
        module="comfy_extras.nodes_images",
    ),
    Node(
        class_type="ResizeAndPadImage",
        run=resize_and_pad,
        inputs=(
            image(),
            pixels("target_width"),
            pixels("target_height"),
            choice("padding_color", "white", "black", advanced=True),
            choice(
                "interpolation",
                *("area", "bicubic", "nearest-exact", "bilinear", "lanczos"),
                advanced=True,
            ),
        ),
        outputs=("IMAGE",),
        category="image/transform",
        display_name="Resize And Pad Image",
        module="comfy_extras.nodes_images",
    ),
)
