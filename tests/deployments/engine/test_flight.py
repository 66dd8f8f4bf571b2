"""Where previews fall, and which seed each picture reports."""

from __future__ import annotations

import pytest

from deployments.engine.flight import preview_points
from deployments.engine.state import picture_seed
from deployments.types import GenerationRequest, SamplingParams


@pytest.mark.parametrize(
    ("num_timesteps", "num_previews", "points"),
    [
        pytest.param(20, 0, [], id="none"),
        pytest.param(20, 1, [10], id="one"),
        pytest.param(20, 3, [5, 10, 15], id="three"),
        pytest.param(2, 3, [1], id="more than steps"),
        pytest.param(1, 3, [], id="single step"),
    ],
)
def test_preview_points_are_spread_evenly(
    num_timesteps: int, num_previews: int, points: list[int]
) -> None:
    assert preview_points(num_timesteps, num_previews) == points


@pytest.mark.parametrize(
    ("seed", "index", "expected"),
    [
        pytest.param(7, 2, 9, id="plain"),
        pytest.param(2**32 - 1, 1, 0, id="end of 32 bits"),
        pytest.param(2**40, 1, 2**40 + 1, id="long"),
        pytest.param(2**64 - 1, 1, 0, id="end of 64 bits"),
    ],
)
def test_picture_seed_stays_in_its_range(seed: int, index: int, expected: int) -> None:
    request = GenerationRequest(prompt="a cat", params=SamplingParams(seed=seed))
    assert picture_seed(request, index) == expected
