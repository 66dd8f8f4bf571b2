"""Calibration: what a model's work takes of memory, measured on a small picture or two."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from deployments.engine.share import Appetite
from deployments.engine.state import RequestState, Row
from deployments.errors import AtelierError
from deployments.types import GenerationRequest, SamplingParams

if TYPE_CHECKING:
    from deployments.config import ModelConfig
    from deployments.engine.inline import Runner
    from deployments.families.base import Family

logger = logging.getLogger(__name__)

#: Pixels of a side of the picture, where the model's limits allow it: on a GPU, and on a CPU, where
#: it takes time, and what a token takes does not depend on the size.
GPU_SIDE: Final = 512
CPU_SIDE: Final = 256
#: What is measured times this is expected: larger pictures take a little more of each token.
CAUTION: Final = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was measured: the appetite, image tokens per pixel, bytes of the weights."""

    appetite: Appetite
    tokens_per_pixel: float
    weight_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """The most bytes of each stage of one picture, and what they are measured by.

    Attributes:
        encode: with a text alone.
        input: encoding a picture, too, the largest of which has ``input_pixels``.
        num_rows, tokens: rows of the forward pass, and image tokens of each.
    """

    encode: int
    input: int
    denoise: int
    decode: int
    pixels: int
    input_pixels: int
    num_rows: int
    tokens: int


def calibrate(family: Family, runner: Runner, config: ModelConfig) -> Calibration:
    """Draw one small picture and look at the peaks; takes about a step, a decoding and an encoding.

    To be called before the engine starts. A model that draws nothing from a text alone is taken to
    need no memory for its work. Raises ``MemoryError`` where not even that picture finds room.
    """
    runner.open()
    weights = runner.load(family.load_weights, None)
    side = CPU_SIDE if runner.device.id == "cpu" else GPU_SIDE
    request = _request(config, family.size_multiple, side)
    try:
        small = _measure(family, runner, request, weights)
    except AtelierError as error:
        logger.warning("the memory that the model's work takes is not known: %s", error)
        return Calibration(
            appetite=Appetite(), tokens_per_pixel=1 / 64, weight_bytes=weights.num_bytes
        )
    tokens_per_pixel = small.tokens / _pixels(request)
    points = [small]
    if config.vae_tiling:
        larger = _request(config, family.size_multiple, 2 * side)
        points.append(_measure(family, runner, larger, weights))
    runner.trim()
    encode, encode_start = _line([(peaks.input_pixels, peaks.input) for peaks in points])
    decode, decode_start = _line([(peaks.pixels, peaks.decode) for peaks in points])
    return Calibration(
        appetite=Appetite(
            text=round(CAUTION * small.encode),
            encode=CAUTION * encode / tokens_per_pixel,
            denoise=CAUTION * small.denoise / (small.num_rows * small.tokens),
            decode=CAUTION * decode / tokens_per_pixel,
            encode_start=round(CAUTION * encode_start),
            decode_start=round(CAUTION * decode_start),
        ),
        tokens_per_pixel=tokens_per_pixel,
        weight_bytes=weights.num_bytes,
    )


def _measure(family: Family, runner: Runner, request: GenerationRequest, weights: Any) -> Peaks:
    """Walk one step of a picture. Of encoding and denoising the first time counts for nothing: it
    also takes what libraries keep."""
    runner.run(family.encode, request, weights)
    states, encoded = runner.measure(family.encode, request, weights)
    state: RequestState = states[0]
    rows = [Row(state, branch) for branch in range(state.num_rows)]
    runner.run(family.denoise, rows)
    predictions, denoised = runner.measure(family.denoise, rows)
    runner.run(family.advance, state, predictions)
    _, decoded = runner.measure(family.decode, [state])
    pixels = _pixels(request)
    return Peaks(
        encode=encoded,
        input=_measure_input(family, runner, request, weights),
        denoise=denoised,
        decode=decoded,
        pixels=pixels,
        input_pixels=max(pixels, family.reference_side**2),
        num_rows=len(rows),
        tokens=state.tokens,
    )


def _measure_input(family: Family, runner: Runner, request: GenerationRequest, weights: Any) -> int:
    """What encoding takes when the request has an input picture that is drawn over."""
    if not {"image-to-image", "edit"} & set(family.modes):
        return 0
    params = replace(request.params, strength=0.5)
    with_input = replace(request, images=(_picture(request.params),), params=params)
    try:
        return runner.measure(family.encode, with_input, weights)[1]
    except AtelierError as error:
        logger.warning("the memory that encoding a picture takes is not known: %s", error)
        return 0


def _line(points: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Bytes per pixel, and at none, of a line through (pixels, bytes) points; through one and the
    origin where there are no two."""
    (pixels, taken), (more_pixels, more_taken) = points[0], points[-1]
    if pixels == more_pixels:
        return taken / pixels, 0.0
    slope = max(0.0, (more_taken - taken) / (more_pixels - pixels))
    return slope, max(0.0, taken - slope * pixels)


def _request(config: ModelConfig, multiple: int, side: int) -> GenerationRequest:
    defaults, limits = config.defaults, config.limits
    side = max(limits.min_size, min(side, limits.max_size, defaults.width))
    side = max(multiple, side // multiple * multiple)
    params = {**defaults.model_dump(), "width": side, "height": side, "seed": 0}
    params["num_inference_steps"] = min(2, defaults.num_inference_steps)
    return GenerationRequest(prompt="a picture", params=SamplingParams(**params))


def _pixels(request: GenerationRequest) -> int:
    return (request.params.width or 1) * (request.params.height or 1)


def _picture(params: SamplingParams) -> bytes:
    """An input picture of the size that is drawn: a gradient."""
    width, height = params.width or 1, params.height or 1
    row = np.linspace(0, 255, width, dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(np.broadcast_to(row[:, None], (height, width, 3)).copy()).save(out, "PNG")
    return out.getvalue()
