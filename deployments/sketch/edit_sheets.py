"""Batches to train the editor with: edits of one size, and their pictures as latents."""

from __future__ import annotations

from random import Random
from typing import Final

import numpy as np
from torch import Tensor

from deployments.sketch.edits import Edit, random_edit
from deployments.sketch.foreign import Pixels, retinted, with_horizon
from deployments.sketch.painter import paint
from deployments.sketch.scenes import Landscape
from deployments.sketch.sheets import Format, picture_latents

#: Share of the edits whose colours, and of the landscapes' whose horizon, are not the drawer's.
_FOREIGN: Final = 0.35
#: Edits whose words do not tell what comes to be where they change a picture.
_UNNAMING: Final = ("remove", "reshape", "combine")


def draw_edits(form: Format, num_pictures: int, rng: Random) -> tuple[list[Edit], list[Tensor]]:
    """Edits of so many pictures, and latents (count, 4, height / 8, width / 8) of these and, last,
    of what becomes of them."""
    edits = [_edit_of(num_pictures, rng) for _ in range(form.count)]
    drawn = [_painted(edit, form, rng) for edit in edits]
    return edits, [picture_latents(pictures) for pictures in zip(*drawn, strict=True)]


def _edit_of(num_pictures: int, rng: Random) -> Edit:
    while len((edit := random_edit(rng)).before) != num_pictures:
        pass
    return edit


def _painted(edit: Edit, form: Format, rng: Random) -> list[Pixels]:
    """What an edit's pictures look like, some as if others had drawn them."""
    scenes = (*edit.before, edit.after)
    pictures = [np.asarray(paint(scene, form.width, form.height)) for scene in scenes]
    if rng.random() < _FOREIGN and isinstance(edit.after, Landscape):
        pictures = with_horizon(pictures, rng.uniform(0.42, 0.75))
    if rng.random() >= _FOREIGN:
        return pictures
    return retinted(pictures, rng, is_named=edit.asks["edit"] not in _UNNAMING)
