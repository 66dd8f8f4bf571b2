"""Reading: what is read off tokens, and what is not."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from deployments.sketch.qwen_beginning import NUM_CONSTANTS, NUM_HELD  # noqa: E402
from deployments.sketch.reading import Reading  # noqa: E402

_WIDTH = NUM_HELD + NUM_CONSTANTS + 4


def test_it_reads_the_first_tokens_but_not_what_their_copying_rests_on() -> None:
    tokens = torch.randn(2, 9, _WIDTH)
    reading = Reading(_WIDTH, 3)
    assert reading(tokens, 5).shape == (2, 5, 3)
    assert not reading(tokens, 5).any()
    torch.nn.init.normal_(reading.tell.weight)
    told = reading(tokens, 5)
    tokens[..., :NUM_HELD] = 7
    tokens[..., -NUM_CONSTANTS:] = 7
    tokens[:, 5:] = 7
    assert torch.equal(reading(tokens, 5), told)
    tokens[0, 2, NUM_HELD] += 1
    assert not torch.equal(reading(tokens, 5), told)
