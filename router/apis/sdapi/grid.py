"""Grids of finished pictures. Drawing: call these in a thread."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Final

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from deployments.types import MAX_INPUT_PIXELS, OutputFormat
from router.apis.sdapi.infotext import KEYWORD
from router.apis.sdapi.plan import Layout, Sheet
from router.pictures import inspect

Pictures = Mapping[int, bytes]

_EXIF_IFD = 0x8769
_USER_COMMENT = 0x9286
#: JPEG's limit is a little higher.
_MAX_EXIF_BYTES: Final = 65_000
#: The longest side that a file of a format can have, in pixels.
_MAX_SIDE: Final = 65_500
_MAX_SIDES: Final[Mapping[str, int]] = {"webp": 16_383, "jpeg": _MAX_SIDE}


def draw_grids(layout: Layout, pictures: Pictures) -> list[Image.Image]:
    """The grid of all sheets, then the sheets where they are shown; none when there is nothing to
    lay out, or when it would be larger than any picture may be."""
    if not layout.sheets or not pictures:
        return []
    if _num_pixels(layout, pictures) > MAX_INPUT_PIXELS:
        return []
    sheets = [_draw_sheet(sheet, pictures, layout.margin) for sheet in layout.sheets]
    if len(sheets) == 1:
        return sheets
    whole = _lay(sheets, len(sheets), layout.margin)
    return [whole, *sheets] if layout.shows_sheets else [whole]


def encode(image: Image.Image, output_format: OutputFormat, quality: int, text: str) -> bytes:
    """A picture as a file that carries a text: as PNG where the format cannot hold its size, and
    without the text where that is too long for EXIF."""
    out = io.BytesIO()
    if output_format == "png" or max(image.size) > _MAX_SIDES.get(output_format, _MAX_SIDE):
        info = PngImagePlugin.PngInfo()
        if text:
            info.add_text(KEYWORD, text)
        image.save(out, "PNG", pnginfo=info, compress_level=1)
    else:
        exif = Image.Exif()
        exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + text.encode("utf-16-be")
        if len(exif.tobytes()) > _MAX_EXIF_BYTES:
            exif = Image.Exif()
        image.convert("RGB").save(out, output_format, quality=quality, exif=exif)
    return out.getvalue()


def _num_pixels(layout: Layout, pictures: Pictures) -> int:
    """Pixels of all sheets, each as large as the largest, from the pictures' headers; labels at
    their widest."""
    widths, heights = [], []
    for sheet in layout.sheets:
        sizes = [_cell_size([pictures[p] for p in cell if p in pictures]) for cell in sheet.cells]
        size = (max(width for width, _ in sizes), max(height for _, height in sizes))
        step = (size[0] + layout.margin, size[1] + layout.margin)
        width, height = _laid_size(size, len(sizes), sheet.columns, layout.margin)
        line = _font_size(step) * 2
        widths.append(width + step[0] * bool(sheet.y_labels))
        heights.append(height + line * (bool(sheet.x_labels) + bool(sheet.title)))
    size = _laid_size((max(widths), max(heights)), len(widths), len(widths), layout.margin)
    return size[0] * size[1]


def _cell_size(files: Sequence[bytes]) -> tuple[int, int]:
    """Pixels of a cell, by its pictures' headers; one where it has none."""
    facts = [inspect(file) for file in files]
    if not facts:
        return (1, 1)
    size = (max(fact.width for fact in facts), max(fact.height for fact in facts))
    return _laid_size(size, len(facts), _cell_columns(len(facts)), 0)


def _laid_size(size: tuple[int, int], count: int, columns: int, margin: int) -> tuple[int, int]:
    """Pixels of so many cells of a size, side by side."""
    rows = -(-count // columns)
    return columns * (size[0] + margin) - margin, rows * (size[1] + margin) - margin


def _cell_columns(count: int) -> int:
    rows: int = round(count**0.5)
    return -(-count // rows)


def _font_size(step: tuple[int, int]) -> int:
    return max(12, min(step) // 16)


def _draw_sheet(sheet: Sheet, pictures: Pictures, margin: int) -> Image.Image:
    cells = [_draw_cell([pictures[p] for p in places if p in pictures]) for places in sheet.cells]
    drawn = next(cell for cell in [*cells, Image.new("RGB", (1, 1))] if cell is not None)
    blank = Image.new("RGB", drawn.size)
    whole = _lay([cell or blank for cell in cells], sheet.columns, margin)
    if sheet.x_labels or sheet.y_labels or sheet.title:
        return _with_labels(whole, sheet, (drawn.width + margin, drawn.height + margin))
    return whole


def _draw_cell(files: Sequence[bytes]) -> Image.Image | None:
    images = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
    if len(images) < 2:
        return images[0] if images else None
    return _lay(images, _cell_columns(len(images)), 0)


def _lay(images: Sequence[Image.Image], columns: int, margin: int) -> Image.Image:
    """Pictures row by row, in cells of the largest one's size."""
    width = max(image.width for image in images)
    height = max(image.height for image in images)
    size = _laid_size((width, height), len(images), columns, margin)
    whole = Image.new("RGB", size, "white" if margin else "black")
    for index, image in enumerate(images):
        place = (index % columns * (width + margin), index // columns * (height + margin))
        whole.paste(image, place)
    return whole


def _with_labels(grid: Image.Image, sheet: Sheet, step: tuple[int, int]) -> Image.Image:
    """The grid with its columns' labels above and its rows' at the left, on white."""
    size = _font_size(step)
    font = ImageFont.load_default(size)
    line = size * 2
    top = line * (bool(sheet.x_labels) + bool(sheet.title))
    widest = max((int(font.getlength(label)) for label in sheet.y_labels), default=0)
    left = min(widest + size, step[0]) if sheet.y_labels else 0
    whole = Image.new("RGB", (grid.width + left, grid.height + top), "white")
    whole.paste(grid, (left, top))
    draw = ImageDraw.Draw(whole)
    if sheet.title:
        draw.text((whole.width // 2, line // 2), sheet.title, "black", font, "mm")
    for index, label in enumerate(sheet.x_labels):
        place = (left + index * step[0] + step[0] // 2, top - line // 2)
        draw.text(place, label, "black", font, "mm")
    for index, label in enumerate(sheet.y_labels):
        place = (left // 2, top + index * step[1] + step[1] // 2)
        draw.text(place, label, "black", font, "mm")
    return whole
