"""What scenes look like: colours where they belong, at every size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deployments.sketch.canvas import Canvas, corners
from deployments.sketch.painter import paint
from deployments.sketch.palette import COLOURS
from deployments.sketch.scenes import (
    KINDS,
    LANDS,
    LOOKS,
    OUTFITS,
    PLACES,
    THINGS,
    TIMES,
    Landscape,
    Portrait,
    Scene,
    Shape,
    Shapes,
    land_things,
    sky_things,
)

SIZES = [(256, 256), (384, 256), (256, 384), (1024, 576)]


def landscape(time: str = "day", land: str = "lake", *things: str) -> Landscape:
    return Landscape(time=time, land=land, things=frozenset(things), house="red", variation=5)


def pixels(scene: Scene, width: int = 256, height: int = 256) -> np.ndarray:
    return np.asarray(paint(scene, width, height), dtype=float)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_single_shape_is_in_the_middle_and_the_ground_at_the_edges(
    kind: str, size: tuple[int, int]
) -> None:
    shape = Shape(kind=kind, colour="red", x=0.5, y=0.5, radius=0.3)
    picture = pixels(Shapes(ground="teal", layout="single", shapes=(shape,)), *size)
    middle = "teal" if kind == "ring" else "red"
    assert tuple(picture[size[1] // 2, size[0] // 2]) == COLOURS[middle]
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert (edge == COLOURS["teal"]).all()


def test_corners_refuses_unknown_kinds() -> None:
    with pytest.raises(ValueError, match="'blob'"):
        corners("blob")


@pytest.mark.parametrize("size", SIZES)
def test_skies_are_blue_warm_and_dark(size: tuple[int, int]) -> None:
    sky = {t: pixels(landscape(t), *size)[: size[1] // 3].mean(axis=(0, 1)) for t in TIMES}
    assert sky["day"][2] > sky["day"][0] + 50
    assert sky["sunset"][0] > sky["sunset"][2] + 80
    assert sky["night"].max() < 80


@pytest.mark.parametrize("thing", THINGS)
def test_a_thing_changes_its_own_part_of_the_picture(thing: str) -> None:
    [scene] = [
        landscape(time, land)
        for land, time in (("lake", "night" if thing in ("moon", "stars") else "day"),)
        if thing in (*sky_things(time), *land_things(land))
    ]
    changed = np.abs(pixels(replace(scene, things=frozenset({thing}))) - pixels(scene)).max(axis=-1)
    assert 0.002 < (changed > 20).mean() < 0.45


@pytest.mark.parametrize("land", LANDS)
@pytest.mark.parametrize("time", TIMES)
def test_every_land_is_painted_up_to_the_edges(time: str, land: str) -> None:
    picture = pixels(landscape(time, land, *land_things(land), *sky_things(time)), 320, 192)
    assert picture.shape == (192, 320, 3)
    assert picture[-1].std() < 60
    assert (picture[-1].sum(axis=-1) > 0).all()


@pytest.mark.parametrize("outfit", OUTFITS)
@pytest.mark.parametrize("place", PLACES)
def test_every_figure_can_be_told_from_every_other(place: str, outfit: str) -> None:
    pictures = [
        pixels(Portrait(look=look, outfit=outfit, place=place, colour="gray", variation=1))
        for look in LOOKS
    ]
    for index, one in enumerate(pictures):
        for other in pictures[index + 1 :]:
            assert np.abs(one - other).mean() > 1


def test_the_same_scene_at_twice_the_size_is_the_same_composition() -> None:
    scene = landscape("sunset", "lake", "mountains", "sun", "tree", "house")
    small, large = (paint(scene, side, side) for side in (256, 512))
    difference = np.asarray(large.reduce(2), float) - np.asarray(small, float)
    assert np.abs(difference).mean() < 4


def test_oversampling_smooths_the_edges() -> None:
    shape = Shape(kind="circle", colour="white", x=0.5, y=0.5, radius=0.3)
    scene = Shapes(ground="black", layout="single", shapes=(shape,))
    rough, smooth = (np.unique(np.asarray(paint(scene, 64, 64, oversampling=n))) for n in (1, 4))
    assert len(rough) < len(smooth)


def test_mirror_shows_what_is_above_upside_down() -> None:
    canvas = Canvas(64, 64)
    canvas.polygon(((0, 0.4), (1, 0.4), (1, 0.5), (0, 0.5)), (200, 0, 0))
    canvas.mirror(0.5, 0.25, (0, 0, 0), 0.0)
    picture = np.asarray(canvas.image)
    assert picture[33, 0, 0] > 150
    assert picture[45, 0, 0] == 0
