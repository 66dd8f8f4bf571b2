"""Requests some at a time, in order, so that an interruption leaves the first of them finished."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from deployments.types import GenerationRequest
from router.scripts import Canvas, Skipped
from router.scripts.refiner import draw_refined


async def draw_in_turn(
    canvas: Canvas, requests: Sequence[GenerationRequest], args: Mapping[str, Any]
) -> None:
    """Draw ``at_once`` requests side by side, then as many of the next.

    Where ``refiners`` has an entry for a request, its ``model`` ends the pictures, from the share
    ``switch_at`` of the steps on. What a model says of a picture is told as the result's ``text``.
    """
    refiners = args.get("refiners") or [None] * len(requests)
    place = 0
    for start in range(0, len(requests), args["at_once"]):
        async with asyncio.TaskGroup() as tasks:
            for offset, request in enumerate(requests[start : start + args["at_once"]]):
                index = start + offset
                task = _draw(canvas, index, place, request, refiners[index])
                tasks.create_task(task)
                place += request.params.num_images


async def _draw(
    canvas: Canvas,
    index: int,
    place: int,
    request: GenerationRequest,
    refiner: Mapping[str, Any] | None,
) -> None:
    try:
        result = await (
            draw_refined(canvas, index, request, **refiner)
            if refiner
            else canvas.draw(index, request)
        )
    except Skipped:
        return
    for offset, image in enumerate(result.images):
        canvas.keep(place + offset, image)
    if result.text:
        canvas.tell({"text": result.text})
