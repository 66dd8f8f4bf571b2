"""The batching policy, as pure decisions: no thread, no tensor, no family."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.engine.batcher import (
    MAX_ENCODES,
    MAX_OVERTAKEN,
    MAX_TURNS,
    REGROW_TURNS,
    Batcher,
    Decode,
    Denoise,
    Encode,
    Fetch,
    estimate,
)
from deployments.engine.memory import Stand
from deployments.engine.share import Appetite
from deployments.engine.state import BatchKey, RequestState
from deployments.types import GenerationRequest, LoraUse, SamplingParams


def state(
    *, steps: int = 4, done: int = 0, rows: int = 1, key: str = "", size: int = 8, index: int = 0
) -> RequestState:
    unused: Any = None
    latents: Any = SimpleNamespace(shape=(1, 4, size, size))
    timesteps: Any = range(steps)
    return RequestState(
        request=GenerationRequest(prompt="a cat"),
        index=index,
        weights=unused,
        branches=(None,) * rows,
        batch_key=BatchKey(key, (4, size, size), ((8,),)),
        tokens=size * size,
        latents=latents,
        generator=unused,
        scheduler=unused,
        timesteps=timesteps,
        step=done,
    )


def batcher(*, max_rows: int = 8, max_tokens: int = 10_000, **states: RequestState) -> Batcher:
    made = Batcher(max_rows=max_rows, max_tokens=max_tokens)
    for request_id, one in states.items():
        made.add(request_id, None, one.work)
        made.admit(request_id, [one])
    return made


def always(weights: str | None, num_bytes: int, loras: tuple[LoraUse, ...]) -> Stand:
    return Stand.READY


def choose(made: Batcher) -> Any:
    return made.choose(always)


def turn(made: Batcher) -> Any:
    """One turn of a loop whose work always succeeds."""
    work = choose(made)
    if isinstance(work, Denoise):
        for place in work.places:
            place.state.step += 1
    if isinstance(work, Decode):
        for place in work.places:
            made.leave(place)
    if isinstance(work, Encode):
        made.admit(work.request_id, [state()])
    made.record(work)
    return work


def test_choose_when_empty() -> None:
    assert choose(batcher()) is None
    assert batcher().is_empty


def test_rows_of_equal_keys_share_whatever_their_steps() -> None:
    made = batcher(a=state(steps=30, done=7, rows=2), b=state(steps=4), c=state(steps=9, done=8))
    assert choose(made).request_ids == {"a", "b", "c"}


@pytest.mark.parametrize(
    "other",
    [pytest.param(state(key="w"), id="weights"), pytest.param(state(size=16), id="shape")],
)
def test_rows_of_unequal_keys_do_not_share(other: RequestState) -> None:
    assert choose(batcher(a=state(), b=other)).request_ids == {"a"}


def test_batch_holds_at_most_max_rows_and_whole_pictures() -> None:
    made = batcher(max_rows=3, a=state(rows=2), b=state(rows=2), c=state(rows=1))
    rows = [place.state.num_rows for place in choose(made).places]
    assert sum(rows) == 3


def test_batch_holds_at_most_max_tokens() -> None:
    made = batcher(max_tokens=128, a=state(), b=state(), c=state())
    assert len(choose(made).places) == 2


def test_one_picture_runs_beyond_every_limit() -> None:
    made = batcher(max_rows=1, max_tokens=1, a=state(rows=2))
    made.bound(0)
    assert choose(made).request_ids == {"a"}


def test_batch_takes_no_more_bytes_than_are_free() -> None:
    appetite = Appetite(denoise=10.0, decode=100.0, decode_start=600)
    made = Batcher(max_rows=8, max_tokens=10_000, appetite=appetite)
    for name, one in {"a": state(), "b": state(), "c": state(rows=2)}.items():
        made.add(name, None, one.work)
        made.admit(name, [one], decode_tokens=4)
    made.bound(64 * 10 * 3)
    work = choose(made)
    assert work.request_ids == {"a", "b"}
    assert made.bytes_of(work) == 64 * 10 * 2
    made.bound(64 * 10 * 4)
    assert len(choose(made).places) == 3
    made.bound(None)
    assert len(choose(made).places) == 3
    for place in choose(made).places:
        place.state.step = 4
    made.bound(1999)
    assert made.bytes_of(choose(made)) == 1000
    made.bound(2000)
    assert made.bytes_of(choose(made)) == 2000
    assert made.bytes_of(Encode("a")) == 0


def test_text_counts_for_memory() -> None:
    made = Batcher(max_rows=8, max_tokens=10_000, appetite=Appetite(denoise=1.0))
    wordy = state()
    wordy.prompt_tokens = 36
    made.add("a", None, 1.0)
    made.admit("a", [wordy])
    assert made.bytes_of(choose(made)) == 100


def test_choose_changes_nothing() -> None:
    made = batcher(a=state(), b=state(key="w"))
    made.add("c", None, 1.0)
    assert choose(made) == choose(made)


def test_decode_goes_first_and_together() -> None:
    made = batcher(a=state(done=4), b=state(done=4, rows=2), c=state(), d=state(done=4, size=16))
    made.add("e", None, 1.0)
    work = choose(made)
    assert isinstance(work, Decode)
    assert work.request_ids == {"a", "b"}


def test_encode_goes_before_a_step_but_few_times_in_a_row() -> None:
    made = batcher(a=state())
    for index in range(MAX_ENCODES + 1):
        made.add(f"new{index}", None, 1.0)
    kinds = [type(turn(made)) for _ in range(MAX_ENCODES + 2)]
    assert kinds == [Encode] * MAX_ENCODES + [Denoise, Encode]


def test_encode_waits_when_enough_rows_are_in_flight() -> None:
    made = batcher(max_rows=1, **{name: state() for name in "abcd"})
    made.add("e", None, 1.0)
    assert isinstance(choose(made), Denoise)


def test_encode_takes_the_shortest_of_those_that_came_together() -> None:
    made = batcher()
    made.add("long", None, 100.0)
    made.add("short", None, 10.0)
    assert choose(made) == Encode("short")


@pytest.mark.parametrize(
    ("next_stand", "kind"),
    [
        pytest.param(Stand.READY, Encode, id="that are there"),
        pytest.param(Stand.ABSENT, Fetch, id="that find room"),
    ],
)
def test_weights_without_room_are_passed_over_a_few_times_only(
    next_stand: Stand, kind: type[Fetch | Encode]
) -> None:
    def stand(weights: str | None, num_bytes: int, loras: tuple[LoraUse, ...]) -> Stand:
        return Stand.NO_ROOM if weights == "w" else next_stand

    made = batcher()
    made.add("blocked", "w", 1.0)
    for index in range(MAX_OVERTAKEN):
        made.add("next", None, 2.0)
        work = made.choose(stand)
        assert work == kind("next", ("blocked",)), index
        made.remove("next")
        assert work is not None
        made.record(work)
    made.add("next", None, 2.0)
    assert made.choose(stand) is None
    assert made.choose(always) == Encode("blocked")


def test_who_has_had_weights_fetched_passes_who_waits_for_that_room() -> None:
    stands = {"v": Stand.LOADING, "w": Stand.NO_ROOM, None: Stand.READY}
    made = batcher()
    made.add("blocked", "w", 1.0)
    made.add("fetched", "v", 2.0)
    made.record(Fetch("fetched", ("blocked",) * MAX_OVERTAKEN))
    made.add("another", None, 1.5)
    assert made.choose(lambda weights, *_: stands[weights]) is None
    stands["v"] = Stand.READY
    assert made.choose(lambda weights, *_: stands[weights]) == Encode("fetched")


def test_weights_on_their_way_hold_up_nobody() -> None:
    made = batcher()
    made.add("waiting", "w", 1.0)
    for _ in range(2 * MAX_OVERTAKEN):
        made.add("next", None, 2.0)
        work = made.choose(lambda weights, *_: Stand.LOADING if weights else Stand.READY)
        assert work == Encode("next")
        made.remove("next")
        made.record(work)


def test_weights_are_fetched_before_anything_else() -> None:
    made = batcher(a=state(done=4), b=state())
    made.add("ready", None, 1.0)
    made.add("waiting", "w", 2.0)
    work = made.choose(lambda weights, *_: Stand.ABSENT if weights else Stand.READY)
    assert work == Fetch("waiting")
    assert work.request_ids == {"waiting"}
    made.record(work)
    assert isinstance(choose(made), Decode)


def test_short_work_overtakes_long_work() -> None:
    made = batcher(long=state(steps=50, key="w"), short=state(steps=4))
    assert [set(turn(made).request_ids) for _ in range(5)] == [{"short"}] * 5
    assert set(turn(made).request_ids) == {"long"}


def test_equal_works_of_unequal_keys_end_one_after_the_other() -> None:
    made = batcher(a=state(steps=6, key="v"), b=state(steps=6, key="w"))
    works = [turn(made) for _ in range(14)]
    assert [work.request_ids for work in works] == [{"a"}] * 7 + [{"b"}] * 7


def test_no_key_starves_under_a_stream_of_short_work() -> None:
    made = batcher(long=state(steps=20, key="w"))
    turns = 0
    while not made.is_empty and turns < 200:
        if turns % 3 == 0:
            made.add(f"short{turns}", None, 64.0)
            made.admit(f"short{turns}", [state(steps=2)])
        turns += 1
        work = turn(made)
        if isinstance(work, Decode) and "long" in work.request_ids:
            break
    assert turns < 100


def test_every_picture_takes_part_within_a_bounded_number_of_turns() -> None:
    keys = ("u", "v", "w")
    made = batcher(**{key: state(steps=400, key=key) for key in keys})
    last = dict.fromkeys(keys, 0)
    for index in range(300):
        for request_id in turn(made).request_ids:
            last[request_id] = index
        assert all(index - seen <= MAX_TURNS + len(keys) for seen in last.values())


def test_shrink_halves_the_limit_and_time_restores_it() -> None:
    made = batcher(**{name: state(steps=10_000) for name in "abcd"})
    work = choose(made)
    made.shrink(work)
    assert len(choose(made).places) == 2
    for _ in range(REGROW_TURNS):
        turn(made)
    assert len(choose(made).places) == 4


def test_shrink_of_decoding_leaves_steps_alone() -> None:
    made = batcher(a=state(done=4), b=state(done=4), c=state(), d=state())
    made.shrink(choose(made))
    first = turn(made)
    assert isinstance(first, Decode)
    assert len(first.places) == 1
    turn(made)
    assert len(choose(made).places) == 2


def test_remove_takes_a_request_out_wherever_it_is() -> None:
    made = batcher(a=state(), b=state())
    made.add("c", None, 1.0)
    for request_id in ("a", "c", "unknown"):
        made.remove(request_id)
    assert choose(made).request_ids == {"b"}
    made.remove("b")
    assert made.is_empty


@pytest.mark.parametrize(
    ("params", "images", "work"),
    [
        pytest.param(SamplingParams(), (), 512 * 512, id="open"),
        pytest.param(
            SamplingParams(width=64, height=32, num_inference_steps=10, guidance_scale=7.0),
            (),
            10 * 2 * 64 * 32,
            id="guided",
        ),
        pytest.param(
            SamplingParams(
                width=64,
                height=32,
                num_inference_steps=10,
                true_cfg_scale=1.0,
                guidance_scale=3.0,
                strength=0.5,
                num_images=3,
            ),
            (b"",),
            3 * 5 * 64 * 32,
            id="image-to-image",
        ),
    ],
)
def test_estimate_of_a_waiting_request(
    params: SamplingParams, images: tuple[bytes, ...], work: float
) -> None:
    request = GenerationRequest(prompt="a cat", params=params, images=images)
    assert estimate(request, 1.0) == work


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        pytest.param("deployments.engine.batcher", ("torch", "ray", "numpy"), id="batcher"),
        pytest.param("deployments.engine.engine", ("torch", "ray", "PIL"), id="engine"),
        pytest.param("deployments.engine.inline", ("torch", "ray", "numpy"), id="inline"),
        pytest.param("deployments.families.fake", ("torch", "ray", "diffusers"), id="fake"),
    ],
)
def test_import_stays_light_in_a_new_process(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(sorted(set({absent!r}) & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
