"""The pool of weights: users are counted, the least recently used idle set leaves first."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from deployments.engine.memory import WeightsPool
from deployments.errors import InvalidRequest
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


def pool_of(max_resident: int, capacity: int = 100) -> tuple[WeightsPool, Shelf]:
    shelf = Shelf(capacity)
    shelf.pool = WeightsPool(shelf.load, max_resident)
    return shelf.pool, shelf


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


def test_can_acquire_counts_sets_in_use() -> None:
    pool, _ = pool_of(1)
    pool.acquire("a")
    pool.acquire("a")
    pool.release("a")
    assert pool.can_acquire("a")
    assert not pool.can_acquire("b")
    pool.release("a")
    assert pool.can_acquire("b")


def test_acquire_that_fails_leaves_the_others() -> None:
    pool, _ = pool_of(2)
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

    pool = WeightsPool(lambda name: Pinned() if name is None else Pinned(name, 10, False), 2)
    for name in (None, "a", "b"):
        pool.acquire(name)
        pool.release(name)
    assert pool.names == ("", "b")
    assert pool.evict_idle() == Evicted(weights=("b",), num_bytes=10)
    assert (pool.names, pool.num_bytes) == (("",), 10)
