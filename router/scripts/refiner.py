"""Refiner: one model begins a picture, another one of the same latents ends it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from deployments.types import SEED_RANGE, GenerationRequest, GenerationResult, Latents
from router.scripts import Canvas

#: Added to the seed where the other model goes on: noise that its steps add is not that of the
#: first steps again.
SEED_SHIFT: Final = SEED_RANGE


async def draw_refined(
    canvas: Canvas,
    index: int,
    request: GenerationRequest,
    *,
    model: str,
    switch_at: float,
    weights: str | None = None,
) -> GenerationResult:
    """Draw a request of text-to-image on its own model up to a share of its steps, 0 to 1, and the
    rest on ``model``, with ``weights`` and with those of its LoRAs that this model has, too.
    Progress counts under ``index`` and, of the first part, its complement: so it is not whole
    before the end."""
    steps = request.params.num_inference_steps or 1
    step = math.ceil(round(switch_at * steps, 6))
    if step >= steps or (model, weights) == (request.model, request.weights):
        return await canvas.draw(index, request)
    known = canvas.loras(model)
    loras = tuple(replace(use, source=None) for use in request.loras if use.name in known)
    refined = replace(request, model=model, weights=weights, weights_source=None, loras=loras)
    if step == 0:
        return await canvas.draw(index, canvas.admit(refined))
    begun = await canvas.draw(~index, canvas.admit(_beginning(request, step)))
    ended = await canvas.draw(index, canvas.admit(_ending(refined, begun.latents, step)))
    seed = request.params.seed or 0
    images = tuple(replace(image, seed=seed + k) for k, image in enumerate(ended.images))
    return replace(ended, images=images)


def _beginning(request: GenerationRequest, step: int) -> GenerationRequest:
    params = request.params
    return replace(
        request,
        latents=Latents(
            num_images=params.num_images, width=params.width or 0, height=params.height or 0
        ),
        gives_latents=True,
        params=replace(params, last_step=step, keeps_noise=True),
    )


def _ending(request: GenerationRequest, latents: Latents | None, step: int) -> GenerationRequest:
    params = request.params
    seed = (params.seed or 0) + SEED_SHIFT
    return replace(
        request,
        latents=latents,
        params=replace(params, first_step=step, adds_noise=False, seed=seed),
    )
