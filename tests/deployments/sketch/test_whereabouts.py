"""Whereabouts: where an edit is, told in places from its middle."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from deployments.sketch.qwen_beginning import NUM_CONSTANTS, NUM_HELD  # noqa: E402
from deployments.sketch.whereabouts import Whereabouts, whereabouts  # noqa: E402

_WIDTH = NUM_HELD + NUM_CONSTANTS + 16


def _changed() -> torch.Tensor:
    """12 by 16 latents; the first picture changes in rows 2..5 and columns 8..9, the other not."""
    changed = torch.zeros(2, 1, 12, 16)
    changed[0, 0, 2:6, 8:10] = 1
    return changed


def test_places_are_told_by_rows_and_columns_from_the_middle_of_what_changes() -> None:
    truth, counts = whereabouts(_changed())
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
    asker = Whereabouts(_WIDTH)
    truth, _ = whereabouts(_changed())
    tokens = torch.zeros(2, 48, _WIDTH)
    tokens[..., NUM_HELD : NUM_HELD + 5] = truth
    optimizer = torch.optim.Adam(asker.parameters(), lr=0.03)
    for _ in range(150):
        optimizer.zero_grad()
        error = asker.errors(tokens, _changed() > 0).sum()
        error.backward()
        optimizer.step()
    found = float(error.detach())
    assert found < 0.02
    # What the copying rests on is not what it reads.
    tokens[..., :NUM_HELD] = 7
    tokens[..., -NUM_CONSTANTS:] = 7
    with torch.no_grad():
        again = asker.errors(tokens, _changed() > 0).sum()
    assert float(again) == pytest.approx(found, abs=0.01)


def test_it_hears_the_third_layer_and_only_meanwhile() -> None:
    class Layer(torch.nn.Module):
        def forward(self, text: torch.Tensor, picture: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return text, picture + 1

    model = SimpleNamespace(transformer_blocks=[Layer() for _ in range(4)])
    picture = torch.zeros(1, 4, _WIDTH)

    def run() -> None:
        seen = picture
        for block in model.transformer_blocks:
            _, seen = block(picture, seen)

    with Whereabouts(_WIDTH).listening(model) as heard:
        run()
    run()
    assert len(heard) == 1
    assert torch.equal(heard[0], picture + 3)
