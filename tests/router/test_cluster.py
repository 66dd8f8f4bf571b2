"""What the replicas of one model offer together, and what each tells of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from deployments.types import Device, Load
from router.cluster import ServeModels, _offered, _replicas
from router.fake_models import fake_card

CARD = fake_card("sdxl", created=1, loras=("ink",))
LOAD = Load(num_running=1, num_waiting=0, work=1.0, device=Device(node="two", id="cpu", name="CPU"))
OTHER = replace(LOAD, device=Device(node="one", id="cpu", name="CPU"))


class FakeHandle:
    """Of a deployment whose replicas answer so, or fail; without answers it never does."""

    def __init__(self, *answers: Load | Exception) -> None:
        self._answers = answers

    def broadcast(self, method: str, *args: object) -> FakeHandle:
        return self

    async def results_async(self, *, return_exceptions: bool) -> list[Load | Exception]:
        if not self._answers:
            await asyncio.Event().wait()
        assert return_exceptions
        return list(self._answers)


def models_of(**handles: Any) -> ServeModels:
    models = ServeModels("gateway")
    models._handles.update(handles)
    return models


@pytest.mark.parametrize(
    ("handle", "answers"),
    [
        pytest.param(FakeHandle(LOAD, OTHER), [LOAD, OTHER], id="all"),
        pytest.param(FakeHandle(LOAD, RuntimeError("died"), OTHER), [LOAD, OTHER], id="one died"),
        pytest.param(FakeHandle(), [], id="none in time"),
    ],
)
async def test_replicas_that_answer_are_heard_whatever_the_others_do(
    handle: FakeHandle, answers: list[Load]
) -> None:
    assert await models_of(sdxl=handle)._broadcast("sdxl", "load", seconds=0.05) == answers
    assert await models_of()._broadcast("sdxl", "load", seconds=0.05) == []


@pytest.mark.parametrize(
    ("states", "loads", "told"),
    [
        pytest.param(
            {"RUNNING": 2}, [LOAD, OTHER], [("RUNNING", OTHER), ("RUNNING", LOAD)], id="by place"
        ),
        pytest.param(
            {"RUNNING": 2, "STARTING": 1},
            [LOAD],
            [("RUNNING", LOAD), ("RUNNING", None), ("STARTING", None)],
            id="one is silent, one starts",
        ),
        pytest.param({}, [LOAD], [("RUNNING", LOAD)], id="not yet counted"),
        pytest.param({"STOPPING": 1}, [], [("STOPPING", None)], id="stopping"),
    ],
)
def test_replicas_are_those_that_serve_counts_with_what_they_told(
    states: Mapping[str, int], loads: list[Load], told: list[tuple[str, Load | None]]
) -> None:
    assert [(one.state, one.load) for one in _replicas(states, loads)] == told


def test_loras_are_those_that_every_replica_has() -> None:
    first = replace(CARD, created=2, loras=("ink", "wool"), lora_digests=(("wool", "0a"),))
    second = replace(CARD, created=3, loras=("wool", "pen"))
    offered = _offered(CARD, [first, second])
    assert (offered.loras, offered.lora_digests) == (("wool",), (("wool", "0a"),))
    assert offered.created == CARD.created


def test_weights_and_their_digests_are_those_of_the_first_replica() -> None:
    first = replace(CARD, weights=("ann",), weights_digests=(("ann", "0a"),))
    offered = _offered(CARD, [first, CARD])
    assert (offered.weights, offered.weights_digests) == (("ann",), (("ann", "0a"),))


def test_digests_are_of_loras_that_are_offered() -> None:
    first = replace(CARD, loras=("ink", "wool"), lora_digests=(("ink", "0a"), ("wool", "0b")))
    offered = _offered(CARD, [first, CARD])
    assert (offered.loras, offered.lora_digests) == (("ink",), (("ink", "0a"),))
