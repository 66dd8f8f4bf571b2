"""Nodes that make pictures, cut and turn them, and put them into batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from router.apis.comfyui import widgets
from router.apis.comfyui.node import Node
from router.apis.comfyui.pixels import check_size, rearrange, with_alpha
from router.apis.comfyui.resampling import resize_images
from router.apis.comfyui.values import Images, Pixels, Several
from router.apis.comfyui.widgets import MAX_COUNT, MAX_SIDE, choice, count, flag, whole


def empty_image(*, width: int, height: int, batch_size: int = 1, color: int = 0) -> tuple[Images]:
    """Pictures of one colour, 0xRRGGBB."""
    check_size(width, height, batch_size)
    colour = np.array([color >> 16 & 255, color >> 8 & 255, color & 255], np.uint8)
    return (Images(pixels=(np.full((height, width, 3), colour),) * batch_size),)


def crop(*, image: Images, width: int, height: int, x: int, y: int) -> tuple[Images]:
    """A part of each picture: at least a pixel of it, and nothing beyond its edges."""
    x, y = min(max(x, 0), image.width - 1), min(max(y, 0), image.height - 1)
    width, height = max(width, 1), max(height, 1)
    return (rearrange(image, lambda pixels: pixels[y : y + height, x : x + width]),)


def flip(*, image: Images, flip_method: str) -> tuple[Images]:
    """Pictures upside down (x-axis) or mirrored (y-axis)."""
    axis = 0 if flip_method.startswith("x") else 1
    return (rearrange(image, lambda pixels: np.flip(pixels, axis)),)


def rotate(*, image: Images, rotation: str) -> tuple[Images]:
    """Pictures turned clockwise."""
    turns = {"90": 1, "18": 2, "27": 3}.get(rotation[:2], 0)
    return (rearrange(image, lambda pixels: np.rot90(pixels, turns, axes=(1, 0))),)


def batch(*, image1: Images, image2: Images) -> tuple[Images]:
    """Both, the second in the size of the first, its edges cut off."""
    second = resize_images(image2, image1.width, image1.height, "bilinear", "center")
    pixels = [*image1.pixels, *second.pixels]
    check_size(image1.width, image1.height, len(pixels))
    if any(one.shape[2] == 4 for one in pixels):
        pixels = [with_alpha(one) for one in pixels]
    return (Images(pixels=pixels),)


def stitch(
    *,
    image1: Images,
    direction: str,
    match_image_size: bool,
    spacing_width: int,
    spacing_color: str,
    image2: Images | None = None,
) -> tuple[Images]:
    """The second beside the first, to its right, left, bottom or top; the first alone without it.

    The second gets the first's height or width, or the smaller of both is padded. A batch that is
    too short repeats its last picture. An odd spacing is one wider.
    """
    if image2 is None:
        return (image1,)
    is_beside = direction in {"left", "right"}
    if match_image_size:
        image2 = resize_images(image2, *_beside(image1, image2, is_beside=is_beside), "lanczos")
    ground, spacing = _COLOURS[spacing_color], max(spacing_width, 0) + max(spacing_width, 0) % 2
    width, height = max(image1.width, image2.width), max(image1.height, image2.height)
    if is_beside:
        width = image1.width + spacing + image2.width
    else:
        height = image1.height + spacing + image2.height
    num_images = max(len(image1), len(image2))
    check_size(width, height, num_images)
    stitched = []
    for k in range(num_images):
        pair = [with_alpha(one.pixels[min(k, len(one) - 1)]) for one in (image1, image2)]
        canvas = np.full((height, width, 4), (*ground, 255), np.uint8)
        _stitch(canvas, pair if direction in {"right", "down"} else pair[::-1], is_beside=is_beside)
        stitched.append(canvas)
    if all(one.shape[2] == 3 for one in (*image1.pixels, *image2.pixels)):
        stitched = [np.ascontiguousarray(canvas[..., :3]) for canvas in stitched]
    return (Images(pixels=stitched),)


def _beside(first: Images, second: Images, *, is_beside: bool) -> tuple[int, int]:
    shape = second.width / second.height
    if is_beside:
        return int(first.height * shape), first.height
    return first.width, int(first.width / shape)


def _stitch(canvas: Pixels, pair: Sequence[Pixels], *, is_beside: bool) -> None:
    """Lay one picture at the start of the canvas and one at its end, in the middle across."""
    for pixels, is_last in zip(pair, (False, True), strict=True):
        height, width = pixels.shape[:2]
        spare_y, spare_x = canvas.shape[0] - height, canvas.shape[1] - width
        y = spare_y // 2 if is_beside else spare_y * is_last
        x = spare_x * is_last if is_beside else spare_x // 2
        canvas[y : y + height, x : x + width] = pixels


def rebatch(*, images: tuple[Images, ...], batch_size: tuple[int, ...]) -> tuple[Several]:
    """All pictures anew in batches of a size: a list of them, each taken by itself from here."""
    pixels = [one for value in images for one in value.pixels]
    size = max(batch_size[0], 1)
    starts = range(0, len(pixels), size)
    return (Several(values=tuple(Images(pixels=pixels[at : at + size]) for at in starts)),)


def from_batch(*, image: Images, batch_index: int, length: int) -> tuple[Images]:
    """Some pictures of a batch; a negative index counts from its end."""
    count = len(image)
    start = max(0, min(count - 1, batch_index + count if batch_index < 0 else batch_index))
    return (Images(pixels=image.pixels[start : start + max(length, 1)]),)


def repeat_batch(*, image: Images, amount: int) -> tuple[Images]:
    """A batch several times over."""
    check_size(image.width, image.height, len(image) * amount)
    return (Images(pixels=image.pixels * amount),)


def get_size(*, image: Images) -> tuple[int, int, int]:
    """Width, height and number of pictures."""
    return image.width, image.height, len(image)


_COLOURS: Final[Mapping[str, tuple[int, int, int]]] = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
}
_EXTRA: Final = "comfy_extras.nodes_images"

NODES: Final = (
    Node(
        class_type="EmptyImage",
        run=empty_image,
        inputs=(
            widgets.pixels("width"),
            widgets.pixels("height"),
            count("batch_size"),
            whole("color", 0, 0, 0xFFFFFF, step=1, display="color"),
        ),
        outputs=("IMAGE",),
        category="image",
        display_name="Empty Image",
    ),
    Node(
        class_type="ImageCrop",
        run=crop,
        inputs=(
            widgets.image(),
            widgets.pixels("width"),
            widgets.pixels("height"),
            widgets.pixels("x", default=0, minimum=0),
            widgets.pixels("y", default=0, minimum=0),
        ),
        outputs=("IMAGE",),
        category="image/transform",
        display_name="Crop Image (DEPRECATED)",
        module=_EXTRA,
        is_deprecated=True,
    ),
    Node(
        class_type="ImageFlip",
        run=flip,
        inputs=(
            widgets.image(),
            choice("flip_method", "x-axis: vertically", "y-axis: horizontally"),
        ),
        outputs=("IMAGE",),
        category="image/transform",
        display_name="Flip Image",
        module=_EXTRA,
    ),
    Node(
        class_type="ImageRotate",
        run=rotate,
        inputs=(
            widgets.image(),
            choice("rotation", "none", "90 degrees", "180 degrees", "270 degrees"),
        ),
        outputs=("IMAGE",),
        category="image/transform",
        display_name="Rotate Image",
        module=_EXTRA,
    ),
    Node(
        class_type="ImageBatch",
        run=batch,
        inputs=(widgets.image("image1"), widgets.image("image2")),
        outputs=("IMAGE",),
        category="image/batch",
        display_name="Batch Images (DEPRECATED)",
        is_deprecated=True,
    ),
    Node(
        class_type="ImageStitch",
        run=stitch,
        inputs=(
            widgets.image("image1"),
            choice("direction", "right", "down", "left", "up", default="right"),
            flag("match_image_size", True),
            whole("spacing_width", 0, 0, 1024, step=2, advanced=True),
            choice("spacing_color", *_COLOURS, default="white", advanced=True),
            replace(widgets.image("image2"), is_optional=True),
        ),
        outputs=("IMAGE",),
        category="image/transform",
        display_name="Stitch Images",
        description="Lays the second image beside the first, with space between them if asked.",
        module=_EXTRA,
    ),
    Node(
        class_type="RebatchImages",
        run=rebatch,
        inputs=(widgets.image("images"), count("batch_size")),
        outputs=("IMAGE",),
        category="image/batch",
        display_name="Rebatch Images",
        takes_lists=True,
        gives_lists=(True,),
        module="comfy_extras.nodes_rebatch",
    ),
    Node(
        class_type="ImageFromBatch",
        run=from_batch,
        inputs=(
            widgets.image(),
            whole("batch_index", 0, -MAX_SIDE, MAX_SIDE),
            whole("length", 1, 1, MAX_COUNT),
        ),
        outputs=("IMAGE",),
        category="image/batch",
        display_name="Get Image from Batch",
        module=_EXTRA,
    ),
    Node(
        class_type="RepeatImageBatch",
        run=repeat_batch,
        inputs=(widgets.image(), count("amount")),
        outputs=("IMAGE",),
        category="image/batch",
        display_name="Repeat Image Batch",
        module=_EXTRA,
    ),
    Node(
        class_type="GetImageSize",
        run=get_size,
        inputs=(widgets.image(),),
        outputs=("INT", "INT", "INT"),
        output_names=("width", "height", "batch_size"),
        category="image",
        display_name="Get Image Size",
        description="Returns the width, height, and batch size of the image.",
        hidden={"unique_id": "UNIQUE_ID"},
        module=_EXTRA,
    ),
)
