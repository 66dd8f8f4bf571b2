"""Scripts: how the requests of a job make its pictures. A job's ``details`` name one.

A script is a function over the job's requests that draws in whatever order it needs. It keeps no
state and decides nothing at random: after a crash the job runs again from its beginning.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

from deployments.errors import GenerationFailed
from deployments.types import GeneratedImage, GenerationRequest, GenerationResult


class Canvas(Protocol):
    """What a script draws on."""

    async def draw(self, index: int, request: GenerationRequest) -> GenerationResult:
        """Run a request on the job's model. ``index`` is the job's request that it came from, by
        which its progress is counted."""

    def keep(self, place: int, image: GeneratedImage) -> None:
        """Make a picture the job's, at a place counted from 0; an interrupted job ends with those
        that were kept."""


Script: TypeAlias = Callable[
    [Canvas, Sequence[GenerationRequest], Mapping[str, Any]], Awaitable[None]
]

#: Name -> module and function. The empty name is that of jobs that name none.
SCRIPTS: Final[Mapping[str, str]] = {
    "": "router.scripts.together:draw_together",
    "in_turn": "router.scripts.in_turn:draw_in_turn",
    "chain": "router.scripts.chain:draw_chain",
    "mosaic": "router.scripts.mosaic:draw_mosaic",
}


def width_of(name: str, num_requests: int, args: Mapping[str, Any]) -> int:
    """How many of a job's requests its script draws at once, at most."""
    widths = {"in_turn": args.get("at_once"), "chain": 1, "mosaic": len(args.get("corners", ()))}
    return max(1, min(num_requests, widths.get(name) or num_requests))


def find_script(name: str) -> Script:
    """The script with this name. Raises ``GenerationFailed``, which lists the known ones."""
    if name not in SCRIPTS:
        known = ", ".join(filter(None, SCRIPTS))
        raise GenerationFailed(f"this release has no script {name!r}; it has: {known}")
    module, _, function = SCRIPTS[name].partition(":")
    script: Script = getattr(importlib.import_module(module), function)
    return script
