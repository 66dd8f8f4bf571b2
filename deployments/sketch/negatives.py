"""Negative prompts: what pictures do not show, in the words of those who do not want it."""

from __future__ import annotations

from random import Random
from typing import Final

from deployments.sketch import words
from deployments.sketch.scenes import KINDS, THINGS, TIMES, Landscape, Scene, Shapes

#: Share of the negative prompts that name nothing which pictures could show, and the share of all
#: that say what no picture shall be.
_NAMELESS: Final = 0.5
_DISLIKING: Final = 0.25
#: The most that one names of either.
_MOST_NAMED: Final = 5
#: Share of those of landscapes that name a time of day.
_TIMED: Final = 0.2
#: Share of those of things that are French.
_FRENCH: Final = 0.15
#: Land -> things that it can seem to have in any case.
_SEEMING: Final = {
    "forest": ("tree",),
    "city": ("house", "tree", "stars"),
    "cafe": ("sun", "moon", "stars", "clouds", "mountains", "tree", "house"),
}
#: Things that are nowhere where figures stand.
_NEVER_BEHIND_FIGURES: Final = ("boat", "house", "rainbow")


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
    """The things, and in pictures of shapes the kinds, too, that a scene does not show."""
    if isinstance(scene, Shapes):
        shown = {shape.kind for shape in scene.shapes}
        return (*(kind for kind in KINDS if kind not in shown), *THINGS)
    if isinstance(scene, Landscape):
        shown = {*scene.things, *_SEEMING.get(scene.land, ())}
        return tuple(thing for thing in THINGS if thing not in shown)
    return _NEVER_BEHIND_FIGURES


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
    return [name.removeprefix("a ") for name in names] if rng.random() < 0.5 else names


def _named(thing: str, lexicon: words.Lexicon, rng: Random) -> str:
    if thing in KINDS:
        return rng.choice(words.KINDS[thing])
    if thing == "house":
        return lexicon.house(rng.choice(tuple(lexicon.colours)), rng)
    return rng.choice(lexicon.things[thing])
