"""PNG files: to and from pixels, their size, and texts laid in without touching the pixels."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.errors import InvalidRequest

#: Levels above cost several times as much and save a few per cent.
COMPRESS_LEVEL: Final = 1
#: Signature (8), then the header's length (4), type (4), data (13) and checksum (4).
_HEADER_END: Final = 33
#: PNG specification, 11.3.4.2: a keyword has 1 to 79 bytes of Latin-1.
MAX_KEYWORD: Final = 79


def decode(data: bytes) -> NDArray[np.uint8]:
    """Pixels of a file that came from a model or from here: (height, width, 3 or 4)."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        mode = "RGBA" if image.has_transparency_data else "RGB"
        return np.asarray(image if image.mode == mode else image.convert(mode))


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """A file of (height, width, 3 or 4) pixels, or of (height, width) grey ones."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG", compress_level=COMPRESS_LEVEL)
    return out.getvalue()


def size_of(data: bytes) -> tuple[int, int]:
    """(width, height), as its header says."""
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def has_alpha(data: bytes) -> bool:
    """Whether it has a channel of alpha, as its header says."""
    return bool(data[25] & 4)


def with_texts(data: bytes, texts: Mapping[str, str]) -> bytes:
    """The file with a tEXt chunk for each keyword, after its header.

    Texts are Latin-1. Raises ``InvalidRequest`` for a keyword that a PNG file cannot hold.
    """
    chunks = b"".join(_text_chunk(keyword, text) for keyword, text in texts.items())
    return data[:_HEADER_END] + chunks + data[_HEADER_END:]


def _text_chunk(keyword: str, text: str) -> bytes:
    try:
        name = keyword.encode("latin-1")
    except UnicodeEncodeError:
        name = b""
    if not 1 <= len(name) <= MAX_KEYWORD or b"\0" in name:
        raise InvalidRequest(
            f"{keyword!r:.100} cannot name a text in a PNG file; "
            f"accepted: 1 to {MAX_KEYWORD} characters of Latin-1"
        )
    body = b"tEXt" + name + b"\0" + text.encode("latin-1")
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
