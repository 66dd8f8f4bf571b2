"""Negative prompts name what pictures do not show, or nothing."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from deployments.sketch import words
from deployments.sketch.negatives import absent_from, negative_prompts
from deployments.sketch.scenes import (
    KINDS,
    PLACES,
    THINGS,
    Shapes,
    place,
    random_landscape,
    random_portrait,
)


def test_half_of_the_pairs_name_nothing_and_most_of_those_are_empty() -> None:
    rng = Random(0)
    pairs = [negative_prompts(random_landscape(rng), rng) for _ in range(1000)]
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
    named = {negative_prompts(scene, rng)[1] for _ in range(200)}
    assert any("rainbow" in naming for naming in named)
    assert any("arc-en-ciel" in naming for naming in named)
    assert ("house" in absent_from(scene)) == (place_ in ("studio", "space", "meadow"))


def test_another_time_of_day_is_named_with_the_things_of_a_landscape() -> None:
    rng = Random(2)
    day = random_landscape(rng, time="day", land="field")
    named = [negative_prompts(day, rng)[1] for _ in range(300)]
    nights = (*words.ENGLISH.times["night"], *words.FRENCH.times["night"])
    days = (*words.ENGLISH.times["day"], *words.FRENCH.times["day"])
    assert any(naming.endswith(nights) for naming in named)
    assert not any(part in days for naming in named for part in naming.split(", "))
