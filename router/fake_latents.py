"""Fake latents: what ``FakeModels`` make of requests that take or give latents."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from deployments.types import Latents

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deployments.types import GenerationRequest

    Floats = NDArray[np.float32]

#: Pixels of one position's side.
FACTOR = 8
#: What a whole schedule leaves of the latents that it began with.
_LEFT = 0.1


def have_part(request: GenerationRequest) -> bool:
    """Whether latents have part in a request."""
    return request.latents is not None or request.ends_in_latents or request.task == "decode"


def draw_latents(request: GenerationRequest, family: str) -> Latents:
    """The latents that come of a request, those of a flat colour per text and seed.

    Part of a schedule goes part of the way there, so that two halves are one whole.
    """
    params = request.params
    width, height = params.width or 64, params.height or 64
    if request.task == "encode":
        arrays = [_encode(data, width, height) for data in request.images]
    else:
        arrays = [_drawn(request, index) for index in range(params.num_images)]
    value = np.stack(arrays)
    return Latents(
        num_images=len(arrays),
        width=width,
        height=height,
        value=value,
        family=family,
        num_bytes=value.nbytes,
    )


def decode_latents(latents: Latents, output_format: str) -> list[bytes]:
    """An encoded picture of each."""
    decoded = []
    for array in _array(latents):
        levels = (array.transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)
        large = levels.repeat(FACTOR, axis=0).repeat(FACTOR, axis=1)
        out = io.BytesIO()
        Image.fromarray(large).save(
            out, "PNG" if output_format == "safetensors" else output_format.upper()
        )
        decoded.append(out.getvalue())
    return decoded


def colour(request: GenerationRequest, index: int) -> bytes:
    """Red, green and blue of picture ``index``."""
    texts = [(part.text, part.weight, part.is_zeroed) for part in request.parts]
    told = f"{request.prompt}{texts or ''} {(request.params.seed or 0) + index}"
    return hashlib.sha256(told.encode()).digest()[:3]


def _drawn(request: GenerationRequest, index: int) -> Floats:
    params = request.params
    target = np.array(list(colour(request, index)), dtype=np.float32)[:, None, None] / 255
    if request.latents is None:
        shape = (3, (params.height or 64) // FACTOR, (params.width or 64) // FACTOR)
        return np.broadcast_to(target, shape).astype(np.float32)
    start: Floats = _array(request.latents)[index]
    if request.task == "decode":
        return start
    share = 1 - _LEFT ** (params.num_walked_steps / (params.num_inference_steps or 1))
    redrawn = np.float32(share) * _redrawn(request, start.shape)
    drawn: Floats = (start + redrawn * (target - start)).astype(np.float32)
    return drawn


def _redrawn(request: GenerationRequest, shape: tuple[int, ...]) -> Floats:
    if request.mask is None:
        return np.ones((1, 1), dtype=np.float32)
    gray = Image.open(io.BytesIO(request.mask)).convert("L").resize((shape[2], shape[1]))
    return np.asarray(gray, dtype=np.float32) / np.float32(255)


def _encode(data: bytes, width: int, height: int) -> Floats:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    small = image.resize((width // FACTOR, height // FACTOR), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)


def _array(latents: Latents) -> Floats:
    if latents.value is None:
        shape = (latents.num_images, 3, latents.height // FACTOR, latents.width // FACTOR)
        return np.zeros(shape, dtype=np.float32)
    return np.asarray(latents.value, dtype=np.float32)
