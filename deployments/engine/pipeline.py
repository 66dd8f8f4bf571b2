"""Pipeline: runs work through the family, and keeps one picture's fault from all others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import numpy as np

from deployments.engine.batcher import Decode, Denoise, Place
from deployments.engine.inline import Runner
from deployments.engine.memory import WeightsPool
from deployments.engine.state import RequestState, Row
from deployments.errors import (
    AtelierError,
    GenerationFailed,
    NumericalFailure,
    OutOfMemory,
    WorkerLost,
)
from deployments.types import GenerationRequest

if TYPE_CHECKING:
    from deployments.families.base import Family

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: What is being done when weights are loaded, for the log and the caller.
FETCHING: Final = "loading the weights of"
OUT_OF_MEMORY: Final = "the device has no memory left for the request; ask for a smaller picture"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one picture: its value, or the error that ends its request.

    Attributes:
        value: pixels or latents when it is finished, else None.
        num_rows: rows of the forward pass that it was part of.
    """

    place: Place
    value: Any = None
    error: AtelierError | None = None
    num_rows: int = 0


Run: TypeAlias = Callable[[Sequence[Place]], list[Outcome]]


class Pipeline:
    """A family on a runner: one step of work in, one outcome per picture out; it never raises.

    Args:
        on_split: told of a batch that memory did not hold, before its pictures are run alone.
    """

    def __init__(
        self,
        family: Family,
        runner: Runner,
        pool: WeightsPool,
        on_split: Callable[[Denoise | Decode], None],
    ) -> None:
        self._family = family
        self._runner = runner
        self._pool = pool
        self._on_split = on_split

    def fetch(
        self, request_id: str, request: GenerationRequest, num_bytes: int
    ) -> AtelierError | None:
        """Begin to load the request's weights for it; the error when that cannot even begin."""
        begin = partial(self._pool.fetch, request.weights, num_bytes, request.all_loras)
        return self._attempt(begin, request_id, FETCHING, can_repeat=False)

    def explain(self, error: Exception, request_id: str, stage: str) -> AtelierError:
        """What to tell the caller of a failure."""
        if isinstance(error, MemoryError):
            logger.warning("request_id=%s ran out of memory while %s", request_id, stage)
            return OutOfMemory(OUT_OF_MEMORY)
        return self._told(error, request_id, stage)

    def encode(
        self, request_id: str, request: GenerationRequest, num_bytes: int
    ) -> tuple[RequestState, ...] | AtelierError:
        """The request's pictures; its weights are acquired then, and released after an error."""
        with self._pool.announced(request.all_loras):
            return self._encode(request_id, request, num_bytes)

    def _encode(
        self, request_id: str, request: GenerationRequest, num_bytes: int
    ) -> tuple[RequestState, ...] | AtelierError:
        acquire = partial(self._pool.acquire, request.weights, num_bytes, request.all_loras)
        weights = self._attempt(acquire, request_id, FETCHING)
        if isinstance(weights, AtelierError):
            return weights
        encode = partial(self._states, request, weights)
        states = self._attempt(encode, request_id, "encoding")
        if isinstance(states, AtelierError):
            self._pool.release(request.weights)
        return states

    def denoise(self, work: Denoise) -> list[Outcome]:
        """One step of every picture."""
        return self._each(work, self._forward)

    def decode(self, work: Decode) -> list[Outcome]:
        """The pixels of every picture, or its latents where those are asked for."""
        return self._each(work, self._finished)

    def preview(self, request_id: str, state: RequestState) -> Any:
        """The picture so far; None when that fails, which harms nobody."""
        try:
            return self._runner.run(self._family.preview, state)
        except Exception:
            logger.exception("request_id=%s has no preview", request_id)
            return None

    def _states(self, request: GenerationRequest, weights: Any) -> tuple[RequestState, ...]:
        states = self._runner.run(self._family.encode, request, weights)
        assert states
        return states

    def _forward(self, places: Sequence[Place]) -> list[Outcome]:
        states = [place.state for place in places]
        rows = [Row(state, k) for state in states for k in range(state.num_rows)]
        predictions = self._runner.run(self._family.denoise, rows)
        assert len(predictions) == len(rows)
        outcomes, start = [], 0
        for place in places:
            end = start + place.state.num_rows
            error = self._advance(place, predictions[start:end])
            outcomes.append(Outcome(place=place, error=error, num_rows=len(rows)))
            start = end
        return outcomes

    def _advance(self, place: Place, predictions: Sequence[Any]) -> AtelierError | None:
        state, step = place.state, place.state.step
        advance = partial(self._runner.run, self._family.advance, state, predictions)
        # NOTE: never repeated, since the picture's scheduler may have counted the step already.
        error = self._attempt(advance, place.request_id, "denoising", can_repeat=False)
        state.step = step + 1
        if error is None and state.is_denoised:
            return self._follow(place)
        return error

    def _follow(self, place: Place) -> AtelierError | None:
        """Let a picture whose timesteps are done enter its next pass, if it has one."""
        follow = partial(self._runner.run, self._family.follow, place.state)
        has_entered = self._attempt(follow, place.request_id, "enlarging")
        return has_entered if isinstance(has_entered, AtelierError) else None

    def _finished(self, places: Sequence[Place]) -> list[Outcome]:
        states = [place.state for place in places]
        values: Sequence[Any]
        if states[0].request.ends_in_latents:
            values = [self._runner.run(self._family.latents, state) for state in states]
        else:
            values = self._runner.run(self._family.decode, states)
        return [_checked(place, value) for place, value in zip(places, values, strict=True)]

    def _each(self, work: Denoise | Decode, run: Run) -> list[Outcome]:
        """Run all together, or one by one when there is one only or together they fail."""
        outcomes = self._together(work, run) if len(work.places) > 1 else None
        if outcomes is None:
            return [outcome for place in work.places for outcome in self._alone(place, run)]
        return outcomes

    def _together(self, work: Denoise | Decode, run: Run) -> list[Outcome] | None:
        try:
            return run(work.places)
        except MemoryError:
            logger.warning("no memory for %d pictures at once: run apart", len(work.places))
            self._on_split(work)
        except Exception:
            logger.exception("a batch of %d pictures failed: run apart", len(work.places))
        return None

    def _alone(self, place: Place, run: Run) -> list[Outcome]:
        stage = "decoding" if place.state.is_denoised else "denoising"
        outcomes = self._attempt(partial(run, [place]), place.request_id, stage)
        if isinstance(outcomes, AtelierError):
            return [Outcome(place=place, error=outcomes)]
        return outcomes

    def _attempt(
        self, work: Callable[[], T], request_id: str, stage: str, *, can_repeat: bool = True
    ) -> T | AtelierError:
        """Its result, or what to tell the caller. Out of memory, idle weights leave first."""
        try:
            return work()
        except MemoryError:
            pass
        except Exception as error:
            return self._told(error, request_id, stage)
        if can_repeat and self._evict_idle():
            self._runner.trim()
            return self._attempt(work, request_id, stage, can_repeat=False)
        logger.warning("request_id=%s ran out of memory while %s", request_id, stage)
        return OutOfMemory(OUT_OF_MEMORY)

    def _evict_idle(self) -> bool:
        """Let go of all that no request uses; whether there was anything."""
        evicted = self._pool.evict_idle(), self._family.evict()
        return any(each.weights for each in evicted)

    def _told(self, error: Exception, request_id: str, stage: str) -> AtelierError:
        """The error for the caller: ours as it is, anything else logged and kept from him."""
        if isinstance(error, AtelierError):
            return without_frames(error)
        logger.error("request_id=%s failed while %s", request_id, stage, exc_info=error)
        if self._runner.is_lost:
            return WorkerLost("the device that ran the request failed")
        return GenerationFailed(f"the model failed while {stage} the request")


def without_frames(error: AtelierError) -> AtelierError:
    """The error, with nothing kept alive of the work that raised it: no tensors, and no LoRAs."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _checked(place: Place, value: Any) -> Outcome:
    """A finished picture, unless it holds NaN or infinity."""
    if np.isfinite(value).all():
        return Outcome(place=place, value=value)
    error = NumericalFailure("the picture came out as NaN or infinity; try other parameters")
    return Outcome(place=place, error=error)
