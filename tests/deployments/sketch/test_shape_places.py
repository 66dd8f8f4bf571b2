"""Shape places: kinds, what is meant, and forms to come, by the places of a picture."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from deployments.sketch.scenes import KINDS  # noqa: E402
from deployments.sketch.shape_places import NO_KIND, forms_at, owners_at, shapes_at  # noqa: E402
from tests.deployments.sketch.shape_edits import RING, SQUARE, into, into_night  # noqa: E402

_RECOLOURED = into(SQUARE, replace(RING, colour="blue"))
_RESHAPED = into(SQUARE, replace(RING, kind="circle"))


def test_places_have_the_kind_of_the_shape_that_covers_most_of_them() -> None:
    kinds, meant = (of[0].view(16, 32) for of in shapes_at([_RECOLOURED], 16, 32))
    assert kinds[8, 8] == KINDS.index("square")
    assert kinds[8, 19] == KINDS.index("ring")
    assert kinds[0, 0] == kinds[8, 24] == NO_KIND  # a corner, and the hole of the ring
    assert torch.equal(meant, kinds == KINDS.index("ring"))


def test_a_shape_is_meant_as_a_whole_though_little_of_it_changes() -> None:
    kinds, meant = shapes_at([_RESHAPED], 16, 32)
    assert torch.equal(meant, kinds == KINDS.index("ring"))


def test_a_landscape_has_no_shapes() -> None:
    kinds, meant = shapes_at([into_night(), _RECOLOURED], 8, 16)
    assert kinds.shape == meant.shape == (2, 8 * 16)
    assert bool((kinds[0] == NO_KIND).all())
    assert not bool(meant[0].any())
    assert bool(meant[1].any())


def test_the_changed_shape_covers_what_it_comes_to_look_like() -> None:
    covered, near = (of[0, 0] for of in forms_at([_RESHAPED], 32, 64))
    assert covered[16, 48]  # the hole of the ring, which the circle fills
    assert torch.equal(covered, torch.from_numpy(owners_at(_RESHAPED.after, 32, 64) == 1))
    assert bool((near | ~covered).all())
    assert not near[16, 16]
    assert not near[0, 63]


def test_what_the_shape_was_is_near() -> None:
    """A square whose corners the diamond leaves."""
    edit = into(replace(SQUARE, kind="diamond"), RING)
    covered, near = (of[0, 0] for of in forms_at([edit], 32, 64))
    corners = torch.from_numpy(owners_at(edit.before[0], 32, 64) == 0) & ~covered
    assert bool(corners.any())
    assert bool(near[corners].all())


def test_nothing_is_near_in_landscapes_and_where_all_shapes_stay() -> None:
    covered, near = forms_at([into_night(), into(SQUARE, RING), _RESHAPED], 16, 32)
    assert covered.shape == near.shape == (3, 1, 16, 32)
    assert near.flatten(1).any(dim=1).tolist() == [False, False, True]
