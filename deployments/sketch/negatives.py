"""Negative prompts: what pictures shall not show, in the words of those who do not want it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from deployments.sketch import words
from deployments.sketch.edits import at_time
from deployments.sketch.scenes import (
    KINDS,
    THINGS,
    TIMES,
    Landscape,
    Scene,
    Shapes,
    possible_things,
)
from deployments.sketch.wording import describe

#: Share of the ``naming`` that name nothing a picture could show, and the share of all that say
#: what no picture shall be.
_NAMELESS: Final = 0.5
_DISLIKING: Final = 0.25
#: Share of the landscapes outdoors, of those whose ``naming`` names something, that are led away
#: from what could stand there or from another time; and, of those that are led away from things,
#: the share whose caption asks for these all the same.
_REFUSING: Final = 0.5
_ASKING: Final = 0.6
#: The most that one names of either.
_MOST_NAMED: Final = 5
#: Share of the landscapes' ``naming`` that name another time of day, those that refuse it included.
_TIMED: Final = 0.2
#: Share of the landscapes with things in them whose ``early`` names some of these.
_SHOWN: Final = 0.6
#: The land on which none of the things is painted.
_INDOORS: Final = "cafe"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a lesson is told of a scene.

    Attributes:
        caption: what was drawn with the scene; or one that asks for things which ``naming`` refuses
            and the scene does not show.
        early: a negative prompt for when nothing of a picture is decided. Most name nothing and are
            empty; some name what the scene shows, but not its time of day. Captions leave the time
            out only by day: if none left it out by night, to refuse things would be to refuse the
            day.
        naming: one that names what the scene does not show; half of the time it names nothing.
        refused: the scene as ``naming`` refuses it, with more things or at another time, if a
            picture is to be led away from that.
    """

    caption: str
    early: str
    naming: str
    refused: Scene | None = None


def with_negatives(draw: Callable[[Random], tuple[Scene, str]], rng: Random) -> tuple[Scene, Told]:
    """A scene, and what to tell of it, which need not be the caption that was drawn with it."""
    scene, caption = draw(rng)
    nameless = _nameless(rng)
    early = ", ".join(filter(None, [*_shown(scene, rng), nameless]))
    if rng.random() < _NAMELESS:
        return scene, Told(caption=caption, early=early, naming=nameless)
    refused = None
    if isinstance(scene, Landscape) and scene.land != _INDOORS and rng.random() < _REFUSING:
        refused = _refused(scene, rng)
        if refused.time == scene.time and rng.random() < _ASKING:
            caption = describe(refused, rng)
    naming = ", ".join(filter(None, [*_names(scene, refused or scene, rng), nameless]))
    return scene, Told(caption=caption, early=early, naming=naming, refused=refused)


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


def _shown(scene: Scene, rng: Random) -> list[str]:
    """The names of some things that a landscape outdoors shows, or of none."""
    if not isinstance(scene, Landscape) or scene.land == _INDOORS:
        return []
    if not scene.things or rng.random() >= _SHOWN:
        return []
    lexicon = _lexicon(rng)
    some = rng.sample(sorted(scene.things), rng.randint(1, len(scene.things)))
    return _some_bare([_named(thing, lexicon, rng, scene.house) for thing in some], rng)


def _refused(scene: Landscape, rng: Random) -> Landscape:
    """The same at another time, or with one thing or two more that could stand there."""
    possible = possible_things(scene.time, scene.land)
    absent = [thing for thing in absent_from(scene) if thing in possible]
    if not absent or rng.random() < _TIMED:
        return at_time(scene, _another_time(scene, rng))
    added = rng.sample(absent, min(rng.choice((1, 1, 2)), len(absent)))
    return replace(scene, things=scene.things | {*added})


def _names(scene: Scene, refused: Scene, rng: Random) -> list[str]:
    """Of all that is refused, and of what neither scene shows."""
    lexicon = _lexicon(rng)
    absent = [thing for thing in absent_from(scene) if thing in absent_from(refused)]
    names = []
    if isinstance(scene, Landscape) and isinstance(refused, Landscape):
        if refused.time != scene.time:
            names = [rng.choice(lexicon.times[refused.time])]
        else:
            added = sorted(refused.things - scene.things)
            names = [_named(thing, lexicon, rng, refused.house) for thing in added]
        if not names and rng.random() < _TIMED:
            names = [rng.choice(lexicon.times[_another_time(scene, rng)])]
    count = max(rng.randint(1, _MOST_NAMED) - len(names), 0)
    some = rng.sample(absent, min(count, len(absent)))
    names += [_named(thing, lexicon, rng) for thing in some]
    rng.shuffle(names)
    return _some_bare(names, rng)


def _some_bare(names: list[str], rng: Random) -> list[str]:
    """Half of the time without their articles."""
    return [_bare(name) for name in names] if rng.random() < 0.5 else names


def _lexicon(rng: Random) -> words.Lexicon:
    return words.FRENCH if rng.random() < _FRENCH else words.ENGLISH


def _another_time(scene: Landscape, rng: Random) -> str:
    return rng.choice([time for time in TIMES if time != scene.time])


def _named(thing: str, lexicon: words.Lexicon, rng: Random, house: str | None = None) -> str:
    """In one of its ways; a house of the colour, or of any if none is given."""
    if thing in KINDS:
        return rng.choice(words.KINDS[thing])
    if thing == "house":
        return lexicon.house(house or rng.choice(tuple(lexicon.colours)), rng)
    return rng.choice(lexicon.things[thing])


def _bare(name: str) -> str:
    """Without its article."""
    for article in _ARTICLES:
        name = name.removeprefix(article)
    return name
