"""SD upscale: the picture is enlarged, then re-drawn in overlapping tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from PIL import Image

from deployments.errors import InvalidRequest, UnsupportedField
from deployments.types import MAX_INPUT_PIXELS, GenerationRequest
from router.apis.sdapi.errors import UnknownScript
from router.apis.sdapi.inputs import encode_png, open_picture
from router.apis.sdapi.parse import round_size
from router.apis.sdapi.plan import Plan
from router.apis.sdapi.scripts.call import Call, argument, check_range, shifted, variant
from router.apis.sdapi.upscalers import UPSCALERS, find_upscaler

#: The most tiles of one call.
MAX_TILES: Final = 256


def plan_sd_upscale(call: Call, args: Sequence[Any]) -> Plan:
    """A label, the overlap in pixels, the upscaler (index or name), the scale.

    Tiles have the call's width and height; tile k is drawn from ``seed + k``, and ``n_iter`` makes
    as many upscales, each from the next seed.
    """
    overlap = argument(args, 1, int, 64)
    scale = argument(args, 3, float, 2.0)
    check_range(1, overlap, 0, 256)
    check_range(3, scale, 1, 4)
    if call.mask is not None:
        raise UnsupportedField("SD upscale takes no mask", param="mask")
    width, height = round_size(call.setting.card, call.body.width, call.body.height)
    upscaler = _upscaler(args)
    check_range(1, overlap, 0, min(width, height) - 1)
    whole = _enlarge(call, upscaler, scale)
    num_columns = _count(whole.width, width, overlap)
    num_rows = _count(whole.height, height, overlap)
    num_tiles = num_columns * num_rows * call.body.n_iter
    if num_tiles > MAX_TILES:
        raise InvalidRequest(
            f"{num_tiles} tiles are too many; accepted: at most {MAX_TILES}",
            param="script_args",
        )
    columns = _starts(whole.width, width, num_columns)
    rows = _starts(whole.height, height, num_rows)
    corners = [(left, top) for top in rows for left in columns]
    requests = _requests(call, whole, corners, (width, height))
    size = [whole.width, whole.height]
    return Plan(
        requests=tuple(requests),
        script="mosaic",
        script_args={"size": size, "corners": [list(corner) for corner in corners]},
    )


def _requests(
    call: Call, whole: Image.Image, corners: Sequence[tuple[int, int]], size: tuple[int, int]
) -> list[GenerationRequest]:
    """Those of every tile, upscale by upscale."""
    boxes = [(left, top, left + size[0], top + size[1]) for left, top in corners]
    calls = [replace(call, images=(encode_png(whole.crop(box)),)) for box in boxes]
    requests: list[GenerationRequest] = []
    for upscale in range(call.body.n_iter):
        for index, tile in enumerate(calls):
            seed = shifted(call.body.seed, upscale + index)
            body = variant(call.body, seed=seed, n_iter=1, batch_size=1, script_name=None)
            requests.extend(tile.requests(body))
    return requests


def _enlarge(call: Call, upscaler: str, scale: float) -> Image.Image:
    background = str(call.setting.options["img2img_background_color"])
    image = open_picture(call.images[0], background)
    if upscaler == "None":
        return image
    size = (int(image.width * scale), int(image.height * scale))
    if size[0] * size[1] > MAX_INPUT_PIXELS:
        raise InvalidRequest(
            f"{size[0]}x{size[1]} has too many pixels; accepted: at most {MAX_INPUT_PIXELS}",
            param="script_args",
        )
    return image.resize(size, find_upscaler(upscaler))


def _upscaler(args: Sequence[Any]) -> str:
    """The upscaler's name; clients send its place in ``GET upscalers``, or the name."""
    value = args[2] if len(args) > 2 and args[2] is not None else 0
    names = list(UPSCALERS)
    if isinstance(value, str):
        found = next((name for name in names if name.lower() == value.lower()), None)
    else:
        index = argument(args, 2, int, 0)
        found = names[index] if 0 <= index < len(names) else None
    if found is None:
        raise UnknownScript(
            f"script_args[2]: could not find upscaler {value!r:.100}; known: {', '.join(names)}",
            param="script_args",
        )
    return found


def _count(length: int, tile: int, overlap: int) -> int:
    """How many tiles cover a side with at least the overlap."""
    if length <= tile:
        return 1
    return max(2, math.ceil((length - overlap) / (tile - overlap)))


def _starts(length: int, tile: int, count: int) -> list[int]:
    """Where tiles begin along a side, spread evenly."""
    if count == 1:
        return [0]
    return [round(k * (length - tile) / (count - 1)) for k in range(count)]
