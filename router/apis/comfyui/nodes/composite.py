"""Nodes that lay pictures over each other, extend them, and take or give their alpha."""

from __future__ import annotations

from typing import Final

import numpy as np

from router.apis.comfyui.node import Node
from router.apis.comfyui.pixels import Floats, check_size, to_floats, to_pixels, with_alpha
from router.apis.comfyui.resampling import resize_images, resize_masks
from router.apis.comfyui.values import Images, Masks, Pixels
from router.apis.comfyui.widgets import MAX_SIDE, flag, image, mask, pixels, whole

#: The grey around a picture that was extended: 0.5, as ComfyUI saves it.
_GREY: Final = 127


def composite(
    *,
    destination: Images,
    source: Images,
    x: int,
    y: int,
    resize_source: bool,
    mask: Masks | None = None,
) -> tuple[Images]:
    """The source laid over each destination, its left top at (x, y), where the mask is 1.

    What lies outside of the destination is cut off. A mask has the source's size, or gets it.
    """
    if resize_source:
        source = resize_images(source, destination.width, destination.height, "bilinear")
    masks = None if mask is None else resize_masks(mask.values, source.width, source.height)
    laid = []
    for k, below in enumerate(destination.pixels):
        above = source.pixels[k % len(source)]
        laid.append(_lay(below, above, None if masks is None else masks[k % len(masks)], x, y))
    return (Images(pixels=laid),)


def _lay(below: Pixels, above: Pixels, mask: Floats | None, x: int, y: int) -> Pixels:
    if above.shape[2] < below.shape[2]:
        above = with_alpha(above)
    above = above[..., : below.shape[2]]
    height, width = below.shape[:2]
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + above.shape[1], width), min(y + above.shape[0], height)
    if left >= right or top >= bottom:
        return below
    inside = slice(top - y, bottom - y), slice(left - x, right - x)
    laid = below.copy()
    if mask is None:
        laid[top:bottom, left:right] = above[inside]
        return laid
    share = mask[inside][..., None]
    part = to_floats(below[top:bottom, left:right])
    laid[top:bottom, left:right] = to_pixels(to_floats(above[inside]) * share + part * (1 - share))
    return laid


def pad_for_outpaint(
    *, image: Images, left: int, top: int, right: int, bottom: int, feathering: int
) -> tuple[Images, Masks]:
    """Pictures with grey around them, and one mask of where that is.

    At the inner side of an extended edge the mask falls with the square over ``feathering`` pixels.
    """
    left, top, right, bottom = (max(side, 0) for side in (left, top, right, bottom))
    width, height = image.width + left + right, image.height + top + bottom
    check_size(width, height, len(image))
    inside = slice(top, top + image.height), slice(left, left + image.width)
    padded = []
    for one in image.pixels:
        ground = np.full((height, width, one.shape[2]), _GREY, np.uint8)
        ground[inside] = one
        padded.append(ground)
    masks = np.ones((1, height, width), np.float32)
    masks[0][inside] = _feather(image, (left, top, right, bottom), feathering)
    return Images(pixels=padded), Masks(values=masks)


def _feather(image: Images, sides: tuple[int, int, int, int], feathering: int) -> Floats:
    width, height = image.width, image.height
    if feathering <= 0 or 2 * feathering >= min(width, height):
        return np.zeros((height, width), np.float32)
    left, top, right, bottom = sides
    columns, rows = np.arange(width), np.arange(height)
    across = np.minimum(columns if left else width, width - columns if right else width)
    down = np.minimum(rows if top else height, height - rows if bottom else height)
    distance = np.minimum(np.broadcast_to(across, width), np.broadcast_to(down, height)[:, None])
    share: Floats = np.maximum(feathering - distance, 0).astype(np.float32) / np.float32(feathering)
    return share * share


def split_alpha(*, image: Images) -> tuple[Images, Masks]:
    """Pictures without alpha, and masks of 1 - alpha."""
    alphas = np.stack([with_alpha(one)[..., 3] for one in image.pixels])
    masks = Masks(values=1 - alphas.astype(np.float32) / np.float32(255))
    return Images(pixels=[np.ascontiguousarray(one[..., :3]) for one in image.pixels]), masks


def join_alpha(*, image: Images, alpha: Masks) -> tuple[Images]:
    """Pictures with an alpha of 1 - mask, as many as there are of both."""
    masks = resize_masks(alpha.values, image.width, image.height)
    joined = [
        np.concatenate([one[..., :3], to_pixels(1 - mask)[..., None]], axis=2)
        for one, mask in zip(image.pixels, masks, strict=False)
    ]
    return (Images(pixels=joined),)


_ALPHA_CATEGORY: Final = "image/compositing"
_ALPHA_MODULE: Final = "comfy_extras.nodes_compositing"

NODES: Final = (
    Node(
        class_type="ImageCompositeMasked",
        run=composite,
        inputs=(
            image("destination"),
            image("source"),
            pixels("x", default=0, minimum=0),
            pixels("y", default=0, minimum=0),
            flag("resize_source", False),
            mask(is_optional=True),
        ),
        outputs=("IMAGE",),
        category="image/compositing",
        display_name="Image Composite Masked",
        module="comfy_extras.nodes_mask",
    ),
    Node(
        class_type="ImagePadForOutpaint",
        run=pad_for_outpaint,
        inputs=(
            image(),
            pixels("left", default=0, minimum=0, step=8),
            pixels("top", default=0, minimum=0, step=8),
            pixels("right", default=0, minimum=0, step=8),
            pixels("bottom", default=0, minimum=0, step=8),
            whole("feathering", 40, 0, MAX_SIDE, step=1, advanced=True),
        ),
        outputs=("IMAGE", "MASK"),
        category="image/transform",
        display_name="Pad Image for Outpainting",
    ),
    Node(
        class_type="SplitImageWithAlpha",
        run=split_alpha,
        inputs=(image(),),
        outputs=("IMAGE", "MASK"),
        category=_ALPHA_CATEGORY,
        display_name="Split Image with Alpha",
        module=_ALPHA_MODULE,
    ),
    Node(
        class_type="JoinImageWithAlpha",
        run=join_alpha,
        inputs=(image(), mask("alpha")),
        outputs=("IMAGE",),
        category=_ALPHA_CATEGORY,
        display_name="Join Image with Alpha",
        module=_ALPHA_MODULE,
    ),
)
