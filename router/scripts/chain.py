"""Chains of requests: each draws over the picture of the one before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from deployments.types import GenerationRequest
from router.scripts import Canvas


async def draw_chain(
    canvas: Canvas, requests: Sequence[GenerationRequest], args: Mapping[str, Any]
) -> None:
    """Draw chains of ``length`` requests each, one after another.

    A chain's first request brings its own input; the others need none. The job's pictures are all
    of them, in order; with ``keep`` "last" only each chain's last.
    """
    length = args["length"]
    for start in range(0, len(requests), length):
        links = requests[start : start + length]
        await _draw(canvas, start, links, keeps_all=args["keep"] == "all")


async def _draw(
    canvas: Canvas, start: int, links: Sequence[GenerationRequest], *, keeps_all: bool
) -> None:
    above: bytes | None = None
    for offset, link in enumerate(links):
        request = link if above is None else replace(link, images=(above,))
        image = (await canvas.draw(start + offset, request)).images[0]
        above = image.data
        if keeps_all or offset == len(links) - 1:
            canvas.keep(start + offset, image)
