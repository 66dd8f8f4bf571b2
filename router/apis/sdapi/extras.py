"""Upscaling of finished pictures: ``extra-single-image``. Drawing: call these in a thread."""

from __future__ import annotations

import html
from collections.abc import Mapping

from PIL import Image, ImageOps

from deployments.errors import InvalidRequest
from deployments.types import MAX_INPUT_PIXELS
from router.apis.sdapi.bodies import Extras
from router.apis.sdapi.grid import encode
from router.apis.sdapi.infotext import read_infotext
from router.apis.sdapi.inputs import Size, open_picture
from router.apis.sdapi.options import Options, output_format
from router.apis.sdapi.upscalers import find_upscaler


def upscale(data: bytes, body: Extras, options: Options, learned: Mapping[str, bytes]) -> bytes:
    """The picture enlarged by the first upscaler, with the second mixed in.

    ``learned`` holds what hosted models made of it, by the upscaler's name; that is then fitted.
    "None" leaves it as it is. Faces are restored as A1111 does without the weights: not at all.
    """
    image = open_picture(data)
    text, _ = read_infotext(data)
    size = _size(image, body)
    whole = _by(image, body.upscaler_1, size, body, learned)
    if body.upscaler_2 != "None" and body.extras_upscaler_2_visibility > 0:
        other = _by(image, body.upscaler_2, size, body, learned)
        if other.size == whole.size:
            whole = Image.blend(whole, other, body.extras_upscaler_2_visibility)
    quality = max(1, min(100, int(options["jpeg_quality"])))
    return encode(whole, output_format(options), quality, text)


def html_info(body: Extras) -> str:
    """What was done, as the original words it."""
    if body.upscaler_1 == "None":
        return ""
    if body.resize_mode == 0:
        done = f"Postprocess upscale by: {body.upscaling_resize:g}"
    else:
        size = f"{body.upscaling_resize_w}x{body.upscaling_resize_h}"
        done = f"Postprocess upscale to: {size}"
    return f"<p>{html.escape(f'{done}, Postprocess upscaler: {body.upscaler_1}')}</p>"


def _by(
    image: Image.Image, upscaler: str, size: Size, body: Extras, learned: Mapping[str, bytes]
) -> Image.Image:
    if upscaler in learned:
        image, upscaler = open_picture(learned[upscaler]), "Lanczos"
    resampling = find_upscaler(upscaler)
    if upscaler.lower() == "none":
        return image
    if body.resize_mode == 0 or not body.upscaling_crop:
        return image.resize(size, resampling)
    return ImageOps.fit(image, size, resampling)


def _size(image: Image.Image, body: Extras) -> Size:
    """Pixels of the result; without a crop the named size is what the picture has to cover."""
    wanted = (body.upscaling_resize_w, body.upscaling_resize_h)
    scale = body.upscaling_resize
    if body.resize_mode == 1:
        scale = max(wanted[0] / image.width, wanted[1] / image.height)
    size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    if body.resize_mode == 1 and body.upscaling_crop:
        size = wanted
    if size[0] * size[1] > MAX_INPUT_PIXELS:
        raise InvalidRequest(
            f"{size[0]}x{size[1]} has too many pixels; accepted: at most {MAX_INPUT_PIXELS}",
            param="upscaling_resize",
        )
    return size
