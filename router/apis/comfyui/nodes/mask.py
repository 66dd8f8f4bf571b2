"""Nodes that make and change masks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deployments.errors import InvalidRequest
from router.apis.comfyui.drawing import Drawing
from router.apis.comfyui.node import Input, Node
from router.apis.comfyui.nodes.output import PREFIX
from router.apis.comfyui.pixels import Floats, check_size, to_pixels, with_alpha
from router.apis.comfyui.values import Images, Masks, Shown
from router.apis.comfyui.widgets import MAX_SIDE, choice, flag, image, mask, number, pixels, whole

_CHANNELS: Final = ("red", "green", "blue", "alpha")


def solid(*, value: float, width: int, height: int) -> tuple[Masks]:
    """One mask of one value."""
    check_size(width, height)
    return (Masks(values=np.full((1, height, width), min(max(value, 0), 1), np.float32)),)


def invert(*, mask: Masks) -> tuple[Masks]:
    """1 - mask."""
    return (Masks(values=1 - mask.values),)


def to_image(*, mask: Masks) -> tuple[Images]:
    """Grey pictures, white where the masks are 1."""
    grey = to_pixels(mask.values)
    return (Images(pixels=[np.repeat(one[..., None], 3, axis=2) for one in grey]),)


def from_image(*, image: Images, channel: str) -> tuple[Masks]:
    """One channel of pictures, of which opaque ones have an alpha of 1."""
    place = _CHANNELS.index(channel)
    channels = np.stack([with_alpha(one)[..., place] for one in image.pixels])
    return (Masks(values=channels.astype(np.float32) / np.float32(255)),)


def from_colour(*, image: Images, color: int) -> tuple[Masks]:
    """1 where pictures have exactly this colour, 0xRRGGBB."""
    colour = (color >> 16 & 255, color >> 8 & 255, color & 255)
    found = [(one[..., :3] == colour).all(axis=2) for one in image.pixels]
    return (Masks(values=np.stack(found).astype(np.float32)),)


def crop(*, mask: Masks, x: int, y: int, width: int, height: int) -> tuple[Masks]:
    """A part of masks. Raises ``InvalidRequest`` when nothing of it is inside of them."""
    x, y = max(x, 0), max(y, 0)
    part = mask.values[:, y : y + height, x : x + width]
    if part.size == 0:
        size = f"{mask.values.shape[2]}x{mask.values.shape[1]}"
        raise InvalidRequest(f"the crop at ({x}, {y}) is outside of a mask of {size}")
    return (Masks(values=part),)


def composite(*, destination: Masks, source: Masks, x: int, y: int, operation: str) -> tuple[Masks]:
    """Masks in which the part under another, laid at (x, y), is combined with it; 0..1."""
    values, x, y = destination.values.copy(), max(x, 0), max(y, 0)
    under = values[:, y : y + source.values.shape[1], x : x + source.values.shape[2]]
    over = source.values[:, : under.shape[1], : under.shape[2]]
    if len(over) not in (1, len(under)):
        raise InvalidRequest(
            f"{len(source.values)} masks cannot be laid over {len(under)}; "
            f"accepted: 1 or {len(under)}"
        )
    under[...] = _OPERATIONS[operation](under, over)
    return (Masks(values=np.clip(values, 0, 1)),)


def feather(*, mask: Masks, left: int, top: int, right: int, bottom: int) -> tuple[Masks]:
    """Masks that rise from their edges, over so many pixels, to what they were."""
    values = mask.values.copy()
    height, width = values.shape[1:]
    left, top, right, bottom = (max(side, 0) for side in (left, top, right, bottom))
    values[:, :, : min(left, width)] *= _rise(left, width)
    values[:, :, ::-1][:, :, : min(right, width)] *= _rise(right, width)
    values[:, : min(top, height)] *= _rise(top, height)[:, None]
    values[:, ::-1][:, : min(bottom, height)] *= _rise(bottom, height)[:, None]
    return (Masks(values=values),)


def grow(*, mask: Masks, expand: int, tapered_corners: bool) -> tuple[Masks]:
    """Masks that reach so many pixels further, or less far for a negative number.

    With tapered corners the pixels are counted along rows and columns, else along diagonals too.
    """
    values, reach = mask.values, min(abs(expand), sum(mask.values.shape[1:]))
    extreme = np.maximum if expand > 0 else np.minimum
    if tapered_corners:
        return (Masks(values=_spread(values, reach, (1, 2), extreme)),)
    rows = _spread(values, reach, (1,), extreme)
    return (Masks(values=_spread(rows, reach, (2,), extreme)),)


def threshold(*, mask: Masks, value: float) -> tuple[Masks]:
    """1 where masks are above a value, else 0."""
    return (Masks(values=(mask.values > value).astype(np.float32)),)


async def preview(drawing: Drawing, *, mask: Masks) -> Shown:
    """Keep masks, as grey pictures, for a look."""
    (images,) = await asyncio.to_thread(to_image, mask=mask)
    return Shown(output={"images": await drawing.save(images, kind="temp", prefix=PREFIX)})


def _rise(length: int, limit: int) -> Floats:
    length = min(length, limit)
    return np.arange(1, length + 1, dtype=np.float32) / np.float32(max(length, 1))


def _spread(
    values: Floats, reach: int, axes: tuple[int, ...], extreme: Callable[[Floats, Floats], Floats]
) -> Floats:
    """The extreme of all values up to ``reach`` steps along the axes away.

    One that knows r steps around learns up to (r + 1) / 2 more from its neighbours at that
    distance, so that the passes grow with the logarithm of the reach.
    """
    known = 0
    while known < reach:
        step = min(max(1, (known + 1) // 2), reach - known)
        spread = values.copy()
        for axis in axes:
            size = values.shape[axis]
            if step < size:
                low = _slice(axis, slice(None, size - step))
                high = _slice(axis, slice(step, None))
                spread[low] = extreme(spread[low], values[high])
                spread[high] = extreme(spread[high], values[low])
        values, known = spread, known + step
    return values


def _slice(axis: int, part: slice) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, part)


def _bits(values: Floats) -> NDArray[np.bool_]:
    bits: NDArray[np.bool_] = np.rint(values).astype(np.bool_)
    return bits


_OPERATIONS: Final[Mapping[str, Callable[[Floats, Floats], NDArray[np.generic]]]] = {
    "multiply": lambda under, over: under * over,
    "add": lambda under, over: under + over,
    "subtract": lambda under, over: under - over,
    "and": lambda under, over: _bits(under) & _bits(over),
    "or": lambda under, over: _bits(under) | _bits(over),
    "xor": lambda under, over: _bits(under) ^ _bits(over),
}


def _row(name: str, run: Callable[..., tuple[Masks]], title: str, *inputs: Input) -> Node:
    return Node(
        class_type=name,
        run=run,
        inputs=inputs,
        outputs=("MASK",),
        category="image/mask",
        display_name=title,
        module="comfy_extras.nodes_mask",
    )


def _place(name: str) -> Input:
    return pixels(name, default=0, minimum=0)


NODES: Final = (
    _row(
        "SolidMask",
        solid,
        "Create Solid Mask",
        number("value", 1.0, 0.0, 1.0),
        pixels("width"),
        pixels("height"),
    ),
    _row("InvertMask", invert, "Invert Mask", mask()),
    Node(
        class_type="MaskToImage",
        run=to_image,
        inputs=(mask(),),
        outputs=("IMAGE",),
        category="image/mask",
        display_name="Convert Mask to Image",
        module="comfy_extras.nodes_mask",
    ),
    _row(
        "ImageToMask", from_image, "Convert Image to Mask", image(), choice("channel", *_CHANNELS)
    ),
    _row(
        "ImageColorToMask",
        from_colour,
        "Convert Image Color to Mask",
        image(),
        whole("color", 0, 0, 0xFFFFFF, step=1, display="number"),
    ),
    _row(
        "CropMask",
        crop,
        "Crop Mask",
        mask(),
        _place("x"),
        _place("y"),
        pixels("width"),
        pixels("height"),
    ),
    _row(
        "MaskComposite",
        composite,
        "Combine Masks",
        mask("destination"),
        mask("source"),
        _place("x"),
        _place("y"),
        choice("operation", *_OPERATIONS),
    ),
    _row(
        "FeatherMask",
        feather,
        "Feather Mask",
        mask(),
        _place("left"),
        _place("top"),
        _place("right"),
        _place("bottom"),
    ),
    _row(
        "GrowMask",
        grow,
        "Grow Mask",
        mask(),
        whole("expand", 0, -MAX_SIDE, MAX_SIDE, step=1),
        flag("tapered_corners", True, advanced=True),
    ),
    _row("ThresholdMask", threshold, "Threshold Mask", mask(), number("value", 0.5, 0.0, 1.0)),
    Node(
        class_type="MaskPreview",
        run=preview,
        inputs=(mask(),),
        category="image/mask",
        display_name="Preview Mask",
        description="Keeps masks in the folder of temporary files.",
        is_output=True,
        hidden={"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        module="comfy_extras.nodes_mask",
    ),
)
