"""OwnPlace: where in its picture each token is."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from deployments.sketch.own_place import OwnPlace, own_places  # noqa: E402
from deployments.sketch.qwen_beginning import NUM_CONSTANTS, NUM_HELD  # noqa: E402

_WIDTH = NUM_HELD + NUM_CONSTANTS + 16


def test_places_go_from_side_to_side_whatever_the_size() -> None:
    told = own_places(4, 8).view(4, 8, 4)
    assert told[0, 0].tolist() == [-0.75, -0.875, 4 / 32, 8 / 32]
    assert told[3, 7].tolist() == [0.75, 0.875, 4 / 32, 8 / 32]
    assert told[..., :2].mean(dim=(0, 1)).tolist() == [0, 0]
    large = own_places(16, 16).view(16, 16, 4)
    # The middle of the first quarter lies between its places.
    assert large[3:5, 3:5, :2].mean(dim=(0, 1)).tolist() == [-0.5, -0.5]


def test_it_learns_to_tell_from_what_tokens_hold_and_asks_no_others() -> None:
    torch.manual_seed(0)
    asker = OwnPlace(_WIDTH)
    tokens = torch.randn(2, 40, _WIDTH)
    tokens[:, :32, NUM_HELD : NUM_HELD + 4] = own_places(4, 8)
    first = asker.errors(tokens, 4, 8).detach()
    assert first.shape == (2,)
    optimizer = torch.optim.Adam(asker.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        asker.errors(tokens, 4, 8).sum().backward()
        optimizer.step()
    last = asker.errors(tokens, 4, 8).detach()
    assert (last < 0.1 * first).all()
    tokens[:, 32:] = 7.0
    assert torch.equal(asker.errors(tokens, 4, 8).detach(), last)
