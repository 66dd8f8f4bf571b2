"""Negative prompts name what pictures do not show, or nothing."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from deployments.sketch import words
from deployments.sketch.negatives import absent_from, negative_prompts
from deployments.sketch.scenes import (
    KINDS,
    THINGS,
    random_landscape,
    random_portrait,
    random_shapes,
)


def test_half_of_the_negative_prompts_name_nothing_and_most_of_those_are_empty() -> None:
    rng = Random(0)
    pairs = [negative_prompts(random_landscape(rng), rng) for _ in range(1000)]
    same = [nameless for nameless, naming in pairs if nameless == naming]
    assert 400 < len(same) < 600
    assert same.count("") > len(same) / 2
    disliked = {dislike for nameless, _ in pairs for dislike in nameless.split(", ") if dislike}
    assert disliked == set(words.DISLIKES)
    assert all(naming.endswith(nameless) for nameless, naming in pairs)


def test_what_a_landscape_shows_is_not_absent() -> None:
    field = random_landscape(Random(0), time="day", land="field")
    assert absent_from(replace(field, things=frozenset())) == THINGS
    assert set(absent_from(replace(field, things=frozenset({"tree", "sun"})))) == {*THINGS} - {
        "tree",
        "sun",
    }
    assert "tree" not in absent_from(replace(field, land="forest", things=frozenset()))


def test_what_shapes_are_is_not_absent() -> None:
    scene = random_shapes(Random(3))
    shown = {shape.kind for shape in scene.shapes}
    assert set(absent_from(scene)) == ({*KINDS} - shown) | {*THINGS}


@pytest.mark.parametrize("look", ["someone", "user_123"])
def test_portraits_have_things_to_name_too(look: str) -> None:
    rng = Random(1)
    named = {negative_prompts(random_portrait(rng, look), rng)[1] for _ in range(200)}
    assert any("rainbow" in naming for naming in named)
    assert any("arc-en-ciel" in naming for naming in named)


def test_another_time_of_day_is_named_with_the_things_of_a_landscape() -> None:
    rng = Random(2)
    day = random_landscape(rng, time="day", land="field")
    named = [naming for _ in range(300) for _, naming in [negative_prompts(day, rng)]]
    nights = (*words.ENGLISH.times["night"], *words.FRENCH.times["night"])
    days = (*words.ENGLISH.times["day"], *words.FRENCH.times["day"])
    assert any(naming.endswith(nights) for naming in named)
    assert not any(part in days for naming in named for part in naming.split(", "))
