"""WeightsPool: which sets of weights are in memory, who uses them, and which leaves first."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from threading import Lock
from typing import Any, Final

from deployments.engine.share import told
from deployments.errors import OutOfMemory
from deployments.types import Evicted

#: Sets that are read at once: one from a slow place does not hold up another.
NUM_LOADERS: Final = 2


class Stand(Enum):
    """How a set stands with the pool."""

    READY = "ready"
    LOADING = "loading"
    ABSENT = "absent"  # and it would find room
    NO_ROOM = "no room"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What the sets in memory may take together; None is no bound.

    Attributes:
        max_total_bytes: of the sets and of the work on pictures.
    """

    max_sets: int | None = None
    max_bytes: int | None = None
    max_total_bytes: int | None = None

    def holds(self, num_sets: int, num_bytes: int, work_bytes: int) -> bool:
        """Whether so many sets of so many bytes, and such work beside them, stay within it."""
        return (
            (self.max_sets is None or num_sets <= self.max_sets)
            and (self.max_bytes is None or num_bytes <= self.max_bytes)
            and (self.max_total_bytes is None or num_bytes + work_bytes <= self.max_total_bytes)
        )


@dataclass(slots=True)
class Resident:
    """One set of weights, in memory or on its way there, and how many requests use it.

    Attributes:
        num_bytes: what it takes, or is expected to.
        loading: ends when the set is there; None from then on.
    """

    num_bytes: int
    weights: Any = None
    num_users: int = 0
    loading: Future[Any] | None = None

    @property
    def is_pinned(self) -> bool:
        """Whether the set stays in memory whatever the pool does, as a base model's own may."""
        return bool(getattr(self.weights, "is_pinned", False))

    @property
    def may_leave(self) -> bool:
        """Whether nobody would miss it."""
        return self.num_users == 0 and self.loading is None and not self.is_pinned


class WeightsPool:
    """Owns the sets of weights: counts their users and drops the least recently used idle set.

    Every method may be called from any thread. Room is made before a set is read, so that the
    budget holds at every moment; only beside nothing but pinned sets there is always room for one
    more by number.

    Args:
        load: returns the set of a name (None is the base model's own), an object with ``name: str``
            and ``num_bytes: int``, and perhaps a true ``is_pinned``: such a set is never dropped.
            It may raise: the other sets stay. When it raises ``MemoryError``, idle sets leave, one
            by one, and it is tried again.
        budget: what the sets may take.
        expect: bytes that a set will take which is not there.
        open_thread: makes a thread ready that is to ``load``.
        on_loaded: told, in that thread, of the end of each ``fetch``.
    """

    def __init__(
        self,
        load: Callable[[str | None], Any],
        budget: Budget,
        *,
        expect: Callable[[str | None], int] = lambda _: 0,
        open_thread: Callable[[], None] = lambda: None,
        on_loaded: Callable[[], None] = lambda: None,
    ) -> None:
        self._load = load
        self._budget = budget
        self._expect = expect
        self._on_loaded = on_loaded
        self._residents: dict[str | None, Resident] = {}  # the least recently used first
        self._failures: dict[str | None, Exception] = {}
        self._work_bytes = 0
        self._lock = Lock()
        self._loaders = ThreadPoolExecutor(NUM_LOADERS, "weights", open_thread)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sets in memory, the least recently used first."""
        with self._lock:
            return tuple(r.weights.name for r in self._residents.values() if r.weights)

    @property
    def num_bytes(self) -> int:
        """Bytes that the sets in memory take, with those that are on their way."""
        with self._lock:
            return self._sum(self._residents.values())

    def begin(self) -> None:
        """Take the base model's own set into account, if it is in memory whatever is done."""
        weights = self._load(None)
        resident = Resident(num_bytes=weights.num_bytes, weights=weights)
        if resident.is_pinned:
            with self._lock:
                self._residents[None] = resident

    def stand(self, name: str | None, work_bytes: int = 0) -> Stand:
        """How the set of this name stands for work that takes so many bytes beside it."""
        with self._lock:
            resident = self._residents.get(name)
            if name in self._failures or (resident is not None and resident.loading):
                return Stand.LOADING  # or ``take_failures`` tells how it ended
            # NOTE: what never finds room is told when it is fetched, or acquired.
            is_vain = self._excess(name, work_bytes) > 0
            if not is_vain and not self._has_room(name, work_bytes):
                return Stand.NO_ROOM
            return Stand.ABSENT if resident is None else Stand.READY

    def fetch(self, name: str | None, work_bytes: int = 0) -> None:
        """Begin to load an absent set for the caller, who is its user from now on.

        Raises ``OutOfMemory`` for a set and work that the budget never holds. A load that fails is
        one of ``take_failures``, and then the set has no users.
        """
        with self._lock:
            self._check_room(name, work_bytes)
            resident = self._enter(name, work_bytes)
            resident.loading = self._loaders.submit(self._load_apart, name, resident)

    def acquire(self, name: str | None, work_bytes: int = 0) -> Any:
        """The set of this name, which stays until ``release``; loaded first where it must be.

        Raises ``OutOfMemory`` as ``fetch`` does, and what ``load`` raises.
        """
        with self._lock:
            self._check_room(name, work_bytes)
            resident = self._residents.pop(name, None)
            if resident is not None:
                resident.num_users += 1
                self._residents[name] = resident
                self._make_room(work_bytes)
                if resident.loading is None:
                    return resident.weights
            else:
                resident = self._enter(name, work_bytes)
        if resident.loading is not None:
            return resident.loading.result()
        return self._load_into(name, resident)

    def release(self, name: str | None) -> None:
        """One user of the set is done with it; of one that could not be fetched, there is none."""
        with self._lock:
            if name in self._failures:
                return
            resident = self._residents[name]
            assert resident.num_users > 0
            resident.num_users -= 1

    def check(self, name: str | None, work_bytes: int) -> None:
        """Raise ``OutOfMemory`` for a set and work that the budget never holds."""
        with self._lock:
            self._check_room(name, work_bytes)

    def reserve(self, work_bytes: int) -> None:
        """Set aside what the work under way takes beside the sets; idle ones leave for it."""
        with self._lock:
            self._work_bytes = work_bytes
            self._make_room(work_bytes)

    def take_failures(self) -> dict[str | None, Exception]:
        """Why sets could not be fetched since the last call, by name."""
        with self._lock:
            failures, self._failures = self._failures, {}
            return failures

    def evict_idle(self) -> Evicted:
        """Drop every set that nobody uses."""
        dropped: list[Resident] = []
        with self._lock:
            while resident := self._drop_idle():
                dropped.append(resident)
        return Evicted(
            weights=tuple(resident.weights.name for resident in dropped),
            num_bytes=self._sum(dropped),
        )

    def close(self) -> None:
        """Begin no more loads; one that runs ends in its thread, for nobody."""
        self._loaders.shutdown(wait=False, cancel_futures=True)

    def _check_room(self, name: str | None, work_bytes: int) -> None:
        """Raise ``OutOfMemory`` for what finds no room even once all others have left."""
        excess = self._excess(name, work_bytes)
        if excess > 0:
            raise OutOfMemory(
                f"the request takes {told(self._expect(name))} for its weights and "
                f"{told(work_bytes)} for a picture, {told(excess)} more than the model's share of "
                "the memory has for it"
            )

    def _enter(self, name: str | None, work_bytes: int) -> Resident:
        """A place for a set that is not there yet, with room for it."""
        resident = Resident(num_bytes=self._expect(name), num_users=1)
        self._residents[name] = resident
        self._make_room(work_bytes)
        return resident

    def _load_apart(self, name: str | None, resident: Resident) -> Any:
        try:
            return self._load_into(name, resident)
        finally:
            self._on_loaded()

    def _load_into(self, name: str | None, resident: Resident) -> Any:
        try:
            weights = self._load_fitting(name)
        except Exception as error:
            with self._lock:
                del self._residents[name]
                if resident.loading is not None:
                    self._failures[name] = error
            raise
        with self._lock:
            resident.weights, resident.num_bytes = weights, weights.num_bytes
            resident.loading = None
            self._make_room(0)
        return weights

    def _load_fitting(self, name: str | None) -> Any:
        while True:
            try:
                return self._load(name)
            except MemoryError:
                with self._lock:
                    has_room = self._drop_idle() is not None
                if not has_room:
                    raise

    def _has_room(self, name: str | None, work_bytes: int) -> bool:
        """Whether the set finds room, or is there, once all other idle ones have left."""
        others = [r for key, r in self._residents.items() if key != name and not r.may_leave]
        resident = self._residents.get(name)
        own = self._expect(name) if resident is None else resident.num_bytes
        if resident is not None and self._budget.max_total_bytes is None:
            return True
        num_sets = 1 if all(r.is_pinned for r in others) else len(others) + 1
        work_bytes = max(work_bytes, self._work_bytes)
        return self._budget.holds(num_sets, self._sum(others) + own, work_bytes)

    def _excess(self, name: str | None, work_bytes: int) -> int:
        """Bytes by which a set and work are too many beside nothing but pinned sets; 0 or more."""
        pinned = self._sum(r for k, r in self._residents.items() if r.is_pinned and k != name)
        num_bytes = pinned + self._expect(name)
        excess = 0
        if self._budget.max_bytes is not None:
            excess = num_bytes - self._budget.max_bytes
        if self._budget.max_total_bytes is not None:
            excess = max(excess, num_bytes + work_bytes - self._budget.max_total_bytes)
        return max(0, excess)

    def _make_room(self, work_bytes: int) -> None:
        """Drop idle sets until the others, and the work beside them, are within the budget."""
        work_bytes = max(work_bytes, self._work_bytes)
        residents = self._residents
        while not self._budget.holds(len(residents), self._sum(residents.values()), work_bytes):
            if self._drop_idle() is None:
                return

    def _drop_idle(self) -> Resident | None:
        """Drop the least recently used idle set and return it; None when all are in use."""
        for name, resident in self._residents.items():
            if resident.may_leave:
                return self._residents.pop(name)
        return None

    @staticmethod
    def _sum(residents: Any) -> int:
        return sum(resident.num_bytes for resident in residents)
