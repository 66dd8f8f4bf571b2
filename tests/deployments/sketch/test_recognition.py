"""Recognition: what tokens tell of the shapes that they are a part of."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from deployments.sketch.qwen_beginning import NUM_CONSTANTS, NUM_HELD  # noqa: E402
from deployments.sketch.recognition import Choice, Recognition  # noqa: E402
from deployments.sketch.scenes import KINDS  # noqa: E402
from deployments.sketch.shape_places import NO_KIND, shapes_at  # noqa: E402
from tests.deployments.sketch.shape_edits import RING, SQUARE, into, into_night  # noqa: E402

_WIDTH = NUM_HELD + NUM_CONSTANTS + 16
_RECOLOURED = into(SQUARE, replace(RING, colour="blue"))


def test_it_does_not_know_first_and_is_not_asked_where_nothing_is() -> None:
    kinds, _ = shapes_at([into_night(), _RECOLOURED], 8, 16)
    errors = Recognition(_WIDTH).errors(torch.randn(2, 300, _WIDTH), kinds).detach()
    assert errors[0] == 0
    assert float(errors[1]) == pytest.approx(math.log(len(KINDS)))


def test_which_is_meant_is_asked_where_one_is_and_another_is_not() -> None:
    both = into(replace(SQUARE, colour="blue"), replace(RING, colour="blue"))
    edits = [into_night(), _RECOLOURED, into(SQUARE, RING), both]
    tokens = torch.randn(4, 300, _WIDTH)
    errors = Choice(_WIDTH).errors(tokens, *shapes_at(edits, 8, 16)).detach()
    assert errors.tolist() == pytest.approx([0, math.log(2), 0, 0])


def test_those_meant_count_as_much_as_those_not_meant() -> None:
    kinds, meant = shapes_at([into(replace(SQUARE, colour="blue"), RING)], 8, 16)
    asker = Choice(_WIDTH)
    # It says that all are meant: half of what counts is wrong.
    torch.nn.init.constant_(asker.reading.tell.bias, 20.0)
    error = asker.errors(torch.zeros(1, 128, _WIDTH), kinds, meant).detach()
    assert float(error) == pytest.approx(10.0, rel=1e-3)


def test_it_learns_to_tell_from_what_tokens_hold() -> None:
    kinds, _ = shapes_at([_RECOLOURED], 8, 16)
    asker = Recognition(_WIDTH)
    tokens = torch.zeros(1, 200, _WIDTH)
    there = kinds[0] != NO_KIND
    tokens[0, :128, NUM_HELD : NUM_HELD + len(KINDS)][there] = torch.eye(len(KINDS))[
        kinds[0][there]
    ]
    optimizer = torch.optim.Adam(asker.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        asker.errors(tokens, kinds).sum().backward()
        optimizer.step()
    assert float(asker.errors(tokens, kinds).detach()) < 0.05
