"""Input pictures at the gateway: decoded from base64, judged by their header, never drawn."""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import dataclass
from typing import Final

from PIL import Image, UnidentifiedImageError

from deployments.errors import InvalidImage
from deployments.types import INPUT_FORMATS, MAX_INPUT_PIXELS

#: EXIF orientations that swap width and height.
_TURNED: Final = frozenset({5, 6, 7, 8})
_ORIENTATION_TAG: Final = 0x0112


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFacts:
    """What a picture's header says: pixels as shown (EXIF rotation applied), format, alpha."""

    width: int
    height: int
    format: str
    has_alpha: bool


def inspect(data: bytes, *, param: str = "image") -> PictureFacts:
    """A picture's facts, from its header alone. Raises ``InvalidImage`` naming ``param``."""
    if not data:
        raise InvalidImage(f"{param} is empty", param=param)
    try:
        with Image.open(io.BytesIO(data), formats=INPUT_FORMATS) as image:
            width, height = image.size
            facts = PictureFacts(
                width=width,
                height=height,
                format=image.format or "",
                has_alpha=image.has_transparency_data,
            )
            turned = width * height <= MAX_INPUT_PIXELS and _is_turned(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidImage(
            f"{param} has too many pixels; accepted: at most {MAX_INPUT_PIXELS}", param=param
        ) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError):
        raise InvalidImage(f"{param} is not an image that can be decoded", param=param) from None
    if width * height > MAX_INPUT_PIXELS:
        raise InvalidImage(
            f"{param} of {width}x{height} is too large; accepted: {MAX_INPUT_PIXELS} pixels",
            param=param,
        )
    if not turned:
        return facts
    return PictureFacts(width=height, height=width, format=facts.format, has_alpha=facts.has_alpha)


def decode_base64(text: str, *, param: str = "image") -> bytes:
    """Bytes of base64 text, with or without a ``data:...;base64,`` prefix."""
    if text.startswith("data:"):
        _, _, text = text.partition(",")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidImage(f"{param} is not valid base64", param=param) from None


def fit_size(facts: PictureFacts, *, longest: int, multiple: int) -> tuple[int, int]:
    """The picture's shape, scaled down so that its longest side is at most ``longest`` pixels."""
    scale = min(1.0, longest / max(facts.width, facts.height))
    return (
        max(multiple, round(facts.width * scale / multiple) * multiple),
        max(multiple, round(facts.height * scale / multiple) * multiple),
    )


def _is_turned(image: Image.Image) -> bool:
    if image.format == "PNG" and "exif" not in image.info:
        return False  # NOTE: Pillow would decode the whole picture to look behind its pixels.
    try:
        return image.getexif().get(_ORIENTATION_TAG) in _TURNED
    except (OSError, ValueError, SyntaxError):
        return False
