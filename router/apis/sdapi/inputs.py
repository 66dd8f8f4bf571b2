"""Input pictures and masks, made what the engine expects. Drawing: call these in a thread."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageColor, ImageFilter, ImageOps

from deployments.errors import InvalidImage, InvalidRequest
from deployments.types import INPUT_FORMATS, MAX_INPUT_PIXELS, MaskedContent
from router.apis.sdapi.bodies import MAX_SIDE, ImageToImage
from router.pictures import decode_base64, inspect

Size = tuple[int, int]

#: ``resize_mode``.
STRETCH, CROP, FILL, LATENT = range(4)
#: ``inpainting_fill``: what lies under the mask at first. 0 paints the surroundings into it.
FILL_AROUND: Final = 0
MASKED_CONTENT: Final[dict[int, MaskedContent]] = {
    0: "original",
    1: "original",
    2: "noise",
    3: "zeros",
}
#: What Pillow raises for files whose header is right and whose pixels are not.
_UNREADABLE: Final = (OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error)
_LANCZOS: Final = Image.Resampling.LANCZOS


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What img2img draws over.

    Attributes:
        images: encoded; one, or one for each picture of a batch.
        mask: encoded, white where it is drawn, of the images' size; None draws everywhere.
    """

    images: tuple[bytes, ...] = ()
    mask: bytes | None = None
    masked_content: MaskedContent = "original"
    mask_padding: int | None = None
    is_latent_resize: bool = False


def decode_picture(text: str, *, param: str) -> bytes:
    """The bytes of base64 text. Raises ``InvalidImage`` as A1111 words it."""
    try:
        data = decode_base64(text, param=param)
    except InvalidImage:
        raise _invalid(param) from None
    check_picture(data, param=param)
    return data


def check_picture(data: bytes, *, param: str) -> None:
    """Judge a picture by its header. Raises ``InvalidImage``."""
    try:
        inspect(data, param=param)
    except InvalidImage as error:
        raise (error if "pixels" in error.message else _invalid(param)) from None


def check_pixels(images: Sequence[bytes]) -> None:
    """Bound what the pictures of one call hold together. Raises ``InvalidImage``."""
    facts = [inspect(data, param="init_images") for data in images]
    pixels = sum(fact.width * fact.height for fact in facts)
    if pixels > MAX_INPUT_PIXELS:
        raise InvalidImage(
            f"the input pictures have {pixels} pixels together; "
            f"accepted: at most {MAX_INPUT_PIXELS}",
            param="init_images",
        )


def check_size(size: Size) -> None:
    """Refuse to draw at a size that no picture may have. Raises ``InvalidRequest``."""
    width, height = size
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE) or width * height > MAX_INPUT_PIXELS:
        raise InvalidRequest(
            f"{width}x{height} is out of range; accepted: sides of 1 to {MAX_SIDE} and "
            f"{MAX_INPUT_PIXELS} pixels",
            param="width",
        )


def prepare_inputs(
    body: ImageToImage, images: Sequence[bytes], mask: bytes | None, size: Size, background: str
) -> Inputs:
    """The pictures at the size they are drawn at, by ``resize_mode``, and the mask with them.

    With ``inpaint_full_res`` and a mask they keep their own size: the engine cuts out what is
    masked. A blank mask is none, as in A1111. One picture is open at a time.

    Raises ``InvalidImage``, ``InvalidRequest``.
    """
    check_size(size)
    cover = None if mask is None else _open_mask(mask, body)
    if cover is not None and cover.getbbox() is None:
        cover = None
    is_cut = cover is not None and body.inpaint_full_res
    is_resized = not is_cut and body.resize_mode != LATENT
    encoded: list[bytes] = []
    for data in images:
        picture = open_picture(data, background)
        if cover is not None and not encoded:
            cover = cover if cover.size == picture.size else cover.resize(picture.size)
            cover = resize(cover, size, body.resize_mode) if is_resized else cover
        if is_resized:
            picture = resize(picture, size, body.resize_mode)
        if cover is not None and body.inpainting_fill == FILL_AROUND:
            picture = _fill_around(picture, cover)
        encoded.append(encode_png(picture))
    return Inputs(
        images=tuple(encoded),
        mask=None if cover is None else encode_png(cover),
        masked_content="original" if cover is None else MASKED_CONTENT[body.inpainting_fill],
        mask_padding=body.inpaint_full_res_padding if is_cut else None,
        is_latent_resize=body.resize_mode == LATENT and not is_cut,
    )


def open_picture(data: bytes, background: str = "#ffffff") -> Image.Image:
    """The picture upright and in RGB, on a background where it is transparent."""
    try:
        colour = ImageColor.getrgb(background)
    except ValueError:
        raise InvalidRequest(
            f"img2img_background_color {background!r:.50} is not a colour",
            param="img2img_background_color",
        ) from None
    try:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data), formats=INPUT_FORMATS))
        if not image.has_transparency_data:
            return image.convert("RGB")
        image = image.convert("RGBA")
    except _UNREADABLE:
        raise _invalid("image") from None
    whole = Image.new("RGBA", image.size, colour)
    whole.alpha_composite(image)
    return whole.convert("RGB")


def resize(image: Image.Image, size: Size, mode: int) -> Image.Image:
    """The picture at a size: stretched, cut at its middle, or with its edges drawn out."""
    if image.size == size or mode == STRETCH:
        return image if image.size == size else image.resize(size, _LANCZOS)
    if mode == CROP:
        return ImageOps.fit(image, size, _LANCZOS)
    inner = ImageOps.contain(image, size, _LANCZOS)
    left, top = (size[0] - inner.width) // 2, (size[1] - inner.height) // 2
    whole = inner.transform(
        size,
        Image.Transform.EXTENT,
        (-left, -top, size[0] - left, size[1] - top),
    )
    whole.paste(inner, (left, top))
    _draw_out(whole, (left, top, left + inner.width, top + inner.height))
    return whole


def encode_png(image: Image.Image) -> bytes:
    """The picture as PNG, packed fast."""
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def encode_base64(data: bytes) -> str:
    """Base64 without a prefix."""
    return base64.b64encode(data).decode()


def _invalid(param: str) -> InvalidImage:
    return InvalidImage(f"Invalid encoded image: {param}", param=param)


def _open_mask(data: bytes, body: ImageToImage) -> Image.Image:
    """The mask in grey, inverted and blurred as asked; its alpha where that says more."""
    try:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data), formats=INPUT_FORMATS))
        if image.has_transparency_data and image.convert("RGBA").getextrema()[-1] != (255, 255):
            mask = image.convert("RGBA").getchannel("A")
        else:
            mask = image.convert("L")
    except _UNREADABLE:
        raise _invalid("mask") from None
    if body.mask_round:
        mask = mask.point(lambda value: 255 if value > 128 else 0)
    if body.inpainting_mask_invert:
        mask = ImageOps.invert(mask)
    return mask.filter(ImageFilter.GaussianBlur(body.blur)) if any(body.blur) else mask


def _draw_out(image: Image.Image, inner: tuple[int, int, int, int]) -> None:
    """Repeat the outermost pixels of the inner box to the picture's edges."""
    left, top, right, bottom = inner
    for edge, area in (
        ((left, top, left + 1, bottom), (0, top, left, bottom)),
        ((right - 1, top, right, bottom), (right, top, image.width, bottom)),
        ((0, top, image.width, top + 1), (0, 0, image.width, top)),
        ((0, bottom - 1, image.width, bottom), (0, bottom, image.width, image.height)),
    ):
        span = (area[2] - area[0], area[3] - area[1])
        if min(span) > 0:
            image.paste(image.crop(edge).resize(span), area)


def _fill_around(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with the colours around the mask spread into it, coarse first, then finer."""
    known = image.convert("RGBA")
    known.putalpha(ImageOps.invert(mask))
    whole = Image.new("RGBA", image.size)
    side = 1
    while side < max(image.size):
        coarse = known.resize((side, side), Image.Resampling.BOX)
        whole.alpha_composite(coarse.resize(image.size, Image.Resampling.BICUBIC))
        side *= 2
    whole.alpha_composite(known)
    return whole.convert("RGB")
