"""Negative prompts: what pictures do not show, in the words of those who do not want it."""

from __future__ import annotations

from random import Random
from typing import Final

from deployments.sketch import words
from deployments.sketch.scenes import KINDS, THINGS, TIMES, Landscape, Scene, Shapes

#: Share of the pairs that name nothing which pictures could show, and the share of all that say
#: what no picture shall be.
_NAMELESS: Final = 0.5
_DISLIKING: Final = 0.25
#: The most that one names of either.
_MOST_NAMED: Final = 5
#: Share of those of landscapes that name a time of day.
_TIMED: Final = 0.2
#: Share that is French; kinds of shapes are English in any case.
_FRENCH: Final = 0.15
#: Land, kind of shape, or place of a figure -> things that one can see in it, asked for or not.
_SEEMING: Final[dict[str, tuple[str, ...]]] = {
    "forest": ("tree",),
    "city": ("house", "tree", "stars"),
    "cafe": ("sun", "moon", "stars", "clouds", "mountains", "tree", "house"),
    "circle": ("sun", "moon"),
    "star": ("stars",),
    "ring": ("sun", "moon"),
    "space": ("stars", "moon", "sun"),
    "skyline": ("house", "sun", "moon", "stars", "clouds"),
    "library": ("house",),
    "meadow": ("tree", "sun", "clouds", "mountains"),
}
_ARTICLES: Final = ("a ", "un ", "une ")


def negative_prompts(scene: Scene, rng: Random) -> tuple[str, str]:
    """One that names nothing, mostly empty, and one that names what the scene does not show.

    Half of the time they are the same, and name nothing.
    """
    nameless = _nameless(rng)
    if rng.random() < _NAMELESS:
        return nameless, nameless
    naming = ", ".join(_names(scene, rng))
    return nameless, f"{naming}, {nameless}" if nameless else naming


def absent_from(scene: Scene) -> tuple[str, ...]:
    """The things, and in pictures of shapes the kinds, that nobody can see in a scene."""
    if isinstance(scene, Shapes):
        kinds = {shape.kind for shape in scene.shapes}
        return (*(kind for kind in KINDS if kind not in kinds), *_never_in(kinds))
    if isinstance(scene, Landscape):
        return tuple(thing for thing in _never_in({scene.land}) if thing not in scene.things)
    return _never_in({scene.place})


def _never_in(places: set[str]) -> tuple[str, ...]:
    seeming = {thing for place in places for thing in _SEEMING.get(place, ())}
    return tuple(thing for thing in THINGS if thing not in seeming)


def _nameless(rng: Random) -> str:
    if rng.random() >= _DISLIKING:
        return ""
    return ", ".join(rng.sample(words.DISLIKES, rng.randint(1, _MOST_NAMED)))


def _names(scene: Scene, rng: Random) -> list[str]:
    absent = absent_from(scene)
    lexicon = words.FRENCH if rng.random() < _FRENCH else words.ENGLISH
    some = rng.sample(absent, min(rng.randint(1, _MOST_NAMED), len(absent)))
    names = [_named(thing, lexicon, rng) for thing in some]
    if isinstance(scene, Landscape) and rng.random() < _TIMED:
        other = rng.choice([time for time in TIMES if time != scene.time])
        names.append(rng.choice(lexicon.times[other]))
    return [_bare(name) for name in names] if rng.random() < 0.5 else names


def _named(thing: str, lexicon: words.Lexicon, rng: Random) -> str:
    if thing in KINDS:
        return rng.choice(words.KINDS[thing])
    if thing == "house":
        return lexicon.house(rng.choice(tuple(lexicon.colours)), rng)
    return rng.choice(lexicon.things[thing])


def _bare(name: str) -> str:
    """Without its article."""
    for article in _ARTICLES:
        name = name.removeprefix(article)
    return name
