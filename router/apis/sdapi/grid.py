"""Grids of finished pictures. Drawing: call these in a thread."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from deployments.types import MAX_INPUT_PIXELS, OutputFormat
from router.apis.sdapi.infotext import KEYWORD
from router.apis.sdapi.plan import Layout, Sheet

Pictures = Mapping[int, bytes]

_EXIF_IFD = 0x8769
_USER_COMMENT = 0x9286


def draw_grids(layout: Layout, pictures: Pictures) -> list[Image.Image]:
    """The grid of all sheets, then the sheets where they are shown; none when there is nothing to
    lay out, or when it would be larger than any picture may be."""
    if not layout.sheets or not pictures:
        return []
    sheets = [_draw_sheet(sheet, pictures, layout.margin) for sheet in layout.sheets]
    if sum(sheet.width * sheet.height for sheet in sheets) > MAX_INPUT_PIXELS:
        return []
    if len(sheets) == 1:
        return sheets
    whole = _lay(sheets, len(sheets), layout.margin)
    return [whole, *sheets] if layout.shows_sheets else [whole]


def encode(image: Image.Image, output_format: OutputFormat, quality: int, text: str) -> bytes:
    """A picture as a file that carries a text."""
    out = io.BytesIO()
    if output_format == "png":
        info = PngImagePlugin.PngInfo()
        if text:
            info.add_text(KEYWORD, text)
        image.save(out, "PNG", pnginfo=info, compress_level=1)
    else:
        exif = Image.Exif()
        exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + text.encode("utf-16-be")
        image.convert("RGB").save(out, output_format, quality=quality, exif=exif)
    return out.getvalue()


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
    return _lay(images, -(-len(images) // round(len(images) ** 0.5)), 0)


def _lay(images: Sequence[Image.Image], columns: int, margin: int) -> Image.Image:
    """Pictures row by row, in cells of the largest one's size."""
    width = max(image.width for image in images)
    height = max(image.height for image in images)
    rows = -(-len(images) // columns)
    size = (columns * (width + margin) - margin, rows * (height + margin) - margin)
    whole = Image.new("RGB", size, "white" if margin else "black")
    for index, image in enumerate(images):
        place = (index % columns * (width + margin), index // columns * (height + margin))
        whole.paste(image, place)
    return whole


def _with_labels(grid: Image.Image, sheet: Sheet, step: tuple[int, int]) -> Image.Image:
    """The grid with its columns' labels above and its rows' at the left, on white."""
    size = max(12, min(step) // 16)
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
