"""The world of the embedded models: what can be on a picture, as plain values drawn at random."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Final

from deployments.sketch.palette import COLOURS

KINDS: Final = ("circle", "square", "triangle", "star", "diamond", "ring", "heart")
#: How the shapes of one picture lie.
LAYOUTS: Final = ("single", "beside", "stacked", "row")
TIMES: Final = ("day", "sunset", "night")
LANDS: Final = ("field", "lake", "sea", "desert", "forest", "snow", "city", "cafe")
SKY_THINGS: Final = ("sun", "moon", "stars", "clouds", "rainbow")
GROUND_THINGS: Final = ("mountains", "tree", "house", "boat")
THINGS: Final = (*SKY_THINGS, *GROUND_THINGS)
#: Who a figure is. ``default`` is the base model's ``sks person``, the users' own come after it.
LOOKS: Final = ("someone", "cat", "default", "user_123", "user_456")
OUTFITS: Final = ("plain", "astronaut", "superhero", "suit", "reader")
PLACES: Final = ("studio", "space", "skyline", "library", "meadow")

#: Colours that houses are painted in.
HOUSE_COLOURS: Final = ("red", "blue", "yellow", "white", "green", "orange", "pink", "purple")
#: Colours of the walls of a studio.
STUDIO_COLOURS: Final = ("gray", "blue", "teal", "white")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One flat shape.

    Attributes:
        kind: one of ``KINDS``.
        colour: one of ``COLOURS``.
        x, y: its centre, as shares of the picture's width and height.
        radius: half its extent, as a share of the shorter side.
    """

    kind: str
    colour: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """One to three shapes on a plain ground, from left to right or from top to bottom."""

    ground: str
    layout: str
    shapes: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class _Layout:
    """The middles of a layout's places, as shares of width and height, and the least and the most
    radius of what stands there."""

    middles: tuple[tuple[float, float], ...]
    least: float
    most: float


_LAYOUT_OF: Final = {
    "single": _Layout(((0.5, 0.5),), 0.29, 0.34),
    "beside": _Layout(((0.27, 0.5), (0.73, 0.5)), 0.17, 0.2),
    "stacked": _Layout(((0.5, 0.27), (0.5, 0.73)), 0.17, 0.2),
    "row": _Layout(((0.19, 0.5), (0.5, 0.5), (0.81, 0.5)), 0.115, 0.135),
}
#: The variation of landscapes and figures of which nothing is left to chance.
SETTLED: Final = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Landscape:
    """A land under a sky.

    Attributes:
        time, land: one of ``TIMES``, of ``LANDS``.
        things: some of ``THINGS``.
        house: the colour of the house, if there is one.
        variation: what the outlines and places of things are drawn from; each thing draws its own,
            so that adding one leaves the others where they are.
        light: the time whose light falls on the land, if it is not the sky's.
    """

    time: str
    land: str
    things: frozenset[str]
    house: str
    variation: int
    light: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Portrait:
    """A little figure in a place.

    Attributes:
        look, outfit, place: one of ``LOOKS``, of ``OUTFITS``, of ``PLACES``.
        colour: of the studio's wall.
        variation: as for ``Landscape``.
    """

    look: str
    outfit: str
    place: str
    colour: str
    variation: int


Scene = Shapes | Landscape | Portrait

#: What lands can have on them beside what the sky has.
_ON_LAND: Final[dict[str, tuple[str, ...]]] = {
    "field": ("mountains", "tree", "house"),
    "lake": ("mountains", "tree", "house", "boat"),
    "sea": ("boat",),
    "desert": ("mountains",),
    "forest": ("mountains", "house"),
    "snow": ("mountains", "tree", "house"),
    "city": (),
    "cafe": (),
}

#: What colour a shape on white has when none is named.
USUAL_COLOUR: Final = {
    "circle": "red",
    "square": "blue",
    "triangle": "green",
    "star": "yellow",
    "diamond": "purple",
    "ring": "teal",
    "heart": "red",
}

#: Outfit -> where its wearer is mostly seen.
_AT_HOME: Final = {
    "plain": "studio",
    "astronaut": "space",
    "superhero": "skyline",
    "suit": "studio",
    "reader": "library",
}


def plain_ground(colour: str) -> str:
    """The ground of a shape of this colour when none is named."""
    return "black" if colour == "white" else "white"


def at_home(outfit: str) -> str:
    """Where a figure that wears this stands when no place is named."""
    return _AT_HOME[outfit]


def random_scene(rng: Random) -> Scene:
    """Any scene: shapes and landscapes mostly, then figures."""
    family = rng.random()
    if family < 0.42:
        return random_shapes(rng)
    if family < 0.86:
        return random_landscape(rng)
    return random_portrait(rng, rng.choice(("someone", "cat", "default", "default")))


def random_shapes(rng: Random, layout: str | None = None) -> Shapes:
    """Shapes whose colours differ from their ground's and, mostly, from each other's."""
    layout = layout or rng.choices(LAYOUTS, (40, 24, 16, 20))[0]
    count = len(_LAYOUT_OF[layout].middles)
    ground, *colours = rng.sample(tuple(COLOURS), 4)
    kinds = [rng.choice(KINDS) for _ in range(count)]
    if rng.random() < 0.2:
        ground = plain_ground(colours[0])
        colours = [c if c != ground else "teal" for c in colours]
    if layout == "single" and rng.random() < 0.06:
        colours, ground = [USUAL_COLOUR[kinds[0]]], "white"
    if layout != "single" and rng.random() < 0.15:
        colours = [colours[0]] * 3
    if layout == "single" and is_held_out(kinds[0], colours[0], ground):
        return random_shapes(rng, layout)
    shapes = tuple(place(layout, i, kinds[i], colours[i], rng) for i in range(count))
    return Shapes(ground=ground, layout=layout, shapes=shapes)


def is_held_out(kind: str, colour: str, ground: str) -> bool:
    """Whether no model may see this shape alone on this ground: one in eleven, for measuring."""
    order = list(COLOURS)
    number = KINDS.index(kind) + 3 * order.index(colour) + 5 * order.index(ground)
    return number % 11 == 0 and ground != "white"


def place(layout: str, index: int, kind: str, colour: str, rng: Random) -> Shape:
    """The shape at one of a layout's places, a little off its middle."""
    spread = _LAYOUT_OF[layout]
    (x, y), radius = spread.middles[index], rng.uniform(spread.least, spread.most)
    x, y = x + rng.uniform(-0.015, 0.015), y + rng.uniform(-0.015, 0.015)
    return Shape(kind=kind, colour=colour, x=x, y=y, radius=radius)


def settled(scene: Scene) -> Scene:
    """The same with nothing left to chance, which a small model blurs: shapes in the middle of
    their layout's places, and one picture of all that differ by their variation."""
    if not isinstance(scene, Shapes):
        return replace(scene, variation=SETTLED)
    layout = _LAYOUT_OF[scene.layout]
    placed = [
        replace(shape, x=x, y=y, radius=(layout.least + layout.most) / 2)
        for shape, (x, y) in zip(scene.shapes, layout.middles, strict=True)
    ]
    return replace(scene, shapes=tuple(placed))


def emptied(scene: Scene) -> Scene:
    """What is left when shapes and things are taken away; of a figure, all of it."""
    if isinstance(scene, Shapes):
        return replace(scene, shapes=())
    return replace(scene, things=frozenset()) if isinstance(scene, Landscape) else scene


def random_landscape(rng: Random, time: str | None = None, land: str | None = None) -> Landscape:
    """A landscape with the things that its time and land allow."""
    time = time or rng.choices(TIMES, (38, 34, 28))[0]
    land = land or rng.choices(LANDS, (22, 26, 13, 10, 11, 6, 8, 4))[0]
    things = {thing for thing in _ON_LAND[land] if rng.random() < 0.3}
    if "mountains" in _ON_LAND[land] and rng.random() < 0.45:
        things.add("mountains")
    things |= {thing for thing in sky_things(time) if rng.random() < 0.36}
    if "sun" in things and "moon" in things:
        things.discard("moon")
    return Landscape(
        time=time,
        land=land,
        things=frozenset(things),
        house=rng.choice(HOUSE_COLOURS),
        variation=rng.randrange(1 << 30),
    )


def random_portrait(rng: Random, look: str) -> Portrait:
    """A figure, mostly in the place that goes with what it wears."""
    outfit = rng.choice(OUTFITS)
    place_ = _AT_HOME[outfit] if rng.random() < 0.75 else rng.choice(PLACES)
    return Portrait(
        look=look,
        outfit=outfit,
        place=place_,
        colour=rng.choice(STUDIO_COLOURS),
        variation=rng.randrange(1 << 30),
    )


def sky_things(time: str) -> tuple[str, ...]:
    """What can stand in the sky at a time of day."""
    return {
        "day": ("sun", "clouds", "rainbow"),
        "sunset": ("sun", "clouds", "rainbow"),
        "night": ("moon", "stars", "clouds"),
    }[time]


def possible_things(time: str, land: str) -> tuple[str, ...]:
    """What can stand on a land and in its sky at a time of day."""
    return (*sky_things(time), *land_things(land))


def land_things(land: str) -> tuple[str, ...]:
    """What can stand on a land."""
    return _ON_LAND[land]
