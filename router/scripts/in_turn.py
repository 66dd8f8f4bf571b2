"""Requests some at a time, in order, so that an interruption leaves the first of them finished."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from deployments.types import GenerationRequest
from router.scripts import Canvas


async def draw_in_turn(
    canvas: Canvas, requests: Sequence[GenerationRequest], args: Mapping[str, Any]
) -> None:
    """Draw ``at_once`` requests side by side, then as many of the next."""
    place = 0
    for start in range(0, len(requests), args["at_once"]):
        async with asyncio.TaskGroup() as tasks:
            for offset, request in enumerate(requests[start : start + args["at_once"]]):
                tasks.create_task(_draw(canvas, start + offset, place, request))
                place += request.params.num_images


async def _draw(canvas: Canvas, index: int, place: int, request: GenerationRequest) -> None:
    result = await canvas.draw(index, request)
    for offset, image in enumerate(result.images):
        canvas.keep(place + offset, image)
