"""Renditions: what becomes of stored pictures on their way out, and of masks. Slow: for threads."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from PIL import Image, PngImagePlugin

from deployments.errors import InvalidImage
from deployments.types import INPUT_FORMATS
from router.apis.comfyui.png import COMPRESS_LEVEL
from router.pictures import inspect

#: Quality of a preview that names none.
PREVIEW_QUALITY: Final = 90


def to_preview(
    data: bytes, *, image_format: Literal["webp", "jpeg"], quality: int, is_opaque: bool
) -> bytes:
    """The picture encoded anew, without its alpha if it is to be opaque."""
    with _decoded(data) as image:
        mode = "RGB" if is_opaque or not image.has_transparency_data else "RGBA"
        out = io.BytesIO()
        image.convert(mode).save(out, image_format, quality=quality)
        return out.getvalue()


def without_alpha(data: bytes) -> bytes:
    """As PNG, the picture's colours."""
    with _decoded(data) as image:
        return _png(image.convert("RGB"))


def alpha_alone(data: bytes) -> bytes:
    """As PNG, black with the picture's alpha; opaque when it has none."""
    with _decoded(data) as image:
        alone = Image.new("RGBA", image.size)
        alone.putalpha(image.convert("RGBA").getchannel("A"))
        return _png(alone)


def with_alpha_of(original: bytes, mask: bytes) -> bytes:
    """As PNG, a picture with another's alpha, and with its own texts.

    Raises ``InvalidImage`` when the sizes differ.
    """
    with _decoded(original) as image, _decoded(mask) as masked:
        if image.size != masked.size:
            raise InvalidImage(
                f"the mask is {masked.width}x{masked.height}, the picture "
                f"{image.width}x{image.height}; accepted: equal sizes"
            )
        texts = PngImagePlugin.PngInfo()
        if isinstance(image, PngImagePlugin.PngImageFile):
            for keyword, text in image.text.items():
                texts.add_text(keyword, text)
        combined = image.convert("RGBA")
        combined.putalpha(masked.convert("RGBA").getchannel("A"))
        return _png(combined, texts)


@contextmanager
def _decoded(data: bytes) -> Iterator[Image.Image]:
    """The picture. Raises ``InvalidImage`` when it is none, or too large by its header."""
    inspect(data)
    try:
        with Image.open(io.BytesIO(data), formats=INPUT_FORMATS) as image:
            image.load()
            yield image
    except (OSError, ValueError, SyntaxError, EOFError):
        raise InvalidImage("the file is not an image that can be decoded") from None


def _png(image: Image.Image, texts: PngImagePlugin.PngInfo | None = None) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=COMPRESS_LEVEL, pnginfo=texts)
    return out.getvalue()
