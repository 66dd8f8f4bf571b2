"""Batches of edits: as many as asked, of as many pictures, some as if others had drawn them."""

from __future__ import annotations

from random import Random

import pytest
import torch

from deployments.sketch.edit_sheets import draw_edits
from deployments.sketch.sheets import Format, painted_latents

FORM = Format(96, 64, 40)


@pytest.mark.parametrize("num_pictures", [1, 2])
def test_edits_come_with_latents_of_their_pictures(num_pictures: int) -> None:
    edits, latents = draw_edits(FORM, num_pictures, Random(0))
    assert len(edits) == 40
    assert {len(edit.before) for edit in edits} == {num_pictures}
    assert [pictures.shape for pictures in latents] == [(40, 4, 8, 12)] * (num_pictures + 1)
    drawn = painted_latents([edit.after for edit in edits], FORM)
    is_ours = torch.isclose(latents[-1], drawn, atol=1e-4).flatten(1).all(dim=1)
    assert 0.2 < is_ours.float().mean() < 0.9
