"""All requests at once; the job's pictures are theirs, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deployments.types import GenerationRequest
from router.scripts import Canvas
from router.scripts.in_turn import draw_in_turn


async def draw_together(
    canvas: Canvas, requests: Sequence[GenerationRequest], _args: Mapping[str, Any]
) -> None:
    """Draw side by side: the models share steps among them."""
    await draw_in_turn(canvas, requests, {"at_once": len(requests)})
