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
    for _ in range(20):
        edit = random_edit(rng)
        if len(edit.before) == 2:
            continue
        before, after = (np.asarray(paint(s, 64, 64)) for s in (*edit.before, edit.after))
        same = (before == after).all(axis=-1)
        new_before, new_after = retinted([before, after], rng)
        assert np.array_equal(new_before[same], new_after[same])
        assert np.array_equal(new_after[~same], after[~same])
        assert not np.array_equal(new_before, before)


def test_the_horizon_moves_and_the_sky_stays_above_it() -> None:
    scene = Landscape(time="day", land="desert", things=frozenset(), house="red", variation=1)
    picture = np.asarray(paint(scene, 100, 100))
    for share in (0.45, 0.7):
        [moved] = with_horizon([picture], share)
        assert moved.shape == picture.shape
        line = round(share * 100)
        for moved_row, row in ((line - 2, 58), (line + 2, 62)):
            assert np.abs(moved[moved_row, 50].astype(int) - picture[row, 50]).max() < 12
