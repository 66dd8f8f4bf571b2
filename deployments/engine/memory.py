"""WeightsPool: what is in a device's memory, who uses it, and what leaves first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from threading import Lock
from time import monotonic
from typing import Any, Final

from deployments.engine.additions import Additions, NoAdditions, Uses
from deployments.engine.share import told
from deployments.errors import MemoryExceeded
from deployments.types import Evicted, Holding

#: Sets that are read at once: one from a slow place does not hold up another.
NUM_LOADERS: Final = 2
#: Stands where the name of a set would, for none of them.
NOBODY: Final = object()


class Stand(Enum):
    """How a set stands with the pool."""

    READY = "ready"
    LOADING = "loading"
    ABSENT = "absent"  # and it would find room
    NO_ROOM = "no room"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What is in memory may take so much; None is no bound.

    Attributes:
        max_sets, max_bytes: of sets of weights.
        max_total_bytes: of the sets, of LoRAs, and of the work on pictures.
    """

    max_sets: int | None = None
    max_bytes: int | None = None
    max_total_bytes: int | None = None

    def holds_sets(self, num_sets: int, num_bytes: int) -> bool:
        """Whether so many sets of so many bytes together stay within what sets may take."""
        return (self.max_sets is None or num_sets <= self.max_sets) and (
            self.max_bytes is None or num_bytes <= self.max_bytes
        )

    def holds_total(self, num_bytes: int) -> bool:
        """Whether so many bytes of sets and all else stay within what all may take."""
        return self.max_total_bytes is None or num_bytes <= self.max_total_bytes

    def holds(self, num_sets: int, num_bytes: int, other_bytes: int) -> bool:
        """Whether such sets, and other things beside them, stay within all of it."""
        return self.holds_sets(num_sets, num_bytes) and self.holds_total(num_bytes + other_bytes)


@dataclass(slots=True)
class Resident:
    """One set of weights, in memory or on its way there, and how many requests use it.

    Attributes:
        num_bytes: what it takes, or is expected to.
        used_at: when it was last asked for, on the monotonic clock.
        loading: ends when the set is there; None from then on.
    """

    num_bytes: int
    used_at: float = field(default_factory=monotonic)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """What a pool has in memory.

    Attributes:
        weight_bytes, lora_bytes: of sets and LoRAs, with those that are on their way.
        work_bytes: what is set aside for the work under way.
    """

    weight_bytes: int
    lora_bytes: int
    work_bytes: int
    holdings: tuple[Holding, ...]


class WeightsPool:
    """Owns the sets of weights: counts their users and drops the least recently used idle set.

    Where room is wanted, LoRAs that nobody uses leave like sets, whichever of all was used least
    recently. Every method may be called from any thread. Room is made before a set is read, so that
    the budget holds at every moment; only beside nothing but pinned sets there is always room for
    one more by number.

    ``work_bytes`` is what a request's work takes at once beside the weights, and ``loras`` are the
    LoRAs that it uses.

    Args:
        load: returns the set of a name (None is the base model's own), an object with ``name: str``
            and ``num_bytes: int``, and perhaps a true ``is_pinned``: such a set is never dropped.
            It may raise: the other sets stay. When it raises ``MemoryError``, idle sets leave, one
            by one, and it is tried again.
        budget: what all may take.
        additions: owns the LoRAs.
        expect: bytes that a set will take which is not there.
        open_thread: makes a thread ready that is to ``load``.
        on_loaded: told, in that thread, of the end of each ``fetch``.
    """

    def __init__(
        self,
        load: Callable[[str | None], Any],
        budget: Budget,
        *,
        additions: Additions | None = None,
        expect: Callable[[str | None], int] = lambda _: 0,
        open_thread: Callable[[], None] = lambda: None,
        on_loaded: Callable[[], None] = lambda: None,
    ) -> None:
        self._load = load
        self._budget = budget
        self._additions = additions or NoAdditions()
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

    @property
    def held_bytes(self) -> int:
        """Bytes of sets and LoRAs in memory, with those that are on their way."""
        with self._lock:
            return self._sum(self._residents.values()) + self._additions.num_bytes

    @property
    def work_bytes(self) -> int:
        """What is set aside for the work under way."""
        return self._work_bytes

    def stock(self) -> Stock:
        """All that is in memory at one moment; sets first, the least recently used before all."""
        with self._lock:
            sets = tuple(
                Holding(
                    name=resident.weights.name,
                    kind="base" if name is None else "personal",
                    num_bytes=resident.num_bytes,
                    is_used=resident.num_users > 0,
                )
                for name, resident in self._residents.items()
                if resident.weights
            )
            return Stock(
                weight_bytes=self._sum(self._residents.values()),
                lora_bytes=self._additions.num_bytes,
                work_bytes=self._work_bytes,
                holdings=sets + self._additions.holdings(),
            )

    def begin(self) -> None:
        """Take the base model's own set into account, if it is in memory whatever is done."""
        weights = self._load(None)
        resident = Resident(num_bytes=weights.num_bytes, weights=weights)
        if resident.is_pinned:
            with self._lock:
                self._residents[None] = resident

    def stand(self, name: str | None, work_bytes: int = 0, loras: Uses = ()) -> Stand:
        """How the set of this name stands for a request's work."""
        with self._lock:
            resident = self._residents.get(name)
            if name in self._failures or (resident is not None and resident.loading):
                return Stand.LOADING  # or ``take_failures`` tells how it ended
            # NOTE: what never finds room is told when it is fetched, or acquired.
            is_vain = self._excess(name, work_bytes, loras) > 0
            if not is_vain and not self._has_room(name, work_bytes, loras):
                return Stand.NO_ROOM
            return Stand.ABSENT if resident is None else Stand.READY

    def fetch(self, name: str | None, work_bytes: int = 0, loras: Uses = ()) -> None:
        """Begin to load an absent set for the caller, who is its user from now on.

        Raises ``MemoryExceeded`` for what the budget never holds. A load that fails is one of
        ``take_failures``, and then the set has no users.
        """
        with self._lock:
            self._check_room(name, work_bytes, loras)
            resident = self._enter(name, work_bytes, loras)
            resident.loading = self._loaders.submit(self._load_apart, name, resident)

    def acquire(self, name: str | None, work_bytes: int = 0, loras: Uses = ()) -> Any:
        """The set of this name, which stays until ``release``; loaded first where it must be.

        For LoRAs that are to be read there is room then, unless others are in the way who use what
        they have. Raises ``MemoryExceeded`` as ``fetch`` does, and what ``load`` raises.
        """
        with self._lock:
            self._check_room(name, work_bytes, loras)
            resident = self._residents.pop(name, None)
            if resident is not None:
                resident.num_users += 1
                resident.used_at = monotonic()
                self._residents[name] = resident
                self._work_bytes = max(self._work_bytes, work_bytes)
                self._make_room(work_bytes, loras)
                loading = resident.loading
                if loading is None:
                    return resident.weights
            else:
                resident, loading = self._enter(name, work_bytes, loras), None
        return self._load_into(name, resident) if loading is None else loading.result()

    def release(self, name: str | None) -> None:
        """One user of the set is done with it; of one that could not be fetched, there is none."""
        with self._lock:
            if name in self._failures:
                return
            resident = self._residents[name]
            assert resident.num_users > 0
            resident.num_users -= 1
            resident.used_at = monotonic()
            self._residents[name] = self._residents.pop(name)

    def check(self, name: str | None, work_bytes: int, loras: Uses = ()) -> None:
        """Raise ``MemoryExceeded`` for what the budget never holds."""
        with self._lock:
            self._check_room(name, work_bytes, loras)

    @contextmanager
    def announced(self, loras: Uses) -> Iterator[None]:
        """These count as in use meanwhile, whether they are read yet or not."""
        self._additions.announce(loras)
        try:
            yield
        finally:
            self._additions.withdraw(loras)

    @contextmanager
    def room(self, name: str | None, loras: Uses) -> Iterator[bool]:
        """Let idle ones, but the set of this name, leave for LoRAs that are to be read beside it;
        whether there is room for these, which is theirs meanwhile."""
        with ExitStack() as stack:
            with self._lock:
                has_room = self._has_room(name, 0, loras)
                if has_room:
                    self._make_room(0, loras, kept=name)
                    stack.enter_context(self.announced(loras))
            yield has_room

    def reserve(self, work_bytes: int) -> None:
        """Set aside what the work under way takes beside all else; idle ones leave for it."""
        with self._lock:
            self._work_bytes = work_bytes
            self._make_room(work_bytes, ())

    def take_failures(self) -> dict[str | None, Exception]:
        """Why sets could not be fetched since the last call, by name."""
        with self._lock:
            failures, self._failures = self._failures, {}
            return failures

    def evict_idle(self) -> Evicted:
        """Drop every set that nobody uses."""
        dropped: list[Resident] = []
        with self._lock:
            while (name := self._oldest_idle()) is not NOBODY:
                dropped.append(self._residents.pop(name))
        return Evicted(
            weights=tuple(resident.weights.name for resident in dropped),
            num_bytes=self._sum(dropped),
        )

    def close(self) -> None:
        """Begin no more loads; one that runs ends in its thread, for nobody."""
        self._loaders.shutdown(wait=False, cancel_futures=True)

    def _check_room(self, name: str | None, work_bytes: int, loras: Uses) -> None:
        """Raise ``MemoryExceeded`` for what finds no room even once all others have left."""
        excess = self._excess(name, work_bytes, loras)
        if excess > 0:
            adding = self._additions.own_bytes(loras)
            added = f"{told(adding)} for LoRAs and " if adding else ""
            raise MemoryExceeded(
                f"the request takes {told(self._expect(name))} for its weights and {added}"
                f"{told(work_bytes)} for a picture, {told(excess)} more than the model's share of "
                "the memory has for it; ask for a smaller picture"
            )

    def _enter(self, name: str | None, work_bytes: int, loras: Uses) -> Resident:
        """A place for a set that is not there yet, with room for it."""
        resident = Resident(num_bytes=self._expect(name), num_users=1)
        self._residents[name] = resident
        self._make_room(work_bytes, loras)
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
            self._make_room(0, ())
        return weights

    def _load_fitting(self, name: str | None) -> Any:
        while True:
            try:
                return self._load(name)
            except MemoryError:
                with self._lock:
                    has_room = self._drop_idle()
                if not has_room:
                    raise

    def _has_room(self, name: str | None, work_bytes: int, loras: Uses) -> bool:
        """Whether the set finds room, or is there, once all other idle ones have left."""
        others = [r for key, r in self._residents.items() if key != name and not r.may_leave]
        resident = self._residents.get(name)
        own = self._expect(name) if resident is None else resident.num_bytes
        num_bytes = self._sum(others) + own
        adding = self._additions.needed_bytes(loras)
        work_bytes = max(work_bytes, self._work_bytes)
        if resident is not None:  # it takes no more than it has
            return self._budget.holds_total(num_bytes + adding + work_bytes)
        num_sets = 1 if all(r.is_pinned for r in others) else len(others) + 1
        return self._budget.holds(num_sets, num_bytes, adding + work_bytes)

    def _excess(self, name: str | None, work_bytes: int, loras: Uses) -> int:
        """Bytes by which a request is too much beside nothing but pinned sets; 0 or more."""
        pinned = self._sum(r for k, r in self._residents.items() if r.is_pinned and k != name)
        num_bytes = pinned + self._expect(name)
        excess = 0
        if self._budget.max_bytes is not None:
            excess = num_bytes - self._budget.max_bytes
        if self._budget.max_total_bytes is not None:
            total = num_bytes + self._additions.own_bytes(loras) + work_bytes
            excess = max(excess, total - self._budget.max_total_bytes)
        return max(0, excess)

    def _make_room(self, work_bytes: int, loras: Uses, kept: Any = NOBODY) -> None:
        """Drop idle ones until the others, and the work beside them, are within the budget."""
        work_bytes = max(work_bytes, self._work_bytes)
        residents = self._residents
        while True:
            sets = self._sum(residents.values())
            adding = self._additions.num_bytes + self._additions.missing_bytes(loras)
            if self._budget.holds(len(residents), sets, adding + work_bytes):
                return
            helps_any = self._budget.holds_sets(len(residents), sets)
            if not (self._drop_idle(loras, kept) if helps_any else self._drop_set(kept)):
                return

    def _drop_idle(self, loras: Uses = (), kept: Any = NOBODY) -> bool:
        """Drop the least recently used of all that is idle, but these; whether there was any."""
        name, since = self._oldest_idle(kept), self._additions.idle_since(loras)
        if since is None or (name is not NOBODY and self._residents[name].used_at <= since):
            return self._drop_set(kept)
        return self._additions.drop_idle(loras) is not None

    def _drop_set(self, kept: Any) -> bool:
        """Drop the least recently used idle set but this one; whether there was any."""
        name = self._oldest_idle(kept)
        return self._residents.pop(name, None) is not None

    def _oldest_idle(self, kept: Any = NOBODY) -> Any:
        """The name of the least recently used idle set but this one; ``NOBODY`` without one."""
        residents = self._residents.items()
        return next((name for name, r in residents if r.may_leave and name != kept), NOBODY)

    @staticmethod
    def _sum(residents: Any) -> int:
        return sum(resident.num_bytes for resident in residents)
