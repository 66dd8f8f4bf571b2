"""Which replicas a request prefers, as a pure decision."""

from __future__ import annotations

import pytest

from deployments.affinity import MAX_LEAD, Candidate, ranks, weights_of
from deployments.types import GenerationRequest, WeightsSource


def candidates(**replicas: tuple[bool, int | None]) -> list[Candidate]:
    return [
        Candidate(id=name, has_weights=has, num_requests=number)
        for name, (has, number) in replicas.items()
    ]


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        pytest.param({"a": (False, 0), "b": (False, 9)}, [["a", "b"]], id="nobody has them"),
        pytest.param({"a": (True, 3), "b": (True, 1)}, [["a", "b"]], id="all have them"),
        pytest.param({"a": (False, 0), "b": (True, 1)}, [["b"], ["a"]], id="one has them"),
        pytest.param({"a": (False, None), "b": (True, None)}, [["b"], ["a"]], id="unknown load"),
        pytest.param({"a": (False, 0), "b": (True, MAX_LEAD)}, [["a", "b"]], id="one is busy"),
        pytest.param({"a": (False, 2), "b": (True, MAX_LEAD)}, [["b"], ["a"]], id="both are busy"),
        pytest.param(
            {"a": (True, 9), "b": (True, 1), "c": (False, 0)}, [["b"], ["a", "c"]], id="two"
        ),
    ],
)
def test_ranks(replicas: dict[str, tuple[bool, int | None]], expected: list[list[str]]) -> None:
    assert ranks(candidates(**replicas)) == expected


def test_weights_of_a_call() -> None:
    source = WeightsSource(id="pm_1", kind="path", location="/w")
    plain = GenerationRequest(prompt="", weights="ann")
    own = GenerationRequest(prompt="", weights="ann", weights_source=source)
    assert weights_of(["id", plain]) == "ann"
    assert weights_of(["id", own]) == "pm_1"
    assert weights_of(["id", GenerationRequest(prompt="")]) is None
    assert weights_of(["prefix"]) is None
