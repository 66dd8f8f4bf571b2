"""Engine: the step loop. In a thread of its own it chooses, runs and settles, turn by turn."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from functools import partial
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING, Final

from deployments.engine.batcher import Batcher, Decode, Denoise, Encode, Fetch, Work, estimate
from deployments.engine.events import Event, Failed, Listener
from deployments.engine.flight import Flight
from deployments.engine.inbox import Inbox
from deployments.engine.inline import Runner
from deployments.engine.memory import Budget, WeightsPool
from deployments.engine.pipeline import FETCHING, Outcome, Pipeline, without_frames
from deployments.engine.share import Share, final_tokens
from deployments.errors import AtelierError, Cancelled, GenerationFailed, MemoryExceeded
from deployments.types import Evicted, GenerationRequest, Load, LoraUse

if TYPE_CHECKING:
    from deployments.engine.state import RequestState
    from deployments.families.base import Family

logger = logging.getLogger(__name__)

#: Seconds before looking again when requests wait for weights that others use.
PAUSE = 0.05
#: What is kept of weights when nothing else is said.
DEFAULT_BUDGET: Final = Budget(max_sets=3)
#: The share of who may take what there is.
UNBOUNDED: Final = Share()


class Engine:
    """Draws pictures for many requests at once, one denoising step at a time.

    At every step boundary requests join, leave and are cancelled; which pictures share a forward
    pass is the batcher's choice. Events reach a request's listener from the engine's thread.

    Args:
        family: the model; the engine's thread calls it, and the pool's to load weights.
        runner: the device that it runs on.
        max_batch_rows, max_batch_tokens: bounds of one forward pass; one picture always runs.
        budget: what the sets of weights in memory may take together.
        share: of the device's memory, which the weights and the work may take.
        tokens_per_pixel: image tokens that a pixel is worth, until the first request tells.
    """

    def __init__(
        self,
        family: Family,
        runner: Runner,
        *,
        max_batch_rows: int = 16,
        max_batch_tokens: int = 16384,
        budget: Budget = DEFAULT_BUDGET,
        share: Share = UNBOUNDED,
        tokens_per_pixel: float = 1 / 64,
    ) -> None:
        self._family = family
        self._runner = runner
        self._device = runner.device
        self._inbox = Inbox()
        self._batcher = Batcher(
            max_rows=max_batch_rows, max_tokens=max_batch_tokens, appetite=share.appetite
        )
        self._pool = WeightsPool(
            partial(runner.load, family.load_weights),
            replace(budget, max_total_bytes=share.usable_bytes),
            additions=family.loras,
            expect=family.expected_bytes,
            open_thread=runner.open,
            on_loaded=self._inbox.wake,
        )
        self._pipeline = Pipeline(family, runner, self._pool, self._batcher.shrink)
        self._flights: dict[str, Flight] = {}  # the engine's thread's own view of the inbox's
        self._thread = Thread(target=self._loop, name="engine", daemon=True)
        self._beat = monotonic()
        self._share = share
        self._tokens_per_pixel = tokens_per_pixel
        self._must_trim = False

    def start(self) -> None:
        """Start the engine's thread."""
        self._thread.start()

    def stop(self) -> None:
        """End at the next step boundary: who is still in flight fails as cancelled."""
        self._inbox.close()
        if self._thread.ident is None:
            self._close()
        else:
            self._thread.join()

    def add(self, request_id: str, request: GenerationRequest, listener: Listener) -> None:
        """Take a request whose params are all filled in; ``listener`` hears of it from now on.

        Raises ``MemoryExceeded`` for one that the memory never holds, ``Conflict`` for an id in
        flight and ``ModelNotReady`` after ``stop``.
        """
        flight = Flight(request_id=request_id, request=request, listener=listener)
        flight.estimate = estimate(request, self._tokens_per_pixel)
        flight.num_bytes = self._share.bytes_of(request, self._tokens_per_pixel)
        self._pool.check(request.weights, flight.num_bytes, flight.loras)
        self._inbox.add(flight)

    def prepare(
        self, weights: str | None, loras: Collection[LoraUse], read: Callable[[], None]
    ) -> None:
        """Let ``read`` bring a request's LoRAs into memory, if there is room for them now; else
        they are read when the request is encoded. Any thread but the engine's may call."""
        with self._pool.room(weights, loras) as has_room:
            if has_room:
                read()

    def cancel(self, request_id: str) -> bool:
        """End a request before its next step, with ``Failed(Cancelled)``; False if it has ended."""
        return self._inbox.cancel(request_id)

    def load(self) -> Load:
        """How busy the engine is, and how full."""
        flights, stock = self._inbox.flights, self._pool.stock()
        num_waiting = sum(flight.is_waiting for flight in flights)
        return Load(
            num_running=len(flights) - num_waiting,
            num_waiting=num_waiting,
            work=sum(flight.work for flight in flights),
            resident_weights=self._pool.names,
            weight_bytes=stock.weight_bytes,
            lora_bytes=stock.lora_bytes,
            work_bytes=stock.work_bytes,
            picture_bytes=self._share.picture_bytes,
            host_bytes=self._family.host_bytes,
            memory_bytes=self._share.num_bytes if self._share.is_reserved else None,
            holdings=stock.holdings,
            device=self._device,
        )

    def evict(self) -> Evicted:
        """Drop the weights that nobody uses; the next request that names them loads them again."""
        evicted = self._pool.evict_idle()
        self._must_trim = True
        self._inbox.wake()
        return evicted

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs and the device works."""
        return self._thread.is_alive() and not self._runner.is_lost

    @property
    def seconds_since_step(self) -> float:
        """How long the present turn has been running; 0 when there is nothing to do."""
        flights = self._inbox.flights
        if not flights:
            return 0.0
        return monotonic() - max(self._beat, min(flight.added for flight in flights))

    def _loop(self) -> None:
        self._runner.open()
        self._pool.begin()
        timeout: float | None = None
        while self._inbox.is_open:
            self._join_and_leave(timeout)
            timeout = self._turn()
            self._beat = monotonic()
        self._close()

    def _close(self) -> None:
        self._join_and_leave(0)
        self._end_all(self._flights, Cancelled("the model is shutting down"))
        self._pool.close()

    def _turn(self) -> float | None:
        """Choose, run, settle; returns how long the next turn may wait for news."""
        work: Work | None = None
        try:
            self._end_unfetched()
            self._share_memory()
            work = self._batcher.choose(self._pool.stand)
            if work is None:
                return None if self._batcher.is_empty else PAUSE
            self._pool.reserve(max(self._pool.work_bytes, self._batcher.bytes_of(work)))
            self._settle(work, self._run(work))
        except Exception:
            logger.exception("a turn of the engine failed: the requests concerned end")
            concerned = self._flights if work is None else work.request_ids
            self._end_all(concerned, GenerationFailed("the model failed"))
        return 0

    def _join_and_leave(self, timeout: float | None) -> None:
        arrived, cancelled = self._inbox.drain(timeout)
        self._beat = monotonic()
        for flight in arrived:
            self._flights[flight.request_id] = flight
            self._batcher.add(
                flight.request_id,
                flight.request.weights,
                flight.estimate,
                num_bytes=flight.num_bytes,
                loras=flight.loras,
            )
        for flight in cancelled:
            self._end(flight, Failed(error=Cancelled("the request was cancelled")))
        if self._must_trim:
            self._must_trim = False
            self._runner.trim()

    def _run(self, work: Work) -> list[Outcome]:
        match work:
            case Fetch(request_id):
                self._fetch(self._flights[request_id])
                return []
            case Encode(request_id):
                self._encode(self._flights[request_id])
                return []
            case Denoise():
                return self._pipeline.denoise(work)
            case Decode():
                return self._pipeline.decode(work)

    def _fetch(self, flight: Flight) -> None:
        """Begin to load the request's weights, which stay for it until it ends."""
        error = self._pipeline.fetch(flight.request_id, flight.request, flight.num_bytes)
        if error is not None:
            self._end(flight, Failed(error=error))
        else:
            flight.has_fetched = True

    def _share_memory(self) -> None:
        """Set aside what the largest picture under way takes; batches may take what else is free.

        Who has had weights fetched counts, too: so nobody waits for another who waits for him.
        """
        under_way = (f for f in self._flights.values() if f.has_fetched or not f.is_waiting)
        self._pool.reserve(max((flight.num_bytes for flight in under_way), default=0))
        self._batcher.bound(self._share.free_bytes(self._pool.held_bytes))

    def _end_unfetched(self) -> None:
        """End the requests whose weights could not be loaded."""
        for weights, error in self._pool.take_failures().items():
            for flight in [f for f in self._flights.values() if f.request.weights == weights]:
                if flight.is_waiting:
                    flight.has_fetched = False  # what could not be loaded is held by nobody
                    told = self._pipeline.explain(error, flight.request_id, FETCHING)
                    self._end(flight, Failed(error=told))

    def _encode(self, flight: Flight) -> None:
        states = self._pipeline.encode(flight.request_id, flight.request, flight.num_bytes)
        if isinstance(states, AtelierError):
            self._end(flight, Failed(error=states))
            return
        flight.states = states
        self._learn_tokens(states[0])
        flight.num_bytes = max(flight.num_bytes, self._share.bytes_of_state(states[0]))
        try:
            self._pool.check(flight.request.weights, flight.num_bytes, flight.loras)
        except MemoryExceeded as error:
            self._end(flight, Failed(error=without_frames(error)))
            return
        finished = final_tokens(flight.request, self._tokens_per_pixel)
        self._batcher.admit(flight.request_id, states, decode_tokens=finished)
        self._tell_progress(flight)

    def _settle(self, work: Work, outcomes: list[Outcome]) -> None:
        self._batcher.record(work)
        by_request: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            by_request.setdefault(outcome.place.request_id, []).append(outcome)
        for request_id, own in by_request.items():
            errors = [outcome.error for outcome in own if outcome.error]
            if errors:
                self._end(self._flights[request_id], Failed(error=errors[0]))
            elif isinstance(work, Decode):
                self._settle_decoded(self._flights[request_id], own)
            else:
                self._settle_stepped(self._flights[request_id], own)

    def _settle_stepped(self, flight: Flight, outcomes: list[Outcome]) -> None:
        flight.max_batch_rows = max(flight.max_batch_rows, *(o.num_rows for o in outcomes))
        self._tell_progress(flight)

    def _settle_decoded(self, flight: Flight, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            flight.values[outcome.place.state.index] = outcome.value
            self._batcher.leave(outcome.place)
        if flight.is_complete:
            self._end(flight, flight.finished())

    def _tell_progress(self, flight: Flight) -> None:
        preview = None
        if flight.is_preview_due:
            flight.num_previews += 1
            preview = self._pipeline.preview(flight.request_id, flight.states[0])
        stepped = flight.progress(preview)
        if stepped and not self._tell(flight, stepped):
            self._end(flight, Failed(error=Cancelled("nobody listens any more")))

    def _end(self, flight: Flight, event: Event) -> None:
        """The last event of a request; everything that it held is free before it is told."""
        self._batcher.remove(flight.request_id)
        del self._flights[flight.request_id]
        for is_held in (flight.has_fetched, not flight.is_waiting):
            if is_held:
                self._pool.release(flight.request.weights)
        if self._inbox.remove(flight.request_id):
            event = Failed(error=Cancelled("the request was cancelled"))
        self._tell(flight, event)

    def _end_all(self, request_ids: Iterable[str], error: AtelierError) -> None:
        for request_id in list(request_ids):
            if flight := self._flights.get(request_id):
                self._end(flight, Failed(error=error))

    def _tell(self, flight: Flight, event: Event) -> bool:
        """Hand an event to the listener; False when it is broken."""
        try:
            flight.listener(event)
        except Exception:
            logger.exception("request_id=%s has a broken listener", flight.request_id)
            return False
        return True

    def _learn_tokens(self, state: RequestState) -> None:
        """How many image tokens a pixel is worth, for the estimates of those who wait.

        Tokens of references have nothing to do with the picture's pixels, so edits tell nothing.
        """
        params = state.request.params
        if params.width and params.height and not state.request.images:
            self._tokens_per_pixel = state.tokens / (params.width * params.height)
