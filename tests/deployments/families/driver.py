"""Drives a family without an engine: asks, denoises side by side, decodes."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from deployments.engine.state import RequestState, Row
from deployments.families import schedulers
from deployments.families.base import Family
from deployments.types import GenerationRequest, SamplingParams

PARAMS = SamplingParams(
    width=64,
    height=64,
    num_inference_steps=4,
    guidance_scale=5.0,
    strength=0.6,
    seed=7,
    scheduler="Euler",
    sigmas="normal",
)


def png(pixels: np.ndarray) -> bytes:
    """Encode pixels of 0..1."""
    file = io.BytesIO()
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def ask(prompt: str = "a red circle on a blue background", **changes: Any) -> GenerationRequest:
    """A request of the tests' defaults; ``changes`` go to its params or to itself."""
    own = {k: v for k, v in changes.items() if k in GenerationRequest.__dataclass_fields__}
    params = {k: v for k, v in changes.items() if k not in own}
    return GenerationRequest(prompt=prompt, params=replace(PARAMS, **params), **own)


def states_of(family: Family, *requests: GenerationRequest) -> list[RequestState]:
    with torch.inference_mode():
        return [
            state
            for request in requests
            for state in family.encode(request, family.load_weights(request.weights))
        ]


@torch.inference_mode()
def denoise(family: Family, states: Sequence[RequestState]) -> None:
    """One step of every unfinished picture, rows of equal keys together."""
    todo = sorted((s for s in states if not s.is_denoised), key=lambda s: repr(s.batch_key))
    for _, group in itertools.groupby(todo, key=lambda s: s.batch_key):
        batch = list(group)
        rows = [Row(state, branch) for state in batch for branch in range(state.num_rows)]
        predictions = iter(family.denoise(rows))
        for state in batch:
            family.advance(state, list(itertools.islice(predictions, state.num_rows)))
            state.step += 1


def draw(family: Family, *requests: GenerationRequest) -> list[np.ndarray]:
    """All pictures of all requests, denoised side by side; (height, width, 3) in 0..255."""
    states = states_of(family, *requests)
    while not all(state.is_denoised for state in states):
        denoise(family, states)
    with torch.inference_mode():
        return [family.decode([state])[0] * 255 for state in states]


def stock(
    family: Any, pipeline_class: Any, request: GenerationRequest, **inputs: Any
) -> np.ndarray:
    """The stock pipeline's first picture, (height, width, 3) in 0..255."""
    return stock_all(family, pipeline_class, request, **inputs)[0]


def stock_all(
    family: Any, pipeline_class: Any, request: GenerationRequest, **inputs: Any
) -> np.ndarray:
    """The stock pipeline's pictures from a list of generators, seed + k each."""
    params = request.params
    pipeline = pipeline_class(**family.base.components)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = schedulers.build(
        params.scheduler, params.sigmas, pipeline.scheduler.config, params.seed
    )
    size = {"width": params.width, "height": params.height}
    if "image" in inputs and "mask_image" not in inputs:
        size = {}  # image-to-image takes the input's
    if "XL" not in pipeline_class.__name__:
        pipeline.safety_checker = None
    seeds = [params.seed + k for k in range(params.num_images)]
    options = {
        "negative_prompt": request.negative_prompt or None,
        "num_images_per_prompt": params.num_images,
        "num_inference_steps": params.num_inference_steps,
        "guidance_scale": params.guidance_scale,
        "eta": params.eta,
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
        "output_type": "np",
    }
    pictures = pipeline(request.prompt, **{**options, **size, **inputs}).images
    return pictures if inputs.get("output_type") == "latent" else 255 * pictures


def inpainted(drawn: np.ndarray, image: Image.Image, gray: Image.Image) -> np.ndarray:
    """The drawn picture with the input's own pixels where the mask is black."""
    soft = np.asarray(gray, np.float32)[..., None] / 255
    return soft * drawn + (1 - soft) * np.asarray(image.convert("RGB"), np.float32)
