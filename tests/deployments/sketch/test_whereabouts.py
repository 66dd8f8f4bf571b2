"""Whereabouts: where an edit is, told in places from its middle."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from deployments.sketch.qwen_beginning import NUM_CONSTANTS, NUM_HELD  # noqa: E402
from deployments.sketch.whereabouts import Whereabouts, targets  # noqa: E402

_WIDTH = NUM_HELD + NUM_CONSTANTS + 16


def _changed() -> torch.Tensor:
    """12 by 16 latents; the first picture changes in rows 2..5 and columns 8..9, the other not."""
    changed = torch.zeros(2, 1, 12, 16)
    changed[0, 0, 2:6, 8:10] = 1
    return changed


def test_places_are_told_by_rows_and_columns_from_the_middle_of_what_changes() -> None:
    truth, counts = targets(_changed())
    assert truth.shape == (2, 6 * 8, 5)
    told = truth[0].view(6, 8, 5)
    assert told[1, 4, 0] == told[2, 4, 0] == 1
    assert told[..., 0].sum() == 2
    # The middle is row 1.5 and column 4 of the places; 8 places count as one.
    assert told[1, 4, 1:3].tolist() == [-0.5 / 8, 0]
    assert told[5, 0, 1:3].tolist() == [3.5 / 8, -4 / 8]
    assert told[0, 0, 3:].tolist() == [1 / 8, 0.5 / 8]
    near = counts[0].view(6, 8)
    assert near[1, 4] == 1
    assert near[5, 0] == pytest.approx(0.1)


def test_where_nothing_changes_nothing_is_asked() -> None:
    asker = Whereabouts(_WIDTH)
    tokens = torch.randn(2, 60, _WIDTH)
    errors = asker.errors(tokens, _changed() > 0)
    assert errors[0] > 0
    assert errors[1] == 0


def test_it_learns_to_tell_from_what_tokens_hold() -> None:
    torch.manual_seed(0)
    asker = Whereabouts(_WIDTH)
    truth, _ = targets(_changed())
    tokens = torch.zeros(2, 48, _WIDTH)
    tokens[..., NUM_HELD : NUM_HELD + 5] = truth
    optimizer = torch.optim.Adam(asker.parameters(), lr=0.03)
    for _ in range(150):
        optimizer.zero_grad()
        error = asker.errors(tokens, _changed() > 0).sum()
        error.backward()
        optimizer.step()
    with torch.no_grad():
        found = asker.errors(tokens, _changed() > 0).sum()
        # What the copying rests on is not what it reads.
        tokens[..., :NUM_HELD] = 7
        tokens[..., -NUM_CONSTANTS:] = 7
        again = asker.errors(tokens, _changed() > 0).sum()
    assert float(found) < 0.02
    assert torch.equal(again, found)


def test_the_middle_of_two_places_is_between_them_and_far_is_far_enough() -> None:
    changed = torch.zeros(1, 1, 4, 80)
    changed[..., 0, 0] = changed[..., 0, 8] = 1
    truth, _ = targets(changed)
    told = truth[0].view(2, 40, 5)
    assert told[0, 2, 2] == 0
    assert told[0, 0, 0] == told[0, 4, 0] == 0.25
    assert told[0, 39, 2] == 2.0
