"""Shape places: what a scene's shapes are, and an edit's come to be, at each place of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from deployments.sketch.edits import Edit
from deployments.sketch.painter import paint
from deployments.sketch.scenes import KINDS, Scene, Shapes

#: Stands for a place where no shape is.
NO_KIND: Final = -1
#: Latents around a form that are near it.
_AROUND: Final = 2


def shapes_at(edits: Sequence[Edit], rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Of edits' first scenes, (n, rows * columns): which of ``KINDS`` is at each place, or
    ``NO_KIND``; and whether it is part of a shape that the edit changes."""
    found = [_kinds_and_meant(edit, rows, columns) for edit in edits]
    kinds, meant = (torch.from_numpy(np.stack(of)).flatten(1) for of in zip(*found, strict=True))
    return kinds, meant


def kinds_at(scenes: Sequence[Scene], rows: int, columns: int) -> Tensor:
    """(n, rows * columns): which of ``KINDS`` is at each place, or ``NO_KIND``."""
    found = [_kinds_of(scene, owners_at(scene, rows, columns)) for scene in scenes]
    return torch.from_numpy(np.stack(found)).flatten(1)


def forms_at(edits: Sequence[Edit], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Of so many latents, (n, 1, height, width): whether a shape that an edit has changed covers
    each at last; and whether it is near, as that shape is or was."""
    found = [_changed_forms(edit, height, width) for edit in edits]
    old, new = (torch.from_numpy(np.stack(of))[:, None] for of in zip(*found, strict=True))
    return new, near_to(old | new)


def near_to(forms: Tensor) -> Tensor:
    """Where forms are (n, 1, height, width), or are near."""
    return max_pool2d(forms.float(), 2 * _AROUND + 1, stride=1, padding=_AROUND) > 0


def owners_at(scene: Scene, rows: int, columns: int) -> np.ndarray:
    """(rows, columns): which of a scene's shapes covers about half of each place, or -1."""
    owners = np.full((rows, columns), -1)
    if isinstance(scene, Shapes):
        for index, shape in enumerate(scene.shapes):
            alone = replace(scene, ground="white", shapes=(replace(shape, colour="black"),))
            seen = np.asarray(paint(alone, columns, rows, oversampling=4).convert("L"))
            owners[seen < 128] = index
    return owners


def _kinds_of(scene: Scene, owners: np.ndarray) -> np.ndarray:
    kinds = np.full_like(owners, NO_KIND)
    if isinstance(scene, Shapes):
        for index, shape in enumerate(scene.shapes):
            kinds[owners == index] = KINDS.index(shape.kind)
    return kinds


def _kinds_and_meant(edit: Edit, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    before, after = edit.before[0], edit.after
    owners = owners_at(before, rows, columns)
    meant = np.zeros_like(owners, dtype=bool)
    if not (isinstance(before, Shapes) and isinstance(after, Shapes)):
        return np.full_like(owners, NO_KIND), meant
    for index, (old, new) in enumerate(zip(before.shapes, after.shapes, strict=True)):
        meant[owners == index] = old != new
    return _kinds_of(before, owners), meant


def _changed_forms(edit: Edit, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """What changed shapes covered, and what they cover."""
    before, after = edit.before[0], edit.after
    old, new = np.zeros((2, rows, columns), dtype=bool)
    if isinstance(before, Shapes) and isinstance(after, Shapes):
        was, comes = owners_at(before, rows, columns), owners_at(after, rows, columns)
        for index, (one, other) in enumerate(zip(before.shapes, after.shapes, strict=True)):
            if one != other:
                old |= was == index
                new |= comes == index
    return old, new
