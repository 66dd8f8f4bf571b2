"""The step loop over the fake family: sharing, joining, leaving, previews, weights, stopping."""

from __future__ import annotations

import threading
from time import sleep
from typing import Any

import numpy as np
import pytest

from deployments.config import ModelConfig
from deployments.engine.batcher import MAX_OVERTAKEN
from deployments.engine.device import host_device
from deployments.engine.engine import Engine
from deployments.engine.events import Stepped
from deployments.engine.inline import InlineRunner
from deployments.engine.memory import Budget
from deployments.errors import (
    Cancelled,
    Conflict,
    GenerationFailed,
    InvalidRequest,
    MemoryExceeded,
    ModelNotReady,
    OutOfMemory,
)
from deployments.families.fake import NUM_BYTES, FakeFamily
from deployments.types import GenerationRequest, Holding, Load, SecondPass


def pixels_of(heard: Any) -> list[Any]:
    return [picture.pixels for picture in heard.finished().pictures]


def _is_closed(engine: Engine) -> bool:
    """Whether requests are refused; one that is taken by then is cancelled at once."""
    try:
        engine.add("probe", GenerationRequest(prompt="a cat"), lambda event: None)
    except ModelNotReady:
        return True
    except Conflict:
        return False
    engine.cancel("probe")
    return False


def test_request_ends_with_its_pictures_in_order(build_engine: Any, ask: Any) -> None:
    heard = ask(build_engine(), "a", "a red cat", num_images=3, seed=5)
    finished = heard.finished()
    assert [picture.seed for picture in finished.pictures] == [5, 6, 7]
    assert finished.pictures[0].pixels.shape == (64, 64, 3)
    assert finished.pictures[0].pixels.dtype == np.float32
    assert finished.prompt_tokens == 3
    assert finished.seconds > 0


@pytest.mark.parametrize("scheduler", ["Euler", "Heun"])
def test_progress_counts_the_steps_asked_for(build_engine: Any, ask: Any, scheduler: str) -> None:
    heard = ask(build_engine(), "a", num_images=2, num_inference_steps=5, scheduler=scheduler)
    heard.finished()
    steps = [event.step for event in heard.steps]
    assert {event.num_steps for event in heard.steps} == {10}
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, 10)


def test_unlike_requests_share_a_forward_pass(build_engine: Any, ask: Any, gated: Any) -> None:
    engine = build_engine(runner=gated)
    first = ask(engine, "a", num_inference_steps=3, seed=1)
    gated.wait()
    second = ask(engine, "b", num_inference_steps=7, guidance_scale=5.0, scheduler="Heun")
    third = ask(engine, "c", width=128)
    gated.open_gate()
    assert first.finished().max_batch_rows == 3
    assert second.finished().max_batch_rows == 3
    assert third.finished().max_batch_rows == 1


def test_picture_is_the_same_alone_and_among_others(build_engine: Any, ask: Any) -> None:
    knobs: dict[str, Any] = {"seed": 9, "num_inference_steps": 6, "guidance_scale": 4.0}
    alone = pixels_of(ask(build_engine(), "a", "a cat", **knobs))
    engine = build_engine(step_seconds=0.002)
    among = [ask(engine, f"other{n}", "a dog", seed=n) for n in range(5)]
    shared = ask(engine, "a", "a cat", **knobs)
    assert np.array_equal(pixels_of(shared)[0], alone[0])
    assert shared.finished().max_batch_rows > 2
    assert all(len(other.finished().pictures) == 1 for other in among)


def test_request_joins_at_a_step_boundary_and_leaves_before_others(
    build_engine: Any, ask: Any, gated: Any
) -> None:
    engine = build_engine(runner=gated)
    long = ask(engine, "long", num_inference_steps=8)
    gated.wait()
    short = ask(engine, "short", num_inference_steps=2)
    for _ in range(3):
        gated.permit()
        gated.wait()
    assert short.finished().max_batch_rows == 2
    assert not long.has_ended.is_set()
    gated.open_gate()
    long.finished()
    assert long.steps[-1].step == 8


def test_cancel_takes_effect_before_the_next_step(build_engine: Any, ask: Any, gated: Any) -> None:
    engine = build_engine(runner=gated)
    leaves, stays = ask(engine, "leaves"), ask(engine, "stays")
    gated.wait()
    assert engine.cancel("leaves")
    gated.permit()
    assert isinstance(leaves.error(), Cancelled)
    assert leaves.steps[-1].step <= 1
    gated.open_gate()
    stays.finished()
    assert not engine.cancel("leaves")
    assert not engine.cancel("unknown")


def test_cancel_of_a_request_that_waits(build_engine: Any, ask: Any) -> None:
    engine = build_engine(is_started=False)
    heard = ask(engine, "a")
    assert engine.cancel("a")
    engine.start()
    assert isinstance(heard.error(), Cancelled)
    assert heard.steps == []


def test_cancel_during_the_last_work_is_kept(build_engine: Any, ask: Any) -> None:
    class CancelsAtDecode(InlineRunner):
        engine: Engine

        def run(self, function: Any, *args: Any) -> Any:
            if function.__name__ == "decode":
                assert self.engine.cancel("a")
            return function(*args)

    runner = CancelsAtDecode()
    runner.engine = build_engine(runner=runner)
    assert isinstance(ask(runner.engine, "a").error(), Cancelled)


def test_previews_are_spread_over_the_first_picture(build_engine: Any, ask: Any) -> None:
    heard = ask(build_engine(), "a", num_previews=3, num_inference_steps=8, num_images=2)
    heard.finished()
    previews = [event for event in heard.steps if event.preview is not None]
    assert [event.step for event in previews] == [4, 8, 12]
    assert {event.preview_index for event in previews} == {0}
    assert all(event.preview.shape == (8, 8, 3) for event in previews)


def test_preview_that_fails_harms_nobody(build_engine: Any, ask: Any) -> None:
    class NoPreviews(InlineRunner):
        def run(self, function: Any, *args: Any) -> Any:
            if function.__name__ == "preview":
                raise MemoryError
            return function(*args)

    heard = ask(build_engine(runner=NoPreviews()), "a", num_previews=2)
    heard.finished()
    assert all(event.preview is None for event in heard.steps)


def test_add_of_an_id_in_flight_is_a_conflict(build_engine: Any, ask: Any, gated: Any) -> None:
    engine = build_engine(runner=gated)
    heard = ask(engine, "a")
    with pytest.raises(Conflict):
        ask(engine, "a")
    gated.open_gate()
    heard.finished()
    ask(engine, "a").finished()


def test_add_from_many_threads(build_engine: Any, ask: Any) -> None:
    engine = build_engine(max_batch_rows=8)
    heard: dict[str, Any] = {}

    def add(thread: int) -> None:
        for number in range(20):
            name = f"{thread}-{number}"
            heard[name] = ask(engine, name, seed=number, num_inference_steps=2)
            engine.load()

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(heard) == 160
    assert max(one.finished().max_batch_rows for one in heard.values()) <= 8
    assert engine.load() == Load(
        num_running=0,
        num_waiting=0,
        work=0,
        resident_weights=("",),
        weight_bytes=1_000_000,
        holdings=(Holding(name="", kind="base", num_bytes=1_000_000),),
        device=host_device(),
    )


def test_callers_never_wait_for_a_step(build_engine: Any, ask: Any, gated: Any) -> None:
    engine = build_engine(runner=gated)
    ask(engine, "a", guidance_scale=3.0)
    gated.wait()
    ask(engine, "b", num_images=2)
    load = engine.load()
    assert (load.num_running, load.num_waiting) == (1, 1)
    assert load.work == 64 * (4 * 2 + 4 * 2)
    assert engine.evict().weights == ()
    assert engine.cancel("b")
    assert engine.seconds_since_step >= 0


def test_stop_ends_what_is_in_flight(build_engine: Any, ask: Any, gated: Any) -> None:
    engine = build_engine(runner=gated)
    running = ask(engine, "a", num_inference_steps=100)
    gated.wait()
    waiting = ask(engine, "b")
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    while not _is_closed(engine):
        sleep(0.001)
    gated.permit()
    stopping.join(10)
    assert not stopping.is_alive()
    assert isinstance(running.error(), Cancelled)
    assert isinstance(waiting.error(), Cancelled)
    assert not engine.is_alive
    with pytest.raises(ModelNotReady):
        ask(engine, "c")


def test_stop_before_start_ends_who_waits(build_engine: Any, ask: Any) -> None:
    engine = build_engine(is_started=False)
    heard = ask(engine, "a")
    engine.stop()
    assert isinstance(heard.error(), Cancelled)


def test_health_of_an_idle_and_a_busy_engine(build_engine: Any, ask: Any, gated: Any) -> None:
    engine = build_engine(runner=gated)
    assert engine.is_alive
    assert engine.seconds_since_step == 0
    ask(engine, "a")
    gated.wait()
    first = engine.seconds_since_step
    assert engine.seconds_since_step > first >= 0


def test_personal_weights_do_not_share_and_stay_resident(
    build_engine: Any, ask: Any, gated: Any
) -> None:
    engine = build_engine(runner=gated, personal=("ann", "bob"), budget=Budget(max_sets=2))
    heard = [ask(engine, name, weights=name) for name in ("ann", "bob")]
    gated.open_gate()
    ann, bob = (pixels_of(one)[0] for one in heard)
    assert not np.allclose(ann, bob)
    assert {one.finished().max_batch_rows for one in heard} == {1}
    assert set(engine.load().resident_weights) == {"ann", "bob"}


def test_weights_beyond_the_limit_wait_for_their_turn(
    build_engine: Any, ask: Any, gated: Any
) -> None:
    engine = build_engine(runner=gated, personal=("ann", "bob"), budget=Budget(max_sets=1))
    ann = ask(engine, "a", weights="ann")
    gated.wait()
    bob = ask(engine, "b", weights="bob")
    gated.permit()
    gated.wait()
    assert engine.load().num_waiting == 1
    gated.open_gate()
    ann.finished()
    bob.finished()
    assert engine.load().resident_weights == ("bob",)


def test_evict_drops_idle_weights_and_they_come_back(build_engine: Any, ask: Any) -> None:
    engine = build_engine(personal=("ann",))
    ask(engine, "a", weights="ann").finished()
    assert engine.evict().weights == ("ann",)
    assert engine.load().weight_bytes == 0
    ask(engine, "b", weights="ann").finished()
    assert engine.load().resident_weights == ("ann",)


class SlowShelf(FakeFamily):
    """Reads personal weights only once it is told to; the base's own are there at once."""

    def __init__(self, *names: str) -> None:
        super().__init__(ModelConfig(family="fake", personal=dict.fromkeys(names, "/w")))
        self.reads = 0
        self.may_read = threading.Event()
        self.error: Exception | None = None

    def load_weights(self, name: str | None) -> Any:
        if name is not None:
            self.reads += 1
            assert self.may_read.wait(10)
            if self.error:
                raise self.error
        return super().load_weights(name)


def test_requests_draw_on_while_weights_are_read_once_for_all(build_engine: Any, ask: Any) -> None:
    family = SlowShelf("ann")
    engine = build_engine(family)
    anns = [ask(engine, f"ann {k}", weights="ann") for k in range(3)]
    for k in range(MAX_OVERTAKEN + 4):
        ask(engine, f"other {k}").finished()
    assert not any(heard.events for heard in anns)
    assert engine.load().num_waiting == 3
    family.may_read.set()
    for heard in anns:
        heard.finished()
    assert family.reads == 1


def test_weights_that_cannot_be_read_fail_who_asked_for_them(build_engine: Any, ask: Any) -> None:
    family = SlowShelf("ann", "bob")
    engine = build_engine(family)
    family.error = GenerationFailed("weights 'ann' cannot be read")
    anns = [ask(engine, f"ann {k}", weights="ann") for k in range(2)]
    other = ask(engine, "other")
    family.may_read.set()
    assert {heard.error().message for heard in anns} == {"weights 'ann' cannot be read"}
    other.finished()
    family.error = MemoryError()
    assert isinstance(ask(engine, "bob", weights="bob").error(), OutOfMemory)
    family.error = None
    ask(engine, "again", weights="ann").finished()


def test_request_that_is_cancelled_while_its_weights_are_read(build_engine: Any, ask: Any) -> None:
    family = SlowShelf("ann")
    engine = build_engine(family)
    ann = ask(engine, "a", weights="ann")
    ask(engine, "other").finished()
    engine.cancel("a")
    assert isinstance(ann.error(), Cancelled)
    family.may_read.set()
    ask(engine, "b", weights="ann").finished()
    assert set(engine.evict().weights) == {"", "ann"}


def test_weights_beyond_the_budget_of_bytes_fail_and_the_others_draw(
    build_engine: Any, ask: Any
) -> None:
    engine = build_engine(personal=("ann",), budget=Budget(max_bytes=NUM_BYTES - 1))
    with pytest.raises(MemoryExceeded, match="takes 1000000 bytes for its weights"):
        ask(engine, "a", weights="ann")


def test_twenty_sets_of_weights_under_a_budget_for_three(build_engine: Any, ask: Any) -> None:
    names = tuple(f"user {k}" for k in range(20))
    engine = build_engine(personal=names, budget=Budget(max_bytes=3 * NUM_BYTES))
    heard = [ask(engine, f"{name}.{turn}", weights=name) for turn in range(2) for name in names]
    most = 0
    for one in heard:
        while not one.has_ended.wait(0.001):
            most = max(most, engine.load().weight_bytes)
        one.finished()
    assert NUM_BYTES <= most <= 3 * NUM_BYTES


def test_weights_are_free_however_a_request_ends(build_engine: Any, ask: Any) -> None:
    engine = build_engine(personal=("ann",))
    for prompt in ("a cat", "fail:encode", "fail:step", "fail:nan", "fail:decode"):
        ask(engine, prompt, prompt, weights="ann").end()
    assert engine.evict().weights == ("ann",)


def test_unknown_weights_fail_with_the_familys_words(build_engine: Any, ask: Any) -> None:
    error = ask(build_engine(), "a", weights="eve").error()
    assert isinstance(error, InvalidRequest)
    assert error.param == "weights"


def test_listener_that_raises_ends_its_own_request_only(
    build_engine: Any, ask: Any, gated: Any
) -> None:
    def broken(event: Any) -> None:
        if isinstance(event, Stepped) and event.step:
            raise RuntimeError("the event loop is closed")

    engine = build_engine(runner=gated)
    other = ask(engine, "a", num_inference_steps=20)
    engine.add("broken", GenerationRequest(prompt="a cat"), broken)
    gated.open_gate()
    other.finished()
    assert not engine.cancel("broken")


def test_second_pass_counts_its_steps_and_shows_previews(build_engine: Any, ask: Any) -> None:
    second = SecondPass(width=128, height=96, strength=0.5, num_inference_steps=8)
    heard = ask(build_engine(), "a", num_images=2, num_previews=3, second_pass=second)
    assert [pixels.shape for pixels in pixels_of(heard)] == [(96, 128, 3)] * 2
    assert {event.num_steps for event in heard.steps} == {16}
    steps = [event.step for event in heard.steps]
    assert steps == sorted(steps)
    assert steps[-1] == 16
    previews = [event.preview for event in heard.steps if event.preview is not None]
    assert [preview.shape for preview in previews] == [(8, 8, 3), (12, 16, 3), (12, 16, 3)]


def test_pictures_in_their_second_pass_share_with_first_passes(
    build_engine: Any, ask: Any, gated: Any
) -> None:
    engine = build_engine(runner=gated)
    second = SecondPass(width=128, height=128, strength=1.0, num_inference_steps=4)
    ours = ask(engine, "a", num_inference_steps=1, second_pass=second)
    gated.wait()
    large = ask(engine, "b", width=128, height=128, num_inference_steps=4)
    gated.open_gate()
    assert ours.finished().max_batch_rows == large.finished().max_batch_rows == 2


def test_a_second_pass_that_cannot_begin_fails_its_request_alone(
    build_engine: Any, ask: Any
) -> None:
    class Failing(FakeFamily):
        def follow(self, state: Any) -> bool:
            if state.following is not None:
                raise RuntimeError("/srv/secret")
            return super().follow(state)

    engine = build_engine(family=Failing(ModelConfig(family="fake")))
    ours = ask(engine, "a", second_pass=SecondPass(width=128, height=128))
    other = ask(engine, "b")
    assert ours.error().message == "the model failed while enlarging the request"
    assert len(other.finished().pictures) == 1


def test_load_counts_the_second_pass(build_engine: Any, ask: Any, gated: Any) -> None:
    engine = build_engine(runner=gated)
    second = SecondPass(width=128, height=128, strength=0.5, num_inference_steps=8)
    ask(engine, "a", second_pass=second)
    gated.wait()
    assert engine.load().work == 4 * 64 + 4 * 256
    ask(engine, "b", second_pass=second)
    assert engine.load().work == 2 * (4 * 64 + 4 * 256)


def test_pictures_tell_the_seed_that_variations_keep(build_engine: Any, ask: Any) -> None:
    varied = {"variation_seed": 3, "variation_strength": 0.5}
    finished = ask(build_engine(), "a", num_images=2, seed=5, **varied).finished()
    assert [picture.seed for picture in finished.pictures] == [5, 5]
