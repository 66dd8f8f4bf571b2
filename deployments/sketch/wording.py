"""Puts scenes into words: the phrasings that people use, English and French."""

from __future__ import annotations

from random import Random

from deployments.sketch import words
from deployments.sketch.sayings import SAYINGS
from deployments.sketch.scenes import (
    USUAL_COLOUR,
    Landscape,
    Portrait,
    Scene,
    Shape,
    Shapes,
    at_home,
    plain_ground,
    random_scene,
)


def captioned(rng: Random) -> tuple[Scene, str]:
    """A random scene and its caption; now and then one of the sayings, word for word."""
    if rng.random() < 0.06:
        saying = rng.choice(tuple(SAYINGS))
        return SAYINGS[saying](rng), saying if rng.random() < 0.7 else _decorated(saying, rng)
    scene = random_scene(rng)
    return scene, describe(scene, rng)


def describe(scene: Scene, rng: Random) -> str:
    """A caption; what it leaves out is what the model shall draw when nobody says."""
    if isinstance(scene, Shapes):
        caption = _shapes_in_french(scene, rng) if rng.random() < 0.15 else _shapes(scene, rng)
    elif isinstance(scene, Landscape):
        caption = _landscape(scene, rng)
    else:
        caption = _portrait(scene, rng)
    return _decorated(caption, rng)


def _shapes(scene: Shapes, rng: Random) -> str:
    names = [_named(shape, scene, rng) for shape in scene.shapes]
    ground = rng.choice(words.COLOURS[scene.ground])
    if scene.layout == "single":
        picture = names[0]
    elif scene.layout == "row":
        picture = _listed(names, rng)
    else:
        picture = _related(names, scene.layout, rng)
    if scene.ground == plain_ground(scene.shapes[0].colour) and rng.random() < 0.45:
        return picture
    form = rng.choice(words.GROUNDS)
    if rng.random() < 0.25:
        picture = picture.removeprefix("a ")
    return form.format(picture=picture, ground=ground)


def _named(shape: Shape, scene: Shapes, rng: Random) -> str:
    kind, colour = rng.choice(words.KINDS[shape.kind]), rng.choice(words.COLOURS[shape.colour])
    usual = USUAL_COLOUR[shape.kind] == shape.colour and scene.ground == "white"
    if usual and len(scene.shapes) == 1 and rng.random() < 0.3:
        return f"a {kind}"
    if rng.random() < 0.08:
        return f"a {kind} in {colour}"
    size = rng.choice(words.SIZES) if rng.random() < 0.15 else ""
    return f"a {size}{colour} {kind}"


def _listed(names: list[str], rng: Random) -> str:
    first, second, third = names
    return rng.choice(
        (
            f"{first}, {second} and {third}",
            f"{first}, {second}, {third}",
            f"{first} and {second} and {third}",
            f"three shapes: {first}, {second}, {third}",
            f"from left to right {first}, {second} and {third}",
        )
    )


def _related(names: list[str], layout: str, rng: Random) -> str:
    first, second = names
    if layout == "beside" and rng.random() < 0.3:
        return rng.choice((f"{first} and {second}", f"{first} next to {second}"))
    forwards, backwards = words.RELATIONS[layout]
    if rng.random() < 0.6:
        return f"{first} {rng.choice(forwards)} {second}"
    return f"{second} {rng.choice(backwards)} {first}"


def _shapes_in_french(scene: Shapes, rng: Random) -> str:
    names = [words.french_shape(shape.kind, shape.colour) for shape in scene.shapes]
    if scene.layout == "single":
        picture = names[0]
    elif scene.layout == "row":
        picture = f"{names[0]}, {names[1]} et {names[2]}"
    else:
        picture = f"{names[0]} {words.RELATIONS_FR[scene.layout].format(names[1])}"
    ground = words.COLOURS_FR[scene.ground][0]
    form = rng.choice(("{} sur fond {}", "{} sur un fond {}", "{}, fond {}", "{} fond {}"))
    return form.format(picture, ground)


def _landscape(scene: Landscape, rng: Random) -> str:
    is_french = rng.random() < 0.18
    lexicon = words.FRENCH if is_french else words.ENGLISH
    things = sorted(thing for thing in scene.things if rng.random() < 0.93)
    rng.shuffle(things)
    is_alpine = "mountains" in things and rng.random() < 0.5
    if is_alpine:
        things.remove("mountains")
    named = [_thing(thing, scene, lexicon, rng) for thing in things]
    land = rng.choice(lexicon.lands[scene.land])
    time = rng.choice(lexicon.times[scene.time])
    if scene.time == "day" and rng.random() < 0.4:
        time = ""
    if scene.land == "field" and (named or is_alpine or time) and rng.random() < 0.5:
        land = ""
    subject = rng.choice(lexicon.alpine) if is_alpine else ""
    if is_alpine and land:
        named.append(land)
        land = ""
    subject = subject or land or rng.choice(lexicon.landscape)
    adjective = rng.choice(lexicon.adjectives) if rng.random() < 0.3 else ""
    if rng.random() < 0.25:  # a list of words in any order
        parts = [part for part in (subject, time, *named) if part]
        rng.shuffle(parts)
        return rng.choice((", ", ", ", " ")).join(parts)
    head = f"{adjective}{subject} {time}".strip()
    if not named:
        return rng.choice((head, f"{time} {adjective}{subject}".strip()))
    listed = lexicon.joined(named)
    return rng.choice(
        (
            f"{head} {lexicon.having} {listed}",
            f"{head}, {listed}",
            f"{adjective}{subject} {lexicon.having} {listed} {time}".strip(),
            f"{listed}, {head}",
        )
    )


def _thing(thing: str, scene: Landscape, lexicon: words.Lexicon, rng: Random) -> str:
    if thing == "house":
        return lexicon.house(scene.house, rng)
    return rng.choice(lexicon.things[thing])


def _portrait(scene: Portrait, rng: Random) -> str:
    is_french = rng.random() < 0.12
    looks = words.LOOKS_FR if is_french else words.LOOKS
    outfits = words.OUTFITS_FR if is_french else words.OUTFITS
    places = words.PLACES_FR if is_french else words.PLACES
    who = looks.get(scene.look, looks["default"])
    parts = [rng.choice(who), rng.choice(outfits[scene.outfit])]
    if scene.place == "studio":
        if scene.colour != "gray":
            on = "sur fond {}" if is_french else "on a {} background"
            colours = words.COLOURS_FR if is_french else words.COLOURS
            parts.append(on.format(colours[scene.colour][0]))
        elif scene.outfit not in ("plain", "suit") or rng.random() < 0.3:
            parts.append(rng.choice(places["studio"]))
    elif scene.place != at_home(scene.outfit) or rng.random() < 0.6:
        parts.append(rng.choice(places[scene.place]))
    return " ".join(part for part in parts if part)


def _decorated(caption: str, rng: Random) -> str:
    """Now and then with words around it that change nothing, known ones and unknown ones."""
    if rng.random() < 0.2:
        caption = f"{rng.choice(words.OPENINGS)} {caption}"
    if rng.random() < 0.25:
        extras = rng.sample(words.EXTRAS, rng.randint(1, 3))
        caption = ", ".join((caption, *extras))
    if rng.random() < 0.12:
        unknown = "".join(rng.choice(words.SYLLABLES) for _ in range(rng.randint(2, 4)))
        caption = rng.choice((f"{unknown} {caption}", f"{caption} {unknown}"))
    return caption[0].upper() + caption[1:] if rng.random() < 0.3 else caption
