"""Input pictures of an edit: judged by their header, and OpenAI's alpha turned into a mask."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageOps

from deployments.errors import InvalidImage
from router.pictures import PictureFacts, inspect

#: What is read of the formats that can be transparent.
_ALPHA_FORMATS: Final = ("PNG", "WEBP", "GIF", "TIFF", "AVIF")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What an edit starts from: pictures, the facts of each, and a mask whose white is re-drawn."""

    images: tuple[bytes, ...] = ()
    facts: tuple[PictureFacts, ...] = ()
    mask: bytes | None = None


def prepare(
    images: Sequence[bytes], mask: bytes | None = None, *, is_alpha_mask: bool = True
) -> Inputs:
    """Check the pictures and translate the mask. Runs long on large masks: use a thread.

    OpenAI: the mask's fully transparent pixels are edited; it fits the first picture; without one
    the first picture's own transparent pixels are (unless ``is_alpha_mask`` is off).

    Raises ``InvalidImage`` naming the field.
    """
    facts = tuple(inspect(data, param="image") for data in images)
    translated = None
    if mask is not None:
        _check_mask(inspect(mask, param="mask"), facts[0])
        translated = _transparent_area(mask, param="mask")
    elif is_alpha_mask and facts[0].has_alpha:
        translated = _transparent_area(images[0], param="image", if_any=True)
    return Inputs(images=tuple(images), facts=facts, mask=translated)


def _check_mask(mask: PictureFacts, image: PictureFacts) -> None:
    if (mask.width, mask.height) != (image.width, image.height):
        raise InvalidImage(
            f"mask is {mask.width}x{mask.height}; accepted: the size of the first image, "
            f"{image.width}x{image.height}",
            param="mask",
        )
    if not mask.has_alpha:
        raise InvalidImage(
            "mask has no alpha channel; accepted: a picture that is transparent where to edit",
            param="mask",
        )


def _transparent_area(data: bytes, *, param: str, if_any: bool = False) -> bytes | None:
    """A grey PNG, white where alpha is 0. With ``if_any``, None when nothing is transparent."""
    try:
        with Image.open(io.BytesIO(data), formats=_ALPHA_FORMATS) as image:
            alpha = ImageOps.exif_transpose(image).convert("RGBA").getchannel("A")
    except (OSError, ValueError, SyntaxError, EOFError):
        raise InvalidImage(f"{param} is not an image that can be decoded", param=param) from None
    lowest, _ = alpha.getextrema()
    if if_any and lowest != 0:
        return None
    out = io.BytesIO()
    alpha.point(lambda value: 255 if value == 0 else 0).save(out, "PNG", compress_level=1)
    return out.getvalue()
