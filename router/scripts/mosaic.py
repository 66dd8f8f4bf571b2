"""Mosaics: overlapping tiles, drawn side by side and laid into one picture."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from PIL import Image, ImageChops, PngImagePlugin

from deployments.types import GenerationRequest
from router.scripts import Canvas

#: Tags of EXIF: its own directory, and the comment in it, which begins with its encoding's name.
_EXIF_IFD: Final = 0x8769
_USER_COMMENT: Final = 0x9286
#: What one segment of a JPEG holds, less its marker.
_MAX_EXIF_BYTES: Final = 65_000


async def draw_mosaic(
    canvas: Canvas, requests: Sequence[GenerationRequest], args: Mapping[str, Any]
) -> None:
    """Draw one mosaic after another; a mosaic's tiles follow one another in the requests.

    ``size`` is a mosaic's width and height, ``corners`` its tiles' left upper corners, row by row;
    the seam of two tiles fades from one to the other. A mosaic takes its first tile's seed and
    texts, and its place is that tile's index.
    """
    corners = [(left, top) for left, top in args["corners"]]
    width, height = args["size"]
    for start in range(0, len(requests), len(corners)):
        tiles = requests[start : start + len(corners)]
        await _draw(canvas, start, tiles, corners, (width, height))


async def _draw(
    canvas: Canvas,
    start: int,
    tiles: Sequence[GenerationRequest],
    corners: Sequence[tuple[int, int]],
    size: tuple[int, int],
) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(canvas.draw(start + offset, replace(tile, output_format="png")))
            for offset, tile in enumerate(tiles)
        ]
    images = [task.result().images[0] for task in tasks]
    data = await asyncio.to_thread(_lay, [image.data for image in images], corners, size, tiles[0])
    whole = replace(
        images[0], data=data, width=size[0], height=size[1], format=tiles[0].output_format
    )
    canvas.keep(start, whole)


def _lay(
    tiles: Sequence[bytes],
    corners: Sequence[tuple[int, int]],
    size: tuple[int, int],
    request: GenerationRequest,
) -> bytes:
    """The mosaic, encoded as its request asks, with its texts."""
    whole = Image.new("RGB", size)
    for data, (left, top) in zip(tiles, corners, strict=True):
        tile = Image.open(io.BytesIO(data)).convert("RGB")
        ends = [corner for corner in corners if corner != (left, top)]
        before = max((x for x, y in ends if y == top and x < left), default=None)
        above = max((y for _, y in ends if y < top), default=None)
        overlap = (
            0 if before is None else max(0, before + tile.width - left),
            0 if above is None else max(0, above + tile.height - top),
        )
        whole.paste(tile, (left, top), _fade(tile.size, overlap))
    return _encode(whole, request)


def _fade(size: tuple[int, int], overlap: tuple[int, int]) -> Image.Image:
    """How much of a tile shows: nothing at the edge that it shares with those before it."""
    masks = []
    for span, turned in zip(overlap, (Image.Transpose.ROTATE_90, None), strict=True):
        mask = Image.new("L", size, 255)
        if span:
            ramp = Image.linear_gradient("L")
            ramp = ramp.transpose(turned) if turned is not None else ramp
            area = (span, size[1]) if turned is not None else (size[0], span)
            mask.paste(ramp.resize(area), (0, 0))
        masks.append(mask)
    return ImageChops.multiply(*masks)


def _encode(image: Image.Image, request: GenerationRequest) -> bytes:
    out = io.BytesIO()
    texts = request.texts[0] if request.texts else ()
    if request.output_format == "png":
        info = PngImagePlugin.PngInfo()
        for keyword, text in texts:
            info.add_text(keyword, text)
        image.save(out, "PNG", pnginfo=info, compress_level=1)
    else:
        exif = Image.Exif()
        told = "\n".join(text for _, text in texts).encode("utf-16-be")
        if len(told) < _MAX_EXIF_BYTES:
            exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + told
        image.save(out, request.output_format, quality=request.output_quality, exif=exif)
    return out.getvalue()
