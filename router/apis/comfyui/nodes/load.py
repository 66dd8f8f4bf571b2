"""Nodes that load pictures and masks from the owner's files."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from PIL import Image, ImageCms, ImageOps, ImageSequence

from deployments.errors import InvalidImage
from deployments.types import INPUT_FORMATS, MAX_INPUT_PIXELS
from router.apis.comfyui.drawing import Drawing
from router.apis.comfyui.node import Input, Node, Offer
from router.apis.comfyui.values import MAX_BATCH, Images, Masks

_CHANNELS: Final = ("alpha", "red", "green", "blue")
#: Side of the mask of a picture without alpha.
_EMPTY_MASK: Final = 64
#: What a camera writes beside a JPEG are smaller copies of it, not more pictures.
_ONE_PICTURE: Final = "MPO"


async def load_image(drawing: Drawing, *, image: str) -> tuple[Images, Masks]:
    """A file's pictures, and a mask of each: 1 - alpha. A picture without alpha has zeros."""
    frames = await asyncio.to_thread(_read, drawing.input(image), image)
    return await asyncio.to_thread(_split, frames)


async def load_image_mask(drawing: Drawing, *, image: str, channel: str) -> tuple[Masks]:
    """One channel of a file's pictures as masks; that of alpha is 1 - alpha."""
    images, masks = await load_image(drawing, image=image)
    if channel == "alpha":
        return (masks,)
    pixels = np.stack(images.pixels)[..., _CHANNELS.index(channel) - 1]
    return (Masks(values=pixels.astype(np.float32) / np.float32(255)),)


def _read(data: bytes, name: str) -> list[Image.Image]:
    """The frames of a file that have the size of its first, upright, in sRGB, RGB or RGBA."""
    # NOTE: a decoder may raise almost anything on bytes made to harm it.
    try:
        with Image.open(io.BytesIO(data), formats=INPUT_FORMATS) as file:
            frames = list(_frames(file, name))
    except InvalidImage:
        raise
    except Exception as error:
        raise InvalidImage(f"{name} is not a picture that can be decoded", param="image") from error
    return [frame for frame in frames if frame.size == frames[0].size]


def _frames(file: Image.Image, name: str) -> Iterator[Image.Image]:
    num_pixels = 0
    for number, frame in enumerate(ImageSequence.Iterator(file)):
        num_pixels += frame.width * frame.height
        if num_pixels > MAX_INPUT_PIXELS:
            raise InvalidImage(
                f"{name} has too many pixels; accepted: at most {MAX_INPUT_PIXELS}", param="image"
            )
        if number == MAX_BATCH:
            raise InvalidImage(
                f"{name} has too many frames; accepted: at most {MAX_BATCH}", param="image"
            )
        frame.load()
        yield _to_srgb(_to_eight_bits(ImageOps.exif_transpose(frame)))
        if file.format == _ONE_PICTURE:
            return


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, which Pillow would clip at 255, to 8; anything else as it is."""
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
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        shape = "RGBA" if image.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(image, source, target, outputMode=shape)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image.convert(mode)
    return image.convert(mode) if converted is None else converted.convert(mode)


def _split(frames: list[Image.Image]) -> tuple[Images, Masks]:
    pixels = [np.asarray(frame.convert("RGB")) for frame in frames]
    if any(frame.mode == "RGBA" for frame in frames):
        alphas = np.stack([np.asarray(frame.convert("RGBA"))[..., 3] for frame in frames])
        masks = 1 - alphas.astype(np.float32) / np.float32(255)
    else:
        masks = np.zeros((len(frames), _EMPTY_MASK, _EMPTY_MASK), np.float32)
    return Images(pixels=pixels), Masks(values=masks)


def _find_missing(offer: Offer, literals: Mapping[str, Any]) -> tuple[str, str] | None:
    if literals["image"] in offer.files:
        return None
    return "image", f"Invalid image file: {literals['image']}"


def _list_uploads(offer: Offer) -> list[str]:
    return sorted(offer.files)


_FILE: Final = Input(
    name="image", choices=_list_uploads, options={"image_upload": True}, is_open=True
)

NODES: Final = (
    Node(
        class_type="LoadImage",
        run=load_image,
        inputs=(_FILE,),
        outputs=("IMAGE", "MASK"),
        category="image",
        display_name="Load Image",
        check=_find_missing,
    ),
    Node(
        class_type="LoadImageMask",
        run=load_image_mask,
        inputs=(_FILE, Input(name="channel", choices=_CHANNELS)),
        outputs=("MASK",),
        category="image",
        display_name="Load Image (as Mask)",
        check=_find_missing,
    ),
    Node(
        class_type="LoadImageOutput",
        run=load_image,
        inputs=(
            Input(
                name="image",
                choices=(),
                options={"image_upload": True, "image_folder": "output"},
                is_open=True,
            ),
        ),
        outputs=("IMAGE", "MASK"),
        category="image",
        display_name="Load Image (from Outputs)",
        description="Loads a picture that a graph has saved, named with [output] after its name.",
        check=_find_missing,
        is_experimental=True,
    ),
)
