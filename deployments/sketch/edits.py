"""Edits: pictures, an instruction, and what it makes of them; all else stays where it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from deployments.sketch.loose_shapes import are_clear, loose_shapes
from deployments.sketch.palette import COLOURS
from deployments.sketch.scenes import (
    HOUSE_COLOURS,
    KINDS,
    TIMES,
    Landscape,
    Scene,
    Shape,
    Shapes,
    possible_things,
    random_landscape,
    sky_things,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One or two scenes, what is asked in words, and the scene that answers it.

    Attributes:
        asks: what the words mean, by the questions of ``meaning.EDIT_QUESTIONS``.
    """

    before: tuple[Scene, ...]
    instruction: str
    after: Scene
    asks: Mapping[str, str]


#: Time of day -> instructions that ask for it, for all of the picture: English, French, Chinese.
_INTO_TIME: Final[dict[str, tuple[str, ...]]] = {
    "day": (
        *("make the background sunny", "turn night into day", "make it day", "make it sunny"),
        *("make it daytime", "change it to day", "mets-le en plein jour", "变成白天"),
    ),
    "sunset": (
        *("make it sunset", "make it a sunset", "turn it into a sunset", "change it to sunset"),
        *("make it evening", "mets-le au coucher du soleil", "变成黄昏"),
    ),
    "night": (
        *("make it night", "turn day into night", "make it a night scene", "change it to night"),
        *("turn it into night", "mets-le de nuit", "变成夜晚"),
    ),
}
#: The same for the sky alone.
_INTO_SKY: Final[dict[str, tuple[str, ...]]] = {
    "day": (
        *("make the sky blue", "make the sky more vibrant blue", "change the sky to day"),
        *("make the sky a bright blue", "turn the sky blue", "change the sky to blue"),
        *("make the sky day", "rends le ciel bleu", "把天空变成蓝色"),
    ),
    "sunset": (
        *("change the sky to sunset", "make the sky a sunset", "make the sky sunset"),
        *("turn the sky into a sunset", "replace the sky with a sunset", "make the sky orange"),
        *("change le ciel en coucher de soleil", "把天空变成日落"),
    ),
    "night": (
        *("change the sky to night", "make the sky night", "make the sky dark"),
        *("turn the sky into night", "make the sky a night sky", "replace the sky with night"),
        *("change le ciel en nuit", "把天空变成夜晚"),
    ),
}
#: Thing -> its names in English, French and Chinese.
_NAMES: Final[dict[str, tuple[str, str, str]]] = {
    "sun": ("sun", "soleil", "太阳"),
    "moon": ("moon", "lune", "月亮"),
    "stars": ("stars", "étoiles", "星星"),
    "clouds": ("clouds", "nuages", "云"),
    "rainbow": ("rainbow", "arc-en-ciel", "彩虹"),
    "mountains": ("mountains", "montagnes", "山"),
    "tree": ("tree", "arbre", "树"),
    "house": ("house", "maison", "房子"),
    "boat": ("boat", "bateau", "船"),
}
_FEMININE: Final = ("moon", "house")


def random_edit(rng: Random, kind: str | None = None) -> Edit:
    """Any edit, or any of a kind of ``meaning.EDITS``."""
    if kind is None:
        [kind] = rng.choices([*_MAKERS], [rate for _, rate in _MAKERS.values()])
    make, _ = _MAKERS[kind]
    return make(rng)


def at_time(scene: Landscape, time: str) -> Landscape:
    """The same land at another time, without what cannot stand in that sky."""
    allowed = frozenset(possible_things(time, scene.land))
    return replace(scene, time=time, things=scene.things & allowed)


def _edit_time(rng: Random) -> Edit:
    before = random_landscape(rng)
    time = rng.choice([time for time in TIMES if time != before.time])
    instruction = rng.choice(_INTO_TIME[time])
    asks = {"edit": "time", "time": time}
    return Edit(before=(before,), instruction=instruction, after=at_time(before, time), asks=asks)


def _edit_sky(rng: Random) -> Edit:
    """The sky, what stands in it, and what of it a lake shows; the light on the land stays."""
    before = random_landscape(rng, land=rng.choice(("field", "lake", "sea", "desert", "forest")))
    time = rng.choice([time for time in TIMES if time != before.time])
    instruction = rng.choice(_INTO_SKY[time])
    after = replace(at_time(before, time), light=before.time)
    asks = {"edit": "sky", "time": time}
    return Edit(before=(before,), instruction=instruction, after=after, asks=asks)


def _add(rng: Random) -> Edit:
    after, thing = _landscape_with_one(rng)
    before = replace(after, things=after.things - {thing})
    english, french, chinese = _NAMES[thing]
    place = " in the sky" if thing in sky_things(after.time) and rng.random() < 0.5 else ""
    article = "" if english.endswith("s") else "a "
    if thing == "house":
        english = f"{after.house} house"
    instruction = rng.choice(
        (
            *[f"add {article}{english}{place}", f"put {article}{english}{place}"] * 2,
            f"ajoute {_some(thing)} {french}",
            f"添加{chinese}",
        )
    )
    asks = {"edit": "add", "thing": thing}
    asks |= {"colour": after.house} if thing == "house" and english in instruction else {}
    return Edit(before=(before,), instruction=instruction, after=after, asks=asks)


def _remove(rng: Random) -> Edit:
    before, thing = _landscape_with_one(rng)
    english, french, chinese = _NAMES[thing]
    the = {"tree": "l'", "rainbow": "l'"}.get(thing, "la " if thing in _FEMININE else "le ")
    the = "les " if french.endswith("s") else the
    instruction = rng.choice(
        (
            *(f"remove the {english}", f"remove the {english}", f"delete the {english}"),
            *(f"take the {english} away", f"enlève {the}{french}", f"移除{chinese}"),
        )
    )
    after = replace(before, things=before.things - {thing})
    asks = {"edit": "remove", "thing": thing}
    return Edit(before=(before,), instruction=instruction, after=after, asks=asks)


def _paint_house(rng: Random) -> Edit:
    before = random_landscape(rng, land=rng.choice(("field", "lake", "snow")))
    before = replace(before, things=before.things | {"house"})
    colour = rng.choice([c for c in HOUSE_COLOURS if c != before.house])
    form = rng.choice(("make the house {}", "paint the house {}", "change the house to {}"))
    after = replace(before, house=colour)
    asks = {"edit": "paint", "thing": "house", "colour": colour}
    return Edit(before=(before,), instruction=form.format(colour), after=after, asks=asks)


def _recolour(rng: Random) -> Edit:
    before = loose_shapes(rng)
    index = rng.randrange(len(before.shapes))
    old = before.shapes[index]
    colour = rng.choice([c for c in COLOURS if c not in (old.colour, before.ground)])
    form = rng.choice(
        (
            *("make the {} {}", "change the {} to {}", "paint the {} {}"),
            *("turn the {} {}", "change the color of the {} to {}"),
            *("change the colour of the {} to {}", "recolor the {} {}"),
        )
    )
    after = _with_shape(before, index, replace(old, colour=colour))
    asks = {"edit": "recolour", "colour": colour, **_asked(before, index)}
    instruction = form.format(_told(before, index), colour)
    return Edit(before=(before,), instruction=instruction, after=after, asks=asks)


def _reground(rng: Random) -> Edit:
    before = loose_shapes(rng)
    used = {before.ground, *(shape.colour for shape in before.shapes)}
    colour = rng.choice([c for c in COLOURS if c not in used])
    form = rng.choice(
        (
            *("make the background {}", "change the background to {}"),
            *("replace the background with {}", "rends le fond {}"),
        )
    )
    after = replace(before, ground=colour)
    asks = {"edit": "ground", "colour": colour}
    return Edit(before=(before,), instruction=form.format(colour), after=after, asks=asks)


def _reshape(rng: Random) -> Edit:
    before = loose_shapes(rng)
    index = rng.randrange(len(before.shapes))
    old = before.shapes[index]
    kind = rng.choice([k for k in KINDS if k != old.kind])
    form = rng.choice(
        (
            *("replace the {} with a {}", "turn the {} into a {}", "change the {} into a {}"),
            *("change the {} to a {}", "make the {} a {}"),
        )
    )
    after = _with_shape(before, index, replace(old, kind=kind))
    if not are_clear(after.shapes):
        return _reshape(rng)
    asks = {"edit": "reshape", "kind": kind, **_asked(before, index)}
    instruction = form.format(_told(before, index), kind)
    return Edit(before=(before,), instruction=instruction, after=after, asks=asks)


def _combine(rng: Random) -> Edit:
    """The second picture's shape, in its place and size, on the first one's ground."""
    ground, giver = loose_shapes(rng, "single"), loose_shapes(rng, "single")
    [given] = giver.shapes
    if given.colour == ground.ground:
        return _combine(rng)
    form = rng.choice(
        (
            "put the {} of image 2 on image 1",
            "replace the shape of image 1 with the {} of image 2",
            "combine the background of image 1 and the {} of image 2",
        )
    )
    after = replace(ground, shapes=(given,))
    asks = {"edit": "combine", "old kind": given.kind}
    return Edit(before=(ground, giver), instruction=form.format(given.kind), after=after, asks=asks)


def _landscape_with_one(rng: Random) -> tuple[Landscape, str]:
    """A landscape, and one of the things that are on it, which nothing hides."""
    scene = random_landscape(rng, land=rng.choice(("field", "lake", "sea", "desert", "forest")))
    thing = rng.choice(possible_things(scene.time, scene.land))
    hiding = {"mountains"} if thing == "sun" and scene.time == "sunset" else set()
    return replace(scene, things=scene.things - hiding | {thing}), thing


def _told(scene: Shapes, index: int) -> str:
    """A shape by its kind, or with its colour where the kind alone would not tell."""
    shape = scene.shapes[index]
    return shape.kind if _is_alone(scene, shape) else f"{shape.colour} {shape.kind}"


def _asked(scene: Shapes, index: int) -> dict[str, str]:
    """What ``_told`` says of a shape."""
    shape = scene.shapes[index]
    told = {"old kind": shape.kind}
    return told if _is_alone(scene, shape) else told | {"old colour": shape.colour}


def _is_alone(scene: Shapes, shape: Shape) -> bool:
    """Whether no other shape is of its kind."""
    return [other.kind for other in scene.shapes].count(shape.kind) == 1


def _with_shape(scene: Shapes, index: int, shape: Shape) -> Shapes:
    shapes = (*scene.shapes[:index], shape, *scene.shapes[index + 1 :])
    return replace(scene, shapes=shapes)


def _some(thing: str) -> str:
    if thing in ("stars", "clouds", "mountains"):
        return "des"
    return "une" if thing in _FEMININE else "un"


#: Kind of edit -> what makes it, and how often it is asked for: those that lessons bring on most,
#: more.
_MAKERS: Final = {
    "time": (_edit_time, 2),
    "sky": (_edit_sky, 2),
    "add": (_add, 4),
    "remove": (_remove, 4),
    "paint": (_paint_house, 3),
    "recolour": (_recolour, 7),
    "ground": (_reground, 2),
    "reshape": (_reshape, 8),
    "combine": (_combine, 2),
}
