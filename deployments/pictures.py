"""Pictures: between encoded bytes and pixels. PIL and numpy only, and input is never trusted."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import save

from deployments.errors import InvalidImage
from deployments.types import INPUT_FORMATS, MAX_INPUT_PIXELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deployments.types import OutputFormat

#: Pictures of more pixels take long to decode: they are made smaller outside of the engine.
LARGE_PIXELS: Final = 4_000_000

#: What one segment of a JPEG holds, less its marker.
MAX_EXIF_BYTES: Final = 65_000

#: Longest side of an encoded preview in pixels.
MAX_PREVIEW_SIZE: Final = 512

UNDECODABLE: Final = (
    "the input picture cannot be decoded; accepted: PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF"
)


def decode_image(data: bytes) -> Image.Image:
    """An input picture as RGB, or RGBA if it has alpha: upright, in sRGB, its first frame.

    Raises ``InvalidImage`` when it is undecodable or its header tells of too many pixels.
    """
    # NOTE: a decoder may raise almost anything on bytes made to harm it.
    try:
        image = _open(data)
        image.load()
        image = ImageOps.exif_transpose(image)
        return _to_srgb(_to_eight_bits(image))
    except InvalidImage:
        raise
    except Exception as error:
        raise InvalidImage(UNDECODABLE, param="images") from error


def decode_mask(data: bytes, size: tuple[int, int] | None = None) -> Image.Image:
    """A mask as grey (L) picture of ``size`` (width, height), or its own: white is 255.

    What is clear counts as black.

    Raises ``InvalidImage`` as ``decode_image`` does, with ``param`` naming the mask.
    """
    try:
        image = decode_image(data)
    except InvalidImage as error:
        message = error.message.replace("input picture", "mask")
        raise InvalidImage(message, param="mask") from error
    if image.mode == "RGBA":
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    mask = image.convert("L")
    return mask if size in (None, mask.size) else mask.resize(size, Image.Resampling.BILINEAR)


def shrink(data: bytes, width: int, height: int) -> bytes:
    """The picture itself; or, if far larger than ``width`` by ``height``, one of twice that size.

    That one covers twice the size in its own shape. Large pictures take their time to decode: call
    this where nobody waits. What cannot be read stays as it is, for ``decode_image`` to refuse.
    """
    try:
        size = _open(data).size
        if size[0] * size[1] <= max(LARGE_PIXELS, 4 * width * height):
            return data
        image = decode_image(data)
    except Exception:
        return data
    scale = max(2 * width / image.width, 2 * height / image.height)
    if scale >= 1:
        return data
    size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    return _save(image.resize(size, Image.Resampling.LANCZOS), "png", compress_level=1)


def encode(
    pixels: NDArray[np.float32],
    output_format: OutputFormat,
    quality: int = 95,
    texts: Sequence[tuple[str, str]] = (),
) -> bytes:
    """Encode pixels (height, width, 3), 0..1; ``quality`` 1..100 is for jpeg and webp.

    ``safetensors`` holds one tensor ``image``, float32, (3, height, width), 0..1. ``texts`` are
    (keyword, text) pairs for the file's metadata: all of them in png (tEXt, or iTXt beyond
    Latin-1) and safetensors; in jpeg and webp the text of ``parameters``, as the EXIF comment.
    """
    if output_format == "safetensors":
        tensor = np.ascontiguousarray(np.clip(pixels, 0, 1).transpose(2, 0, 1), dtype=np.float32)
        return save({"image": tensor}, metadata=dict(texts) or None)
    options: dict[str, Any] = {"quality": quality}
    if output_format == "png":
        # The default level takes 229 ms of one core for 1024 x 1024 pixels, level 1 takes 94 ms.
        options = {"compress_level": 1, "pnginfo": _png_info(texts)}
    elif comment := dict(texts).get("parameters"):
        options["exif"] = _exif(comment)
    return _save(Image.fromarray(to_uint8(pixels)), output_format, **options)


def encode_preview(pixels: NDArray[np.float32]) -> bytes:
    """A JPEG of pixels (height, width, 3), 0..1, its longest side at most 512 pixels."""
    image = Image.fromarray(to_uint8(pixels))
    image.thumbnail((MAX_PREVIEW_SIZE, MAX_PREVIEW_SIZE))
    return _save(image, "jpeg", quality=80)


def to_uint8(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """0..1 to 0..255, rounded as diffusers rounds."""
    return (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)


def _save(image: Image.Image, output_format: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, output_format, **options)
    return buffer.getvalue()


def _png_info(texts: Sequence[tuple[str, str]]) -> PngInfo:
    """A tEXt chunk per pair, or an iTXt chunk for what Latin-1 cannot write."""
    info = PngInfo()
    for keyword, text in texts:
        try:
            text.encode("latin-1")
            info.add_text(keyword, text)
        except UnicodeEncodeError:
            info.add_itxt(keyword, text)
    return info


def _exif(comment: str) -> bytes:
    """EXIF with a UserComment, UTF-16 big-endian after its prefix; empty if it does not fit."""
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + comment.encode(
        "utf-16-be"
    )
    data = exif.tobytes()
    return data if len(data) <= MAX_EXIF_BYTES else b""


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(BytesIO(data), formats=INPUT_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large() from error
    if image.width * image.height > MAX_INPUT_PIXELS:
        raise _too_large()
    return image


def _too_large() -> InvalidImage:
    limit = MAX_INPUT_PIXELS // 1_000_000
    return InvalidImage(f"the input picture has more than {limit} megapixels", param="images")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, which PIL would clip at 255, to 8; anything else as it is."""
    if not image.mode.startswith("I"):
        return image
    levels = np.asarray(image).astype(np.float32) / 257
    eight = Image.fromarray(levels.clip(0, 255).round().astype(np.uint8))
    eight.info = dict(image.info)
    return eight


def _to_srgb(image: Image.Image) -> Image.Image:
    """RGB or RGBA in sRGB; a profile that cannot be read or applied is left out."""
    mode = "RGBA" if image.has_transparency_data else "RGB"
    profile = image.info.get("icc_profile")
    if not profile:
        return image.convert(mode)
    if image.mode not in {"L", "CMYK", "RGB", "RGBA"}:
        image = image.convert(mode)
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return image.convert(mode)
        target = ImageCms.createProfile("sRGB")
        with_alpha = "RGBA" if image.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(image, source, target, outputMode=with_alpha)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image.convert(mode)
    assert converted is not None
    return converted.convert(mode)
