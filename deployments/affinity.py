"""Affinity: which replicas of a model a request prefers, by the weights that they hold. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from deployments.types import GenerationRequest

#: A replica that holds the weights is preferred until it has so many requests more than the one
#: with the fewest: then reading the weights there once more is worth its while.
MAX_LEAD: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A replica: whether it holds the weights, and its requests as last heard (None: unknown)."""

    id: Any
    has_weights: bool
    num_requests: int | None


def ranks(candidates: Sequence[Candidate]) -> list[list[Any]]:
    """The replicas' ids by preference; within a rank the one with the fewest requests is taken."""
    known = [one.num_requests for one in candidates if one.num_requests is not None]
    most = min(known, default=0) + MAX_LEAD
    preferred = [one.id for one in candidates if one.has_weights and (one.num_requests or 0) < most]
    others = [one.id for one in candidates if one.id not in preferred]
    return [rank for rank in (preferred, others) if rank]


def weights_of(args: Sequence[Any]) -> str | None:
    """The name of the weights that a call to a host is about; None for the base model's own."""
    for arg in args:
        if isinstance(arg, GenerationRequest):
            return arg.weights_source.id if arg.weights_source else arg.weights
    return None
