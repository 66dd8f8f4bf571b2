"""Draws input pictures for tests, and reads answers."""

from __future__ import annotations

import base64
import io
import struct
import zlib

from PIL import Image


def picture(size: tuple[int, int] = (96, 64), mode: str = "RGB", kind: str = "PNG") -> bytes:
    """A flat picture."""
    out = io.BytesIO()
    Image.new(mode, size, 120 if mode == "L" else (200, 30, 30, 255)[: len(mode)]).save(out, kind)
    return out.getvalue()


def cutout(size: tuple[int, int] = (96, 64), kind: str = "PNG") -> bytes:
    """A picture whose left half is fully transparent, and one column half so."""
    image = Image.new("RGBA", size, (0, 200, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, size[0] // 2, size[1]))
    image.paste((9, 9, 9, 128), (size[0] // 2, 0, size[0] // 2 + 1, size[1]))
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def giant_png() -> bytes:
    """A PNG of 30000 x 30000 pixels, by its header only."""

    def chunk(name: bytes, data: bytes) -> bytes:
        whole = name + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def opened(b64: str) -> Image.Image:
    """The picture in an answer."""
    return Image.open(io.BytesIO(base64.b64decode(b64)))
