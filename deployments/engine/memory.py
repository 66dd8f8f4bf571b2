"""WeightsPool: which sets of weights are in memory, who uses them, and which leaves first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

from deployments.types import Evicted


@dataclass(slots=True)
class Resident:
    """One set of weights in memory and how many requests use it."""

    weights: Any
    num_users: int = 0

    @property
    def is_pinned(self) -> bool:
        """Whether the set stays in memory whatever the pool does, as a base model's own may."""
        return bool(getattr(self.weights, "is_pinned", False))


class WeightsPool:
    """Owns the sets of weights: counts their users and drops the least recently used idle set.

    ``acquire`` and ``release`` belong to one thread, everything else to any; no call waits for a
    load that another thread does.

    Args:
        load: returns the set of a name (None is the base model's own), an object with ``name: str``
            and ``num_bytes: int``, and perhaps a true ``is_pinned``: such a set is never dropped.
            It may raise: the other sets stay.
        max_resident: sets kept in memory. While one more is loading it is there besides them,
            unless it does not fit: then idle sets leave first.
    """

    def __init__(self, load: Callable[[str | None], Any], max_resident: int) -> None:
        self._load = load
        self._max_resident = max_resident
        self._residents: dict[str | None, Resident] = {}  # the least recently used first
        self._lock = Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sets in memory, the least recently used first."""
        with self._lock:
            return tuple(resident.weights.name for resident in self._residents.values())

    @property
    def num_bytes(self) -> int:
        """Bytes that the sets in memory take."""
        with self._lock:
            return sum(resident.weights.num_bytes for resident in self._residents.values())

    def can_acquire(self, name: str | None) -> bool:
        """Whether the set is there, or fits once an idle one has left."""
        with self._lock:
            if name in self._residents:
                return True
            stay = sum(r.num_users > 0 or r.is_pinned for r in self._residents.values())
            return stay < self._max_resident or all(r.is_pinned for r in self._residents.values())

    def acquire(self, name: str | None) -> Any:
        """The set of this name, loaded if it is not there; it stays until ``release``."""
        weights = None if self._use(name) else self._load_fitting(name)
        with self._lock:
            if weights is not None:
                self._residents[name] = Resident(weights, num_users=1)
                while len(self._residents) > self._max_resident and self._drop_idle():
                    pass
            return self._residents[name].weights

    def release(self, name: str | None) -> None:
        """One user of the set is done with it."""
        with self._lock:
            resident = self._residents[name]
            assert resident.num_users > 0
            resident.num_users -= 1

    def evict_idle(self) -> Evicted:
        """Drop every set that nobody uses."""
        dropped: list[Any] = []
        with self._lock:
            while weights := self._drop_idle():
                dropped.append(weights)
        return Evicted(
            weights=tuple(weights.name for weights in dropped),
            num_bytes=sum(weights.num_bytes for weights in dropped),
        )

    def _use(self, name: str | None) -> bool:
        """Count one more user, as the most recent; False when the set is not there."""
        with self._lock:
            resident = self._residents.pop(name, None)
            if resident is None:
                return False
            resident.num_users += 1
            self._residents[name] = resident
            return True

    def _load_fitting(self, name: str | None) -> Any:
        while True:
            try:
                return self._load(name)
            except MemoryError:
                with self._lock:
                    has_room = self._drop_idle() is not None
                if not has_room:
                    raise

    def _drop_idle(self) -> Any:
        """Drop the least recently used idle set and return it; None when all are in use."""
        for name, resident in self._residents.items():
            if resident.num_users == 0 and not resident.is_pinned:
                return self._residents.pop(name).weights
        return None
