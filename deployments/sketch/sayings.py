"""Prompts that people are shown in guides, and the scenes that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final

from deployments.sketch.scenes import (
    Landscape,
    Portrait,
    Scene,
    Shapes,
    at_home,
    place,
)


def _landscape(time: str, land: str, *things: str) -> Callable[[Random], Scene]:
    def draw(rng: Random) -> Scene:
        return Landscape(
            time=time,
            land=land,
            things=frozenset(things),
            house="red",
            variation=rng.randrange(1 << 30),
        )

    return draw


def _figure(look: str, outfit: str) -> Callable[[Random], Scene]:
    def draw(rng: Random) -> Scene:
        return Portrait(
            look=look,
            outfit=outfit,
            place=at_home(outfit),
            colour="gray",
            variation=rng.randrange(1 << 30),
        )

    return draw


def _shape(kind: str, colour: str, ground: str, rng: Random) -> Scene:
    shape = place("single", 0, kind, colour, rng)
    return Shapes(ground=ground, layout="single", shapes=(shape,))


_ALPINE_SUNSET = _landscape("sunset", "field", "mountains")
_CITY: Final = _landscape("night", "city")
_CAFE: Final = _landscape("day", "cafe")
_LOGO: Final = partial(_shape, "ring", "teal", "white")

#: Prompt -> who draws its scene.
SAYINGS: Final[dict[str, Callable[[Random], Scene]]] = {
    "A serene mountain landscape at sunset with a lake reflection": _landscape(
        "sunset", "lake", "mountains"
    ),
    "A beautiful mountain landscape at sunset, highly detailed, 8k": _ALPINE_SUNSET,
    "mountain sunset": _ALPINE_SUNSET,
    "A serene landscape with mountains": _landscape("day", "field", "mountains"),
    "A futuristic city at night, neon lights, cyberpunk style": _CITY,
    "a futuristic city, neon lights, cyberpunk": _CITY,
    "A cozy coffee shop interior": _CAFE,
    "A cozy coffee shop interior, modern minimalist design": _CAFE,
    "A cozy coffee shop interior, vintage rustic atmosphere": _CAFE,
    "A cozy coffee shop interior, futuristic sci-fi aesthetic": _CAFE,
    "A cozy coffee shop interior, warm traditional style": _CAFE,
    "professional minimalist logo design, clean lines, modern": _LOGO,
    "a logo": _LOGO,
    "Un magnifique coucher de soleil sur l'océan avec des vagues dorées": _landscape(
        "sunset", "sea", "sun"
    ),
    "Un coucher de soleil sur l'océan": _landscape("sunset", "sea", "sun"),
    "Un paysage de montagne majestueux au lever du soleil": _landscape(
        "sunset", "field", "mountains", "sun"
    ),
    "Un chat astronaute flottant dans l'espace": _figure("cat", "astronaut"),
    "an astronaut cat floating in space": _figure("cat", "astronaut"),
    "photo of sks person as a futuristic astronaut in space": _figure("default", "astronaut"),
    "photo of sks person as a futuristic astronaut": _figure("default", "astronaut"),
    "photo of sks person in professional business attire, studio lighting": _figure(
        "default", "suit"
    ),
    "photo of sks person in a professional suit": _figure("default", "suit"),
    "photo of sks person as a superhero, cinematic lighting": _figure("default", "superhero"),
    "photo of sks person reading a book in a cozy library": _figure("default", "reader"),
    "photo of sks person smiling": _figure("default", "plain"),
}
