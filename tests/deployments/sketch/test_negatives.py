"""Negative prompts name what pictures shall not show, or nothing."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from deployments.sketch import words
from deployments.sketch.negatives import Told, absent_from, with_negatives
from deployments.sketch.painter import paint
from deployments.sketch.scenes import (
    KINDS,
    LANDS,
    PLACES,
    THINGS,
    TIMES,
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


def test_half_of_them_name_nothing_and_most_of_those_are_empty() -> None:
    rng = Random(0)
    told = [told_of(random_portrait(rng, "someone"), rng) for _ in range(1000)]
    same = [each.early for each in told if each.early == each.naming]
    assert 400 < len(same) < 600
    assert same.count("") > len(same) / 2
    disliked = {dislike for each in told for dislike in each.early.split(", ") if dislike}
    assert disliked == set(words.DISLIKES)
    assert all(each.naming.endswith(each.early) for each in told)


@pytest.mark.parametrize("time", TIMES)
def test_early_ones_name_what_a_landscape_shows_but_no_time(time: str) -> None:
    rng = Random(6)
    lake = replace(
        random_landscape(rng, time=time, land="lake"), things=frozenset({"house", "clouds"})
    )
    early = [parts_of(told_of(lake, rng).early) for _ in range(500)]
    houses, clouds = ways_to_name("house", lake), ways_to_name("clouds", lake)
    naming = [parts for parts in early if parts & (houses | clouds)]
    assert 250 < len(naming) < 350
    assert any(parts & houses and parts & clouds for parts in naming)
    assert any(parts & houses and not parts & clouds for parts in naming)
    assert any(parts & {*words.DISLIKES} for parts in naming)
    assert set().union(*early) <= {"", *houses, *clouds, *words.DISLIKES}


def test_early_ones_name_nothing_of_pictures_that_show_none_of_it() -> None:
    rng = Random(7)
    field = replace(random_landscape(rng, time="day", land="field"), things=frozenset())
    cafe = replace(random_landscape(rng, time="night", land="cafe"), things=frozenset({"stars"}))
    for scene in (field, cafe, random_portrait(rng, "someone")):
        named = set().union(*(parts_of(told_of(scene, rng).early) for _ in range(200)))
        assert named == {"", *words.DISLIKES}


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


def test_some_landscapes_are_to_be_led_away_from_what_could_be_there() -> None:
    rng = Random(3)
    field = replace(random_landscape(rng, time="night", land="field"), things=frozenset({"tree"}))
    told = [told_of(field, rng) for _ in range(1000)]
    leading = [each for each in told if each.refused is not None]
    assert 200 < len(leading) < 300
    added, times = set(), set()
    for each in leading:
        assert isinstance(each.refused, Landscape)
        assert replace(each.refused, things=field.things, time="night") == field
        names = parts_of(each.naming)
        more = each.refused.things - field.things
        if each.refused.time == "night":
            assert 1 <= len(more) <= 2
            assert all(names & ways_to_name(thing, each.refused) for thing in more)
        else:
            assert each.caption == "a picture"
            time = each.refused.time
            assert names & {*words.ENGLISH.times[time], *words.FRENCH.times[time]}
        assert not names & ways_to_name("tree", field)
        added |= more
        times.add(each.refused.time)
    assert added == {"moon", "stars", "clouds", "mountains", "house"}
    assert times == {"day", "sunset", "night"}
    asking = [each for each in leading if each.caption != "a picture"]
    assert 0.4 < len(asking) / len(leading) < 0.6
    assert {each.caption for each in told if each.refused is None} == {"a picture"}


def parts_of(naming: str) -> set[str]:
    return {without_article(part) for part in naming.split(", ")}


def ways_to_name(thing: str, scene: Landscape) -> set[str]:
    """All that a negative prompt may call it; a house by its colour."""
    if thing == "house":
        rng = Random(0)
        houses = [
            lexicon.house(scene.house, rng)
            for lexicon in (words.ENGLISH, words.FRENCH)
            for _ in range(50)
        ]
        return set(map(without_article, houses))
    names = (*words.ENGLISH.things[thing], *words.FRENCH.things[thing])
    return set(map(without_article, names))


def without_article(name: str) -> str:
    for article in ("a ", "un ", "une "):
        name = name.removeprefix(article)
    return name


def test_one_that_has_all_is_led_away_from_another_time() -> None:
    rng = Random(4)
    sea = random_landscape(rng, time="night", land="sea")
    full = replace(sea, things=frozenset({"moon", "stars", "clouds", "boat"}))
    refused = [told_of(full, rng).refused for _ in range(50)]
    times = {each.time for each in refused if isinstance(each, Landscape)}
    assert times == {"day", "sunset"}


@pytest.mark.parametrize("land", LANDS)
def test_what_is_refused_would_show(land: str) -> None:
    """But a sun that other things hide."""
    rng = Random(5)
    scenes = [random_landscape(rng, time, land) for time in TIMES * 4]
    pairs = [(scene, told_of(scene, rng).refused) for scene in scenes for _ in range(10)]
    shows = [
        paint(scene, 64, 64).tobytes() != paint(refused, 64, 64).tobytes()
        for scene, refused in pairs
        if refused is not None
    ]
    assert sum(shows) >= 0.9 * len(shows)
    assert bool(shows) == (land != "cafe")
