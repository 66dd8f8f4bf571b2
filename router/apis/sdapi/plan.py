"""Plan: what a call asks of the cluster, and how its answer lays the pictures out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deployments.types import GenerationRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """One grid: its cells, row by row, each some of the job's pictures by their places."""

    cells: tuple[tuple[int, ...], ...]
    columns: int
    x_labels: tuple[str, ...] = ()
    y_labels: tuple[str, ...] = ()
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the answer shows: the grid of all sheets first, then sheets, then pictures, if asked."""

    sheets: tuple[Sheet, ...] = ()
    shows_sheets: bool = False
    shows_pictures: bool = True
    margin: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The requests of one job, the script that draws them, and the answer's layout.

    Attributes:
        refiners: what ends the pictures of each request; empty where it is the call's own for all.
    """

    requests: tuple[GenerationRequest, ...]
    script: str = ""
    script_args: Mapping[str, Any] = field(default_factory=dict)
    layout: Layout = field(default_factory=Layout)
    refiners: tuple[Mapping[str, Any] | None, ...] = ()
