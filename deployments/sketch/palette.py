"""The twelve colours of the world, and how light changes what is painted."""

from __future__ import annotations

from typing import Final

Rgb = tuple[int, int, int]

#: Colour word -> sRGB. ``grey`` is another spelling of ``gray``.
COLOURS: Final[dict[str, Rgb]] = {
    "red": (222, 44, 44),
    "orange": (245, 140, 30),
    "yellow": (250, 215, 50),
    "green": (50, 160, 70),
    "blue": (40, 90, 215),
    "purple": (130, 60, 175),
    "pink": (250, 150, 190),
    "white": (250, 250, 250),
    "black": (22, 22, 26),
    "gray": (135, 135, 140),
    "brown": (125, 78, 42),
    "teal": (20, 145, 150),
}

#: Time of day -> what its light leaves of red, green and blue on the ground.
LIGHT: Final[dict[str, tuple[float, float, float]]] = {
    "day": (1.0, 1.0, 1.0),
    "sunset": (0.92, 0.74, 0.66),
    "night": (0.34, 0.38, 0.55),
}


def lit(colour: Rgb, time: str) -> Rgb:
    """A colour of the ground by the light of a time of day."""
    red, green, blue = (
        round(value * left) for value, left in zip(colour, LIGHT[time], strict=True)
    )
    return red, green, blue


def mixed(one: Rgb, other: Rgb, share: float) -> Rgb:
    """``one`` with a ``share`` (0..1) of ``other``."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue
