"""Edits: what is named changes, everything else stays."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np

from deployments.sketch.edits import Edit, at_time, random_edit
from deployments.sketch.meaning import EDITS
from deployments.sketch.painter import paint
from deployments.sketch.scenes import Landscape, Scene, Shape, Shapes, random_landscape


def test_random_edits_change_the_picture_and_keep_its_family() -> None:
    rng = Random(0)
    kinds: Counter[str] = Counter()
    for _ in range(300):
        edit = random_edit(rng)
        assert edit.instruction.strip()
        assert type(edit.after) is type(edit.before[0])
        assert edit.after != edit.before[0]
        kinds[f"{type(edit.after).__name__} {len(edit.before)}"] += 1
    assert set(kinds) == {"Landscape 1", "Shapes 1", "Shapes 2"}


def test_each_kind_of_edit_can_be_asked_for_and_comes_unasked() -> None:
    rng = Random(2)
    assert [random_edit(rng, kind).asks["edit"] for kind in EDITS] == list(EDITS)
    assert {random_edit(rng).asks["edit"] for _ in range(300)} == set(EDITS)


def test_adding_or_removing_a_thing_leaves_all_others_in_place() -> None:
    rng = Random(1)
    edits = [random_edit(rng) for _ in range(300)]
    for edit in edits:
        [before, after] = edit.before[0], edit.after
        if not (isinstance(before, Landscape) and isinstance(after, Landscape)):
            continue
        if before.things == after.things or before.time != after.time:
            continue
        assert len(before.things ^ after.things) == 1
        pictures = [np.asarray(paint(s, 128, 128), float) for s in (before, after)]
        same = (np.abs(pictures[0] - pictures[1]).max(axis=-1) == 0).mean()
        assert same > 0.4


def test_nothing_hides_what_is_added_or_removed() -> None:
    rng = Random(3)
    suns = [edit for edit in (random_edit(rng) for _ in range(2000)) if is_about_a_low_sun(edit)]
    assert len(suns) > 10
    for edit in suns:
        pictures = [np.asarray(paint(s, 64, 64), float) for s in (edit.before[0], edit.after)]
        assert (np.abs(pictures[0] - pictures[1]).max(axis=-1) > 40).mean() > 0.005


def test_loose_shapes_are_off_their_places_but_neither_meet_nor_leave_the_picture() -> None:
    rng = Random(5)
    edits = [edit for edit in (random_edit(rng) for _ in range(600)) if is_recolouring(edit)]
    loose = [scene for edit in edits if is_loose(scene := edit.before[0])]
    assert 0.3 < len(loose) / len(edits) < 0.6
    for scene in loose:
        assert isinstance(scene, Shapes)
        covered = [
            np.asarray(paint(alone(scene, shape), 128, 128).convert("L")) < 128
            for shape in scene.shapes
        ]
        assert np.sum(covered, axis=0).max() == 1
        assert not any(found[edge].any() for found in covered for edge in EDGES)


EDGES = (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1])


def is_recolouring(edit: Edit) -> bool:
    return edit.asks["edit"] == "recolour"


def is_loose(scene: Scene) -> bool:
    """Whether shapes are further off their layouts' places than these are drawn."""
    assert isinstance(scene, Shapes)
    across = {"single": (0.5,), "beside": (0.27, 0.73), "stacked": (0.5, 0.5)}
    down = {"single": (0.5,), "beside": (0.5, 0.5), "stacked": (0.27, 0.73)}
    places = zip(
        across.get(scene.layout, (0.19, 0.5, 0.81)), down.get(scene.layout, (0.5,) * 3), strict=True
    )
    return any(
        max(abs(shape.x - x), abs(shape.y - y)) > 0.02
        for shape, (x, y) in zip(scene.shapes, places, strict=True)
    )


def alone(scene: Shapes, shape: Shape) -> Shapes:
    return replace(scene, ground="white", shapes=(replace(shape, colour="black"),))


def is_about_a_low_sun(edit: Edit) -> bool:
    return edit.asks.get("thing") == "sun" and edit.before[0].time == "sunset"  # type: ignore[union-attr]


def test_an_edit_of_two_pictures_puts_the_second_ones_shape_on_the_first_ones_ground() -> None:
    rng = Random(2)
    pairs = [edit for edit in (random_edit(rng) for _ in range(200)) if len(edit.before) == 2]
    assert pairs
    for edit in pairs:
        ground, giver = edit.before
        assert isinstance(ground, Shapes)
        assert isinstance(giver, Shapes)
        assert isinstance(edit.after, Shapes)
        assert (edit.after.ground, edit.after.shapes) == (ground.ground, giver.shapes)


def test_at_time_drops_what_the_new_sky_cannot_have() -> None:
    scene = Landscape(
        time="night", land="lake", things=frozenset({"moon", "boat"}), house="red", variation=1
    )
    assert at_time(scene, "day").things == {"boat"}


def test_an_edit_of_the_sky_leaves_the_land_as_it_is() -> None:
    rng = Random(4)
    edits = [edit for edit in (random_edit(rng) for _ in range(400)) if edit.asks["edit"] == "sky"]
    assert edits
    for edit in edits:
        before, after = (np.asarray(paint(s, 96, 96)) for s in (*edit.before, edit.after))
        assert (before[:10] != after[:10]).any()
        if edit.after.land != "lake":
            assert np.array_equal(before[90:], after[90:])


def test_edits_speak_chinese_and_french_too() -> None:
    rng = Random(3)
    told = " ".join(random_edit(rng).instruction for _ in range(600))
    assert "把天空变成" in told
    assert "ajoute un" in told
    assert random_landscape(Random(1)) == random_landscape(Random(1))
