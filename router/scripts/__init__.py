"""Scripts: how the requests of a job make its pictures. A job's ``details`` name one.

A script is a function over the job's requests that draws in whatever order it needs. It keeps no
state and decides nothing at random: after a crash the job runs again from its beginning.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

from deployments.errors import GenerationFailed
from deployments.types import (
    GeneratedImage,
    GenerationRequest,
    GenerationResult,
    ModelCard,
    Progress,
)
from router.belongings import Variant
from router.files import Files
from router.job import Job, JobImage


class Skipped(Exception):
    """The job's owner asked to leave out what was being drawn, and to go on."""


class Canvas(Protocol):
    """What a script draws on."""

    @property
    def job(self) -> Job:
        """The job as it was claimed."""

    @property
    def files(self) -> Files:
        """The owners' files."""

    @property
    def num_previews(self) -> int:
        """Previews that watchers were given so far, those of earlier attempts among them."""

    @property
    def is_interrupted(self) -> bool:
        """Whether the job's owner asked it to end early: then the script is cancelled, and what it
        still tells and raises counts."""

    def card(self, model: str) -> ModelCard:
        """The card of the model with this id, alias, or name of weights for it; see
        ``routing.resolve`` for errors."""

    def variant(self, model: str) -> Variant:
        """The same, and the weights; of owners' own those that the job was accepted with."""

    def loras(self, model: str) -> tuple[str, ...]:
        """Names of the LoRAs that requests to a model may use."""

    def admit(self, request: GenerationRequest) -> GenerationRequest:
        """The request as the model that it names, or else the job's, will run it: every knob filled
        in, its weights and LoRAs found; see ``routing.admit`` for errors. A job's own requests are
        that already."""

    async def draw(
        self, index: int, request: GenerationRequest, listen: Listener | None = None
    ) -> GenerationResult:
        """Run a request on the model that it names, or else the job's. ``index`` is the job's
        request that it came from, or any number of its own, by which its progress is counted;
        ``listen`` hears of each news first. Raises ``Skipped``, where ``CAN_SKIP``."""

    def keep(self, place: int, image: GeneratedImage | JobImage) -> None:
        """Make a picture the job's, at a place counted from 0; an interrupted job ends with those
        that were kept, and so does a failed one whose script told a result. A ``JobImage`` lies in
        the store already."""

    def note(self, note: Mapping[str, Any], *, topic: str = "") -> None:
        """Tell watchers something (JSON values), in order. It replaces the last note of the same
        topic, if there was one."""

    def tell(self, result: Mapping[str, Any]) -> None:
        """Set the job's result (JSON values)."""


#: Hears the news of one request.
Listener: TypeAlias = Callable[[Progress], None]
Script: TypeAlias = Callable[
    [Canvas, Sequence[GenerationRequest], Mapping[str, Any]], Awaitable[None]
]

#: Name -> module and function. The empty name is that of jobs that name none.
SCRIPTS: Final[Mapping[str, str]] = {
    "": "router.scripts.together:draw_together",
    "in_turn": "router.scripts.in_turn:draw_in_turn",
    "chain": "router.scripts.chain:draw_chain",
    "mosaic": "router.scripts.mosaic:draw_mosaic",
    "graph": "router.apis.comfyui.executor:execute_graph",
}


#: The scripts that go on when they are asked to skip.
CAN_SKIP: Final = frozenset({"", "in_turn"})


def width_of(name: str, num_requests: int, args: Mapping[str, Any]) -> int:
    """How many of a job's requests its script draws at once, at most."""
    if name == "graph":
        return max(1, int(args.get("width", 1)))
    widths = {"in_turn": args.get("at_once"), "chain": 1, "mosaic": len(args.get("corners", ()))}
    return max(1, min(num_requests, widths.get(name) or num_requests))


def load_scripts() -> None:
    """Import every script now, so that files which change underneath a process do not mix with
    those that it began with."""
    for name in SCRIPTS:
        find_script(name)


def find_script(name: str) -> Script:
    """The script with this name. Raises ``GenerationFailed``, which lists the known ones."""
    if name not in SCRIPTS:
        known = ", ".join(filter(None, SCRIPTS))
        raise GenerationFailed(f"this release has no script {name!r}; it has: {known}")
    module, _, function = SCRIPTS[name].partition(":")
    script: Script = getattr(importlib.import_module(module), function)
    return script
