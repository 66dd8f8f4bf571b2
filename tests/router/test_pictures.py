"""Input pictures, judged by their header."""

from __future__ import annotations

import io
import struct
import time
import zlib

import pytest
from PIL import Image

from deployments.errors import InvalidImage
from router.pictures import decode_base64, fit_size, inspect


def encoded(size: tuple[int, int], kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "teal").save(out, kind, **options)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is and holds nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + header + b"\0\0\0\0IDAT" + b"\0" * 4


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_inspect_tells_the_size_and_kind(kind: str) -> None:
    facts = inspect(encoded((30, 20), kind))
    assert (facts.width, facts.height, facts.format) == (30, 20, kind)


def test_inspect_applies_the_rotation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    facts = inspect(encoded((30, 20), "JPEG", exif=exif.tobytes()))
    assert (facts.width, facts.height) == (20, 30)


def test_inspect_never_decodes_a_large_picture() -> None:
    data = encoded((7900, 7900))
    started = time.process_time()
    assert inspect(data).width == 7900
    assert time.process_time() - started < 0.2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"not a picture", "cannot be decoded|can be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "can be decoded"),
        (png_header(8001, 8000), "64000000"),
        (png_header(60_000, 60_000), "64000000"),
    ],
    ids=["empty", "text", "postscript", "large", "bomb"],
)
def test_inspect_refuses(data: bytes, said: str) -> None:
    with pytest.raises(InvalidImage, match=said):
        inspect(data)


@pytest.mark.parametrize("text", ["aGk=", "data:image/png;base64,aGk=", " aG\nk= "])
def test_decode_base64_with_or_without_prefix(text: str) -> None:
    assert decode_base64(text) == b"hi"


@pytest.mark.parametrize("text", ["aGk", "é", "data:image/png;base64,%"])
def test_decode_base64_refuses(text: str) -> None:
    with pytest.raises(InvalidImage):
        decode_base64(text)


def test_fit_size_keeps_the_shape() -> None:
    assert fit_size(inspect(encoded((2000, 1000))), longest=1024, multiple=8) == (1024, 512)
    assert fit_size(inspect(encoded((300, 200))), longest=1024, multiple=8) == (304, 200)
