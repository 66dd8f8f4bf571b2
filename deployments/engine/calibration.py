"""Calibration: what a model's work takes of memory, measured on one small picture."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from deployments.engine.share import Appetite
from deployments.engine.state import Row
from deployments.errors import AtelierError
from deployments.types import GenerationRequest, SamplingParams

if TYPE_CHECKING:
    from deployments.config import ModelConfig
    from deployments.engine.inline import Runner
    from deployments.families.base import Family

logger = logging.getLogger(__name__)

#: Pixels of a side of the picture, where the model's limits allow it.
SIDE: Final = 512
#: What is measured times this is expected: larger pictures take a little more of each token.
CAUTION: Final = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was measured: bytes per image token, image tokens per pixel, bytes of the weights."""

    appetite: Appetite
    tokens_per_pixel: float
    weight_bytes: int


def calibrate(family: Family, runner: Runner, config: ModelConfig) -> Calibration:
    """Draw one small picture and look at the peaks; takes about a step and a decoding.

    To be called before the engine starts. A model that draws nothing from a text alone is taken to
    need no memory for its work. Raises ``MemoryError`` where not even that picture finds room.
    """
    runner.open()
    request = _request(config, family.size_multiple)
    weights = runner.load(family.load_weights, None)
    try:
        [state] = runner.run(family.encode, request, weights)
    except AtelierError as error:
        logger.warning("the memory that the model's work takes is not known: %s", error)
        return Calibration(
            appetite=Appetite(), tokens_per_pixel=1 / 64, weight_bytes=weights.num_bytes
        )
    rows = [Row(state, branch) for branch in range(state.num_rows)]
    runner.run(family.denoise, rows)  # the first pass alone also takes what libraries keep
    predictions, denoised = runner.measure(family.denoise, rows)
    runner.run(family.advance, state, predictions)
    _, decoded = runner.measure(family.decode, [state])
    runner.trim()
    width, height = request.params.width or 1, request.params.height or 1
    return Calibration(
        appetite=Appetite(
            denoise=CAUTION * denoised / (len(rows) * state.tokens),
            decode=CAUTION * decoded / state.tokens,
        ),
        tokens_per_pixel=state.tokens / (width * height),
        weight_bytes=weights.num_bytes,
    )


def _request(config: ModelConfig, multiple: int) -> GenerationRequest:
    defaults, limits = config.defaults, config.limits
    side = max(limits.min_size, min(SIDE, limits.max_size, defaults.width))
    side = max(multiple, side // multiple * multiple)
    params = {**defaults.model_dump(), "width": side, "height": side, "seed": 0}
    params["num_inference_steps"] = min(2, defaults.num_inference_steps)
    return GenerationRequest(prompt="a picture", params=SamplingParams(**params))
