"""Negative prompts name what pictures shall not show, or nothing."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from deployments.sketch import words
from deployments.sketch.negatives import Told, absent_from, with_negatives
from deployments.sketch.scenes import (
    KINDS,
    PLACES,
    THINGS,
    Landscape,
    Scene,
    Shapes,
    place,
    random_landscape,
    random_portrait,
)


def told_of(scene: Scene, rng: Random) -> Told:
    drawn, told = with_negatives(lambda _: (scene, "a picture"), rng)
    assert drawn == scene
    return told


def test_half_of_the_pairs_name_nothing_and_most_of_those_are_empty() -> None:
    rng = Random(0)
    told = [told_of(random_landscape(rng), rng) for _ in range(1000)]
    pairs = [(each.nameless, each.naming) for each in told]
    same = [nameless for nameless, naming in pairs if nameless == naming]
    assert 400 < len(same) < 600
    assert same.count("") > len(same) / 2
    disliked = {dislike for nameless, _ in pairs for dislike in nameless.split(", ") if dislike}
    assert disliked == set(words.DISLIKES)
    assert all(naming.endswith(nameless) for nameless, naming in pairs)


def test_what_a_landscape_shows_is_not_absent() -> None:
    bare = replace(random_landscape(Random(0), time="day", land="field"), things=frozenset())
    assert absent_from(bare) == THINGS
    with_two = absent_from(replace(bare, things=frozenset({"tree", "sun"})))
    assert with_two == ("moon", "stars", "clouds", "rainbow", "mountains", "house", "boat")
    assert "tree" not in absent_from(replace(bare, land="forest"))


@pytest.mark.parametrize(("kind", "seeming"), [("star", {"stars"}), ("circle", {"sun", "moon"})])
def test_neither_are_shapes_nor_what_they_can_be_taken_for(kind: str, seeming: set[str]) -> None:
    shape = place("single", 0, kind, "yellow", Random(1))
    absent = absent_from(Shapes(ground="black", layout="single", shapes=(shape,)))
    assert {*KINDS, *THINGS} - {*absent} == {kind, *seeming}


@pytest.mark.parametrize("place_", PLACES)
def test_portraits_have_things_to_name_too(place_: str) -> None:
    rng = Random(1)
    scene = replace(random_portrait(rng, "someone"), place=place_)
    named = {told_of(scene, rng).naming for _ in range(200)}
    assert any("rainbow" in naming for naming in named)
    assert any("arc-en-ciel" in naming for naming in named)
    assert ("house" in absent_from(scene)) == (place_ in ("studio", "space", "meadow"))


def test_another_time_of_day_is_named_with_the_things_of_a_landscape() -> None:
    rng = Random(2)
    day = random_landscape(rng, time="day", land="field")
    named = [told_of(day, rng).naming for _ in range(300)]
    nights = (*words.ENGLISH.times["night"], *words.FRENCH.times["night"])
    days = (*words.ENGLISH.times["day"], *words.FRENCH.times["day"])
    assert any(naming.endswith(nights) for naming in named)
    assert not any(part in days for naming in named for part in naming.split(", "))


def test_some_landscapes_are_to_be_led_away_from_what_could_stand_there() -> None:
    rng = Random(3)
    field = replace(random_landscape(rng, time="night", land="field"), things=frozenset({"tree"}))
    told = [told_of(field, rng) for _ in range(1000)]
    leading = [each for each in told if each.shown is not None]
    assert 200 < len(leading) < 300
    added = set()
    for each in leading:
        assert isinstance(each.shown, Landscape)
        assert replace(each.shown, things=field.things) == field
        more = each.shown.things - field.things
        assert 1 <= len(more) <= 2
        added |= more
        for thing in more & {"moon", "stars"}:
            names = (*words.ENGLISH.things[thing], *words.FRENCH.things[thing])
            assert any(name.split()[-1] in each.naming for name in names)
    assert added == {"moon", "stars", "clouds", "mountains", "house"}
    asking = [each for each in leading if each.caption != "a picture"]
    assert 0.5 < len(asking) / len(leading) < 0.7
    assert {each.caption for each in told if each.shown is None} == {"a picture"}


def test_nothing_can_be_added_to_a_landscape_that_has_all() -> None:
    rng = Random(4)
    sea = random_landscape(rng, time="night", land="sea")
    full = replace(sea, things=frozenset({"moon", "stars", "clouds", "boat"}))
    assert all(told_of(full, rng).shown is None for _ in range(50))
