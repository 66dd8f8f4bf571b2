"""The pool of weights: users are counted, the least recently used idle set leaves first."""

from __future__ import annotations

import random
from dataclasses import dataclass
from threading import Semaphore
from time import monotonic

import pytest

from deployments.engine.additions import Uses
from deployments.engine.memory import Budget, Stand, WeightsPool
from deployments.errors import GenerationFailed, InvalidRequest, MemoryExceeded
from deployments.families.fake import FakeWeights
from deployments.types import Evicted, Holding, LoraUse


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


class FakeLoras:
    """LoRAs of 4 bytes. ``used`` are those in use, ``kept`` those in memory, the oldest first."""

    def __init__(self, *used: str) -> None:
        self.used = set(used)
        self.kept = dict.fromkeys(used, 0.0)

    def keep(self, *names: str) -> None:
        for name in names:
            self.kept.pop(name, None)
            self.kept[name] = monotonic()

    @property
    def num_bytes(self) -> int:
        return 4 * len(self.kept)

    def needed_bytes(self, uses: Uses = ()) -> int:
        return 4 * len(self.used | {use.name for use in uses})

    def own_bytes(self, uses: Uses) -> int:
        return 4 * len({use.name for use in uses})

    def missing_bytes(self, uses: Uses) -> int:
        return 4 * len({use.name for use in uses} - set(self.kept))

    def announce(self, uses: Uses) -> None:
        self.used |= {use.name for use in uses}

    def withdraw(self, uses: Uses) -> None:
        self.used -= {use.name for use in uses}

    def _idle(self, kept: Uses) -> str | None:
        names = self.used | {use.name for use in kept}
        return next((name for name in self.kept if name not in names), None)

    def idle_since(self, kept: Uses = ()) -> float | None:
        name = self._idle(kept)
        return None if name is None else self.kept[name]

    def drop_idle(self, kept: Uses = ()) -> Evicted | None:
        if (name := self._idle(kept)) is None:
            return None
        del self.kept[name]
        return Evicted(weights=(name,), num_bytes=4)

    def holdings(self) -> tuple[Holding, ...]:
        return tuple(
            Holding(name=name, kind="lora", num_bytes=4, is_used=name in self.used)
            for name in self.kept
        )


def uses(*names: str) -> tuple[LoraUse, ...]:
    return tuple(LoraUse(name=name) for name in names)


def pool_with(loras: FakeLoras, **budget: int) -> WeightsPool:
    """Sets take 10 bytes each."""
    return WeightsPool(
        lambda name: FakeWeights(name=name or "base", num_bytes=10),
        Budget(**budget),
        additions=loras,
        expect=lambda _: 10,
    )


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


@dataclass
class Pinned:
    name: str = ""
    num_bytes: int = 10
    is_pinned: bool = True


def test_a_set_that_is_there_waits_for_no_other_to_leave() -> None:
    def load(name: str | None) -> Pinned:
        return Pinned() if name is None else Pinned(name, 10, False)

    pool = WeightsPool(load, Budget(max_sets=1, max_total_bytes=100), expect=lambda _: 10)
    pool.begin()
    pool.acquire("a")
    assert pool.stand(None) is Stand.READY
    assert pool.stand("b") is Stand.NO_ROOM


def test_a_pinned_set_stays_and_counts() -> None:
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
    with pytest.raises(MemoryExceeded, match=r"takes 20 bytes for its weights .* 1 bytes more"):
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


def test_loras_count_and_the_least_recently_used_of_all_leaves_first() -> None:
    loras = FakeLoras()
    pool = pool_with(loras, max_total_bytes=32)
    use(pool, "a")
    loras.keep("ink")
    use(pool, "b")
    loras.keep("wool")
    stock = pool.stock()
    assert (stock.weight_bytes, stock.lora_bytes, pool.held_bytes) == (20, 8, 28)
    use(pool, "c")  # takes the room of a, used before all others
    assert (pool.names, set(loras.kept)) == (("b", "c"), {"ink", "wool"})
    pool.reserve(8)
    assert (pool.names, set(loras.kept)) == (("b", "c"), {"wool"})
    pool.reserve(9)
    assert (pool.names, set(loras.kept)) == (("c",), {"wool"})
    assert pool.work_bytes == 9


def test_loras_in_use_stay_and_those_who_want_their_room_wait() -> None:
    loras = FakeLoras("ink")
    pool = pool_with(loras, max_total_bytes=30)
    pool.acquire("a", 8, uses("ink"))
    pool.reserve(8)
    assert pool.stand("a", 12) is Stand.READY
    assert pool.stand("a", 12, uses("ink")) is Stand.READY
    assert pool.stand("a", 12, uses("wool")) is Stand.READY
    assert pool.stand("a", 13, uses("wool")) is Stand.NO_ROOM
    assert pool.stand("b", 8) is Stand.NO_ROOM
    assert pool.evict_idle() == Evicted(weights=(), num_bytes=0)
    pool.reserve(30)
    assert (pool.names, set(loras.kept)) == (("a",), {"ink"})
    loras.used.clear()
    pool.reserve(16)
    assert (pool.names, set(loras.kept)) == (("a",), {"ink"})
    pool.reserve(17)
    assert (pool.names, set(loras.kept)) == (("a",), set())


def test_nobody_takes_the_room_of_loras_that_are_announced() -> None:
    loras = FakeLoras()
    pool = pool_with(loras, max_total_bytes=16)
    use(pool, "a")
    loras.keep("ink")
    with pool.announced(uses("ink")), pool.room("a", uses("felt")) as has_room:
        assert not has_room
        assert set(loras.kept) == {"ink"}
    with pool.room("a", uses("felt")) as has_room:
        assert has_room


def test_room_for_loras_is_made_of_what_is_idle_but_for_the_request_s_own() -> None:
    loras = FakeLoras()
    pool = pool_with(loras, max_total_bytes=34)
    use(pool, "a", "b")
    loras.keep("ink", "wool", "silk")
    with pool.room("a", uses("ink", "felt")) as has_room:
        assert has_room
        assert loras.used == {"ink", "felt"}
    assert loras.used == set()
    # a is the request's own, b was used before wool and silk
    assert (pool.names, set(loras.kept)) == (("a",), {"ink", "wool", "silk"})
    pool.acquire("a")
    pool.acquire("b")
    loras.used = {"ink", "wool", "silk"}
    with pool.room("a", uses("felt")) as has_room:
        assert not has_room
    assert loras.used == {"ink", "wool", "silk"}


def test_request_whose_loras_never_fit_is_told_the_sum() -> None:
    pool = pool_with(FakeLoras(), max_total_bytes=20)
    pool.check("a", 6, uses("ink"))
    assert pool.stand("a", 7, uses("ink")) is Stand.ABSENT
    with pytest.raises(MemoryExceeded, match="10 bytes for its weights and 4 bytes for LoRAs and"):
        pool.acquire("a", 7, uses("ink"))


def test_a_bound_on_sets_drops_sets_and_no_loras() -> None:
    loras = FakeLoras()
    pool = pool_with(loras, max_sets=1)
    loras.keep("ink")
    use(pool, "a", "b")
    assert (pool.names, set(loras.kept)) == (("b",), {"ink"})
    pool.acquire("b")
    pool.acquire("c")  # more than the bound, for nothing can leave
    assert pool.names == ("b", "c")


def test_load_that_runs_out_of_memory_drops_idle_loras_too() -> None:
    loras = FakeLoras("wool")

    def load(name: str | None) -> FakeWeights:
        if "ink" in loras.kept:
            raise MemoryError
        return FakeWeights(name=name or "base", num_bytes=10)

    pool = WeightsPool(load, Budget(), additions=loras)
    loras.keep("ink")
    pool.acquire("a")
    assert (pool.names, set(loras.kept)) == (("a",), {"wool"})


def test_holdings_tell_what_is_used() -> None:
    loras = FakeLoras("ink")
    pool = pool_with(loras, max_sets=9)
    use(pool, None)
    pool.acquire("a")
    assert pool.stock().holdings == (
        Holding(name="base", kind="base", num_bytes=10),
        Holding(name="a", kind="personal", num_bytes=10, is_used=True),
        Holding(name="ink", kind="lora", num_bytes=4, is_used=True),
    )


def test_set_that_was_long_in_use_is_a_recent_one() -> None:
    pool = pool_with(FakeLoras(), max_sets=2)
    pool.acquire("long")
    use(pool, "short")
    pool.release("long")
    use(pool, "new")
    assert pool.names == ("long", "new")


@pytest.mark.parametrize("seed", range(3))
def test_twenty_sets_and_loras_under_a_budget_for_three_leave_those_in_use(seed: int) -> None:
    chance = random.Random(seed)
    loras = FakeLoras()
    pool = pool_with(loras, max_total_bytes=3 * 10 + 2 * 4)
    in_use: list[tuple[str, tuple[LoraUse, ...], FakeWeights]] = []
    num_waits = 0
    for _ in range(600):
        name, own = f"user {chance.randrange(20)}", uses(f"lora {chance.randrange(6)}")
        if pool.stand(name, 0, own) is Stand.NO_ROOM:
            num_waits += 1
            gone, _, _ = in_use.pop(chance.randrange(len(in_use)))
            pool.release(gone)
        else:
            in_use.append((name, own, pool.acquire(name, 0, own)))
            loras.keep(own[0].name)
        loras.used = {one.name for _, them, _ in in_use for one in them}
        assert pool.held_bytes <= 3 * 10 + 2 * 4
        for used, them, weights in in_use:
            assert pool.acquire(used, 0, them) is weights, "a set in use was read anew"
            pool.release(used)
            assert them[0].name in loras.kept, "a LoRA in use has left"
    assert num_waits > 100
