"""One picture's fault stays its own: memory, NaN, exceptions, and faults of the loop itself."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from deployments.config import ModelConfig
from deployments.engine.inline import InlineRunner
from deployments.errors import (
    GenerationFailed,
    InvalidRequest,
    NumericalFailure,
    OutOfMemory,
    WorkerLost,
)
from deployments.families.fake import FakeFamily
from deployments.types import GenerationRequest


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        pytest.param("fail:encode", GenerationFailed, id="encode"),
        pytest.param("fail:step", GenerationFailed, id="forward"),
        pytest.param("fail:advance", GenerationFailed, id="advance"),
        pytest.param("fail:decode", GenerationFailed, id="decode"),
        pytest.param("fail:nan", NumericalFailure, id="nan"),
        pytest.param("fail:oom", OutOfMemory, id="memory"),
    ],
)
def test_fault_of_one_request_leaves_the_others(
    build_engine: Any, ask: Any, gated: Any, prompt: str, kind: type[Exception]
) -> None:
    engine = build_engine(runner=gated)
    first = ask(engine, "first", num_inference_steps=6)
    gated.wait()
    bad = ask(engine, "bad", prompt, num_images=2)
    others = [ask(engine, f"other{n}", seed=n) for n in range(2)]
    gated.open_gate()
    error = bad.error()
    assert type(error) is kind
    assert "/srv" not in error.message
    assert "Error" not in error.message
    for heard in (first, *others):
        heard.finished()
    ask(engine, "later").finished()


def test_refused_request_keeps_nothing_alive(build_engine: Any, ask: Any) -> None:
    kept: list[weakref.ref[object]] = []

    class Strict(FakeFamily):
        """Has read something when it finds out that it cannot go on."""

        def encode(self, request: GenerationRequest, weights: Any) -> Any:
            read = np.ones(8)
            kept.append(weakref.ref(read))
            try:
                raise ValueError("no such thing")
            except ValueError as error:
                raise InvalidRequest("unknown thing") from error

    engine = build_engine(Strict(ModelConfig(family="fake")))
    gc.collect()
    gc.disable()
    try:
        heard = ask(engine, "bad")
        assert type(heard.error()) is InvalidRequest
        engine.stop()
        assert kept[0]() is None
    finally:
        gc.enable()


def test_batch_without_memory_is_run_apart(build_engine: Any, ask: Any, gated: Any) -> None:
    engine = build_engine(runner=gated)
    heard = [ask(engine, str(n), "fail:oom-batch", guidance_scale=2.0) for n in range(4)]
    gated.wait()
    gated.open_gate()
    assert {one.finished().max_batch_rows for one in heard} == {2}


def test_memory_is_tried_again_without_idle_weights(build_engine: Any, ask: Any) -> None:
    class Tight(InlineRunner):
        """Holds one set of weights and nothing besides."""

        engine: Any = None

        def run(self, function: Any, *args: Any) -> Any:
            if function.__name__ == "decode" and len(self.engine.load().resident_weights) > 1:
                raise MemoryError
            return function(*args)

    runner = Tight()
    runner.engine = engine = build_engine(runner=runner, personal=("ann",))
    ask(engine, "a").finished()
    ask(engine, "b", weights="ann").finished()
    assert engine.load().resident_weights == ("ann",)


def test_error_of_the_family_passes_unchanged(build_engine: Any, ask: Any) -> None:
    error = ask(build_engine(), "a", scheduler="Eular").error()
    assert type(error) is InvalidRequest
    assert error.message == "unknown scheduler 'Eular'; known: Euler, Heun, DDIM"


def test_undecodable_input_is_the_callers_fault(build_engine: Any, ask: Any) -> None:
    assert ask(build_engine(), "a", images=(b"nothing",)).error().code == "invalid_image"


def test_real_exception_is_logged_with_its_request(
    build_engine: Any, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ask(build_engine(), "req-7", "fail:encode").error()
    assert "request_id=req-7" in caplog.text
    assert "/srv/fake/encoder.bin" in caplog.text


def test_lost_device_ends_requests_and_shows_in_health(build_engine: Any, ask: Any) -> None:
    class Lost(InlineRunner):
        is_lost = False

        def run(self, function: Any, *args: Any) -> Any:
            self.is_lost = True
            raise RuntimeError("an illegal memory access was encountered")

    engine = build_engine(runner=Lost())
    assert isinstance(ask(engine, "a").error(), WorkerLost)
    assert not engine.is_alive


def test_encode_without_states_is_a_failure(build_engine: Any, ask: Any) -> None:
    class NoStates(FakeFamily):
        def encode(self, request: Any, weights: Any) -> Any:
            return None

    engine = build_engine(NoStates(ModelConfig(family="fake")))
    assert type(ask(engine, "a").error()) is GenerationFailed
    assert engine.evict().weights == ("",)


def test_engine_goes_on_after_a_fault_of_its_own(build_engine: Any, ask: Any) -> None:
    class OddStates(FakeFamily):
        def encode(self, request: Any, weights: Any) -> Any:
            states = super().encode(request, weights)
            if request.prompt == "odd":
                states[0].tokens = "many"
            return states

    engine = build_engine(OddStates(ModelConfig(family="fake")))
    assert type(ask(engine, "a", "odd").error()) is GenerationFailed
    ask(engine, "b").finished()
    assert engine.is_alive
    assert engine.evict().weights == ("",)
