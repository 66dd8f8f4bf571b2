"""Inbox: requests between the callers' threads and the engine's. Who came, who must leave."""

from __future__ import annotations

from threading import Condition

from deployments.engine.flight import Flight
from deployments.errors import Conflict, ModelNotReady


class Inbox:
    """Owns the table of requests that have not ended. Every method may be called from any thread.

    No lock is held while anything runs, so no caller waits for a step.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._flights: dict[str, Flight] = {}
        self._arrived: list[Flight] = []
        self._cancelled: set[str] = set()
        self._is_open = True
        self._is_woken = False

    @property
    def is_open(self) -> bool:
        """Whether requests are still taken."""
        return self._is_open

    @property
    def flights(self) -> list[Flight]:
        """The requests that have not ended."""
        with self._changed:
            return list(self._flights.values())

    def add(self, flight: Flight) -> None:
        """Put a request in: ``Conflict`` for an id in flight, ``ModelNotReady`` once closed."""
        with self._changed:
            if not self._is_open:
                raise ModelNotReady("the model is shutting down", retry_after=1.0)
            if flight.request_id in self._flights:
                raise Conflict(f"request {flight.request_id!r} is already in flight")
            self._flights[flight.request_id] = flight
            self._arrived.append(flight)
            self._changed.notify()

    def cancel(self, request_id: str) -> bool:
        """Ask a request to leave; False when it has ended or never was."""
        with self._changed:
            if request_id not in self._flights:
                return False
            self._cancelled.add(request_id)
            self._changed.notify()
            return True

    def drain(self, timeout: float | None) -> tuple[list[Flight], list[Flight]]:
        """Who came and who must leave since the last call.

        Waits for news at most ``timeout`` seconds; None waits until there are some, or the end.
        """
        with self._changed:
            self._changed.wait_for(self._has_news, timeout)
            arrived, self._arrived, self._is_woken = self._arrived, [], False
            return arrived, [self._flights[request_id] for request_id in self._cancelled]

    def remove(self, request_id: str) -> bool:
        """Take a request out that has ended; True when it had been cancelled meanwhile."""
        with self._changed:
            del self._flights[request_id]
            was_cancelled = request_id in self._cancelled
            self._cancelled.discard(request_id)
            return was_cancelled

    def wake(self) -> None:
        """Let ``drain`` return at once, this time."""
        with self._changed:
            self._is_woken = True
            self._changed.notify()

    def close(self) -> None:
        """Take no more requests, and wake up who waits in ``drain``."""
        with self._changed:
            self._is_open = False
            self._changed.notify()

    def _has_news(self) -> bool:
        return bool(self._arrived or self._cancelled or self._is_woken or not self._is_open)
