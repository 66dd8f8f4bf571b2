"""The pool of weights: users are counted, the least recently used idle set leaves first."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Semaphore

import pytest

from deployments.engine.memory import Budget, Stand, WeightsPool
from deployments.errors import GenerationFailed, InvalidRequest, OutOfMemory
from deployments.families.fake import FakeWeights
from deployments.types import Evicted


class Shelf:
    """Loads weights and notes which; ``capacity`` is how many fit at once, ``pool`` whose."""

    def __init__(self, capacity: int = 100) -> None:
        self.capacity = capacity
        self.loaded: list[str | None] = []
        self.pool: WeightsPool

    def load(self, name: str | None) -> FakeWeights:
        if name == "broken":
            raise InvalidRequest("unknown weights 'broken'; known: none")
        if len(self.pool.names) >= self.capacity:
            raise MemoryError
        self.loaded.append(name)
        return FakeWeights(name=name or "base", num_bytes=10)


def pool_of(max_sets: int, capacity: int = 100) -> tuple[WeightsPool, Shelf]:
    shelf = Shelf(capacity)
    shelf.pool = WeightsPool(shelf.load, Budget(max_sets=max_sets))
    return shelf.pool, shelf


class Reader:
    """Loads sets of 10 bytes, of 20 when their names begin with ``big``, when it is told to."""

    def __init__(self, **budget: int) -> None:
        self.may_load = Semaphore(0)
        self.loaded = Semaphore(0)
        self.error: Exception | None = None
        self.pool = WeightsPool(
            self.load,
            Budget(**budget),
            expect=lambda name: 20 if (name or "").startswith("big") else 10,
            on_loaded=self.loaded.release,
        )

    def load(self, name: str | None) -> FakeWeights:
        assert self.may_load.acquire(timeout=10)
        if self.error:
            raise self.error
        return FakeWeights(name=name or "base", num_bytes=10)

    def fetch(self, *names: str) -> None:
        """Fetch sets and wait until they are there."""
        for name in names:
            self.pool.fetch(name)
            self.may_load.release()
            assert self.loaded.acquire(timeout=10)


def use(pool: WeightsPool, *names: str | None) -> None:
    for name in names:
        pool.acquire(name)
        pool.release(name)


def test_acquire_loads_once_while_resident() -> None:
    pool, shelf = pool_of(2)
    assert pool.acquire("a") is pool.acquire("a")
    assert shelf.loaded == ["a"]
    assert (pool.names, pool.num_bytes) == (("a",), 10)


def test_acquire_drops_the_least_recently_used_idle_set() -> None:
    pool, _ = pool_of(2)
    use(pool, None, "a", None, "b")
    assert pool.names == ("base", "b")


def test_acquire_never_drops_a_set_in_use() -> None:
    pool, _ = pool_of(2)
    pool.acquire("a")
    use(pool, "b", "c")
    assert pool.names == ("a", "c")


def test_stand_counts_sets_in_use() -> None:
    pool, _ = pool_of(1)
    pool.acquire("a")
    pool.acquire("a")
    pool.release("a")
    assert pool.stand("a") is Stand.READY
    assert pool.stand("b") is Stand.NO_ROOM
    pool.release("a")
    assert pool.stand("b") is Stand.ABSENT


def test_acquire_that_fails_leaves_the_others() -> None:
    pool, _ = pool_of(3)
    use(pool, "a", "b")
    with pytest.raises(InvalidRequest):
        pool.acquire("broken")
    assert pool.names == ("a", "b")


def test_acquire_that_does_not_fit_drops_idle_sets_first() -> None:
    pool, _ = pool_of(3, capacity=2)
    use(pool, "a", "b", "c")
    assert pool.names == ("b", "c")


def test_acquire_that_never_fits_fails() -> None:
    pool, _ = pool_of(3, capacity=1)
    pool.acquire("a")
    with pytest.raises(MemoryError):
        pool.acquire("b")
    assert pool.names == ("a",)


def test_evict_idle_keeps_what_is_in_use() -> None:
    pool, shelf = pool_of(3)
    pool.acquire("a")
    use(pool, "b", "c")
    assert pool.evict_idle() == Evicted(weights=("b", "c"), num_bytes=20)
    assert pool.names == ("a",)
    use(pool, "b")
    assert shelf.loaded == ["a", "b", "c", "b"]


def test_a_pinned_set_stays_and_counts() -> None:
    @dataclass
    class Pinned:
        name: str = ""
        num_bytes: int = 10
        is_pinned: bool = True

    def load(name: str | None) -> Pinned:
        return Pinned() if name is None else Pinned(name, 10, False)

    pool = WeightsPool(load, Budget(max_sets=2))
    pool.begin()
    assert (pool.names, pool.num_bytes) == (("",), 10)
    for name in (None, "a", "b"):
        pool.acquire(name)
        pool.release(name)
    assert pool.names == ("", "b")
    assert pool.evict_idle() == Evicted(weights=("b",), num_bytes=10)
    assert (pool.names, pool.num_bytes) == (("",), 10)


def test_fetch_loads_beside_and_its_set_stays_for_who_asked() -> None:
    reader = Reader(max_sets=1)
    pool = reader.pool
    pool.fetch("a")
    assert pool.stand("a") is Stand.LOADING
    assert pool.stand("b") is Stand.NO_ROOM
    assert (pool.names, pool.num_bytes) == ((), 10)
    assert pool.evict_idle() == Evicted(weights=(), num_bytes=0)
    reader.may_load.release()
    assert reader.loaded.acquire(timeout=10)
    assert pool.stand("a") is Stand.READY
    assert pool.stand("b") is Stand.NO_ROOM
    assert pool.acquire("a").name == "a"
    pool.release("a")
    pool.release("a")
    assert pool.stand("b") is Stand.ABSENT


def test_fetch_makes_room_in_bytes_before_it_loads() -> None:
    reader = Reader(max_bytes=30)
    reader.fetch("a", "b", "c")
    for name in ("b", "a", "c"):
        pool = reader.pool
        pool.acquire(name)
        pool.release(name)
        pool.release(name)
    pool.fetch("big")
    assert pool.names == ("c",)
    assert pool.num_bytes == 30
    assert pool.stand("d") is Stand.ABSENT
    pool.acquire("c")
    assert pool.stand("d") is Stand.NO_ROOM
    reader.may_load.release()
    assert reader.loaded.acquire(timeout=10)
    assert pool.num_bytes == 20  # it was smaller than expected


def test_fetch_that_fails_is_told_once_and_may_be_tried_again() -> None:
    reader = Reader(max_sets=1)
    reader.error = GenerationFailed("weights 'a' cannot be read")
    reader.fetch("a")
    assert reader.pool.stand("a") is Stand.LOADING  # until the failure is taken
    reader.pool.release("a")
    assert reader.pool.take_failures() == {"a": reader.error}
    assert reader.pool.take_failures() == {}
    assert reader.pool.stand("a") is Stand.ABSENT
    assert reader.pool.num_bytes == 0
    reader.error = None
    reader.fetch("a")
    assert reader.pool.names == ("a",)


def test_fetch_that_the_budget_never_holds_fails_at_once() -> None:
    reader = Reader(max_bytes=19)
    assert reader.pool.stand("big") is Stand.ABSENT
    with pytest.raises(OutOfMemory, match=r"takes 20 bytes for its weights .* 1 bytes more"):
        reader.pool.fetch("big")
    reader.fetch("small")


def test_acquire_waits_for_what_is_on_its_way() -> None:
    reader = Reader(max_sets=1)
    reader.pool.fetch("a")
    reader.may_load.release()
    assert reader.pool.acquire("a").name == "a"


def test_closed_pool_begins_no_load() -> None:
    reader = Reader(max_sets=9)
    reader.pool.close()
    with pytest.raises(RuntimeError):
        reader.pool.fetch("a")
