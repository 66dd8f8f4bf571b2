"""The world: what scenes hold, and how they are put into words and answers."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from deployments.sketch.meaning import QUESTIONS, answers
from deployments.sketch.painter import paint
from deployments.sketch.palette import COLOURS
from deployments.sketch.sayings import SAYINGS
from deployments.sketch.scenes import (
    KINDS,
    LAYOUTS,
    Landscape,
    Portrait,
    Shape,
    Shapes,
    emptied,
    is_held_out,
    land_things,
    random_landscape,
    random_portrait,
    random_scene,
    random_shapes,
    settled,
    sky_things,
)
from deployments.sketch.wording import captioned, describe


def test_random_scene_is_the_same_for_the_same_seed() -> None:
    assert [random_scene(Random(4)) for _ in range(3)] == [random_scene(Random(4))] * 3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_random_shapes_stand_out_from_their_ground(layout: str) -> None:
    rng = Random(1)
    for _ in range(200):
        scene = random_shapes(rng, layout)
        assert scene.layout == layout
        assert all(shape.colour != scene.ground for shape in scene.shapes)
        assert all(shape.kind in KINDS and shape.colour in COLOURS for shape in scene.shapes)


def test_random_shapes_never_shows_what_is_held_out() -> None:
    rng = Random(2)
    for _ in range(2000):
        scene = random_shapes(rng, "single")
        [shape] = scene.shapes
        assert not is_held_out(shape.kind, shape.colour, scene.ground)


def test_random_landscape_holds_what_its_time_and_land_allow() -> None:
    rng = Random(3)
    for _ in range(500):
        scene = random_landscape(rng)
        assert scene.things <= {*sky_things(scene.time), *land_things(scene.land)}


def test_describe_names_the_shape_its_colour_and_the_ground() -> None:
    shape = Shape(kind="star", colour="green", x=0.5, y=0.5, radius=0.3)
    scene = Shapes(ground="orange", layout="single", shapes=(shape,))
    rng = Random(5)
    for _ in range(200):
        words = describe(scene, rng).lower()
        assert "star" in words or "étoile" in words
        assert "green" in words or "verte" in words
        assert "orange" in words


def test_describe_names_what_a_landscape_has() -> None:
    scene = Landscape(
        time="night", land="desert", things=frozenset({"moon"}), house="red", variation=1
    )
    rng = Random(6)
    captions = [describe(scene, rng).lower() for _ in range(100)]
    assert sum("moon" in c or "lune" in c for c in captions) > 80
    assert all(any(w in c for w in ("desert", "dunes", "désert")) for c in captions)


def test_describe_calls_every_users_figure_sks_person() -> None:
    rng = Random(7)
    for look in ("default", "user_123", "user_456"):
        assert "sks person" in describe(random_portrait(rng, look), rng).lower()


@pytest.mark.parametrize("saying", SAYINGS)
def test_sayings_draw_a_scene(saying: str) -> None:
    assert isinstance(SAYINGS[saying](Random(0)), Shapes | Landscape | Portrait)


def test_captioned_comes_with_a_caption_that_is_not_blank() -> None:
    rng = Random(8)
    assert all(captioned(rng)[1].strip() for _ in range(500))


def test_answers_are_in_range_for_every_scene() -> None:
    rng = Random(9)
    sizes = [len(choices) for choices in QUESTIONS.values()]
    for _ in range(500):
        told = answers(random_scene(rng))
        assert all(0 <= answer <= size for answer, size in zip(told, sizes, strict=True))


def test_answers_tell_the_time_and_the_things() -> None:
    scene = Landscape(
        time="sunset", land="lake", things=frozenset({"boat"}), house="red", variation=1
    )
    told = dict(zip(QUESTIONS, answers(scene), strict=True))
    assert QUESTIONS["time"][told["time"] - 1] == "sunset"
    assert (QUESTIONS["boat"][told["boat"] - 1], QUESTIONS["tree"][told["tree"] - 1]) == (
        "yes",
        "no",
    )
    assert told["ground"] == told["house colour"] == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_settled_shapes_stand_in_the_middle_of_their_places(layout: str) -> None:
    scenes = [random_shapes(Random(seed), layout) for seed in (5, 6)]
    one, other = (
        [(shape.x, shape.y, shape.radius) for shape in settled(scene).shapes] for scene in scenes
    )
    assert one == other
    for scene in scenes:
        named = [(shape.kind, shape.colour) for shape in scene.shapes]
        assert [(shape.kind, shape.colour) for shape in settled(scene).shapes] == named


def test_settled_pairs_are_as_far_from_the_middle_on_both_sides() -> None:
    pair = settled(random_shapes(Random(5), "beside"))
    assert [(shape.x, shape.y) for shape in pair.shapes] == [(0.27, 0.5), (0.73, 0.5)]


def test_settled_landscapes_differ_by_nothing_that_nobody_names() -> None:
    scene = random_landscape(Random(5))
    assert settled(scene) == settled(replace(scene, variation=scene.variation + 1))
    assert replace(settled(scene), variation=scene.variation) == scene


def test_emptied_scenes_have_no_shapes_and_no_things_but_keep_figures() -> None:
    shapes = random_shapes(Random(6))
    assert paint(emptied(shapes), 32, 32).getcolors() == [(32 * 32, COLOURS[shapes.ground])]
    bare = replace(random_landscape(Random(6)), things=frozenset())
    full = replace(bare, things=frozenset({"mountains", "sun"}))
    assert paint(emptied(full), 32, 32).tobytes() == paint(bare, 32, 32).tobytes()
    assert paint(full, 32, 32).tobytes() != paint(bare, 32, 32).tobytes()
    figure = random_portrait(Random(6), "cat")
    assert emptied(figure) == figure
