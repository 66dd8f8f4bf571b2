"""Pictures that look as if others had drawn them: what an edit keeps is kept."""

from __future__ import annotations

from random import Random

import numpy as np

from deployments.sketch.edits import random_edit
from deployments.sketch.foreign import retinted, with_horizon
from deployments.sketch.painter import paint
from deployments.sketch.scenes import Landscape


def test_new_colours_keep_what_an_edit_keeps_and_what_it_makes() -> None:
    rng = Random(0)
    for before, after in painted("recolour", "time", "ground"):
        same = (before == after).all(axis=-1)
        new_before, new_after = retinted([before, after], rng, is_named=True)
        assert np.array_equal(new_before[same], new_after[same])
        assert np.array_equal(new_after[~same], after[~same])
        assert not np.array_equal(new_before, before)


def test_new_colours_are_those_of_what_an_edit_uncovers_too() -> None:
    for before, after in painted("remove", "reshape"):
        new_before, new_after = retinted([before, after], Random(1), is_named=False)
        tinted = dict(
            zip(map(tuple, before.reshape(-1, 3)), new_before.reshape(-1, 3), strict=True)
        )
        for old, new in zip(
            map(tuple, after.reshape(-1, 3)), new_after.reshape(-1, 3), strict=True
        ):
            assert old not in tinted or np.array_equal(tinted[old], new)


def painted(*kinds: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Before and after of some edits of one picture, of these kinds."""
    rng = Random(0)
    edits = [edit for edit in (random_edit(rng) for _ in range(120)) if edit.asks["edit"] in kinds]
    pairs = [tuple(np.asarray(paint(s, 48, 48)) for s in (*e.before, e.after)) for e in edits]
    assert len(pairs) > 10
    return pairs


def test_the_horizon_moves_and_the_sky_stays_above_it() -> None:
    scene = Landscape(time="day", land="desert", things=frozenset(), house="red", variation=1)
    picture = np.asarray(paint(scene, 100, 100))
    for share in (0.45, 0.7):
        [moved] = with_horizon([picture], share)
        assert moved.shape == picture.shape
        line = round(share * 100)
        for moved_row, row in ((line - 2, 58), (line + 2, 62)):
            assert np.abs(moved[moved_row, 50].astype(int) - picture[row, 50]).max() < 12
