"""Forms: what tokens tell of the form that a changed shape comes to have."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from deployments.sketch.forms import Forms  # noqa: E402
from deployments.sketch.qwen_beginning import NUM_CONSTANTS, NUM_HELD  # noqa: E402
from deployments.sketch.shape_places import forms_at  # noqa: E402
from tests.deployments.sketch.shape_edits import RING, SQUARE, into, into_night  # noqa: E402

_WIDTH = NUM_HELD + NUM_CONSTANTS + 16
_RESHAPED = into(SQUARE, replace(RING, kind="circle"))


def test_nothing_is_asked_of_landscapes_and_of_shapes_that_stay() -> None:
    covered, near = forms_at([into_night(), into(SQUARE, RING), _RESHAPED], 16, 32)
    errors = Forms(_WIDTH).errors(torch.randn(3, 300, _WIDTH), covered, near).detach()
    assert errors.tolist() == pytest.approx([0, 0, math.log(2)])


def test_it_learns_to_tell_each_of_a_tokens_four_latents() -> None:
    covered, near = forms_at([_RESHAPED], 16, 32)
    asker = Forms(_WIDTH)
    tokens = torch.zeros(1, 200, _WIDTH)
    blocks = covered[0, 0].view(8, 2, 16, 2).permute(0, 2, 1, 3).reshape(128, 4)
    tokens[0, :128, NUM_HELD : NUM_HELD + 4] = blocks.float()
    optimizer = torch.optim.Adam(asker.parameters(), lr=0.3)
    for _ in range(80):
        optimizer.zero_grad()
        asker.errors(tokens, covered, near).sum().backward()
        optimizer.step()
    assert float(asker.errors(tokens, covered, near).detach()) < 0.05
