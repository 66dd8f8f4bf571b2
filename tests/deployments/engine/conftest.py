"""What the engine's tests share: engines of the fake family, a listener, a runner that can wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event, Semaphore
from typing import Any

import pytest

from deployments.config import ModelConfig
from deployments.engine.engine import Engine
from deployments.engine.events import Failed, Finished, Stepped
from deployments.engine.inline import InlineRunner
from deployments.families.fake import FakeFamily
from deployments.types import GenerationRequest, SamplingParams


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[Stepped | Finished | Failed] = []
        self.has_ended = Event()

    def __call__(self, event: Stepped | Finished | Failed) -> None:
        assert not self.has_ended.is_set()
        self.events.append(event)
        if not isinstance(event, Stepped):
            self.has_ended.set()

    @property
    def steps(self) -> list[Stepped]:
        return [event for event in self.events if isinstance(event, Stepped)]

    def end(self) -> Finished | Failed:
        assert self.has_ended.wait(10), "the request never ended"
        last = self.events[-1]
        assert not isinstance(last, Stepped)
        return last

    def finished(self) -> Finished:
        last = self.end()
        assert isinstance(last, Finished), last
        return last

    def error(self) -> Any:
        last = self.end()
        assert isinstance(last, Failed), last
        return last.error


class GatedRunner(InlineRunner):
    """Lets one denoising step through for each ``permit``, and tells when it stands at the gate."""

    def __init__(self) -> None:
        self.gate = Semaphore(0)
        self.arrived = Semaphore(0)
        self.is_open = False

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        if function.__name__ == "denoise" and not self.is_open:
            self.arrived.release()
            assert self.gate.acquire(timeout=10)
        return function(*args)

    def permit(self) -> None:
        self.gate.release()

    def wait(self) -> None:
        assert self.arrived.acquire(timeout=10), "no step began"

    def open_gate(self) -> None:
        self.is_open = True
        self.gate.release(1000)


@pytest.fixture
def build_engine() -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def build(
        family: Any = None,
        runner: Any = None,
        *,
        step_seconds: float = 0.0,
        personal: tuple[str, ...] = (),
        is_started: bool = True,
        **limits: Any,
    ) -> Engine:
        config = ModelConfig(
            family="fake", step_seconds=step_seconds, personal=dict.fromkeys(personal, "/w")
        )
        engine = Engine(family or FakeFamily(config), runner or InlineRunner(), **limits)
        engines.append(engine)
        if is_started:
            engine.start()
        return engine

    yield build
    for engine in engines:
        engine.stop()


@pytest.fixture
def gated() -> Iterator[GatedRunner]:
    runner = GatedRunner()
    yield runner
    runner.open_gate()


@pytest.fixture
def ask() -> Callable[..., Heard]:
    """Adds a request, ``ask(engine, id, prompt, **params)``, and returns what is heard of it."""

    def ask(engine: Engine, request_id: str, prompt: str = "a cat", **knobs: Any) -> Heard:
        heard = Heard()
        engine.add(request_id, _request(prompt, **knobs), heard)
        return heard

    return ask


def _request(prompt: str, **knobs: Any) -> GenerationRequest:
    fields = GenerationRequest.__dataclass_fields__
    outer = {name: knobs.pop(name) for name in list(knobs) if name in fields}
    known = {"width": 64, "height": 64, "num_inference_steps": 4, "guidance_scale": 1.0}
    params = SamplingParams(**{"seed": 1, "strength": 0.8, **known, **knobs})
    return GenerationRequest(prompt=prompt, params=params, **outer)
