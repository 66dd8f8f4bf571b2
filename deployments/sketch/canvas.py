"""Canvas: a picture to paint on in shares of its sides, whatever its size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from deployments.sketch.palette import Rgb

Point = tuple[float, float]

#: A circle's corners; more cannot be told apart from a circle at 1024 pixels.
_NUM_CORNERS: Final = 96


class Canvas:
    """x and y are shares of the width and height; lengths are shares of the shorter side."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.unit = min(width, height)
        self.image = Image.new("RGB", (width, height))
        self._draw = ImageDraw.Draw(self.image)

    def fill(self, colour: Rgb) -> None:
        """The whole picture in one colour."""
        self.image.paste(colour, (0, 0, self.width, self.height))

    def fade(self, stops: Sequence[tuple[float, Rgb]], top: float, bottom: float) -> None:
        """A band from ``top`` to ``bottom`` that fades through ``stops`` of (share, colour)."""
        first, last = round(top * self.height), round(bottom * self.height)
        rows = np.linspace(0, 1, max(last - first, 1))
        places = [place for place, _ in stops]
        channels = [np.interp(rows, places, [c[i] for _, c in stops]) for i in range(3)]
        column = np.stack(channels, axis=-1).round().astype(np.uint8)[:, None]
        band = Image.fromarray(column).resize((self.width, len(rows)))
        self.image.paste(band, (0, first))

    def polygon(self, points: Iterable[Point], colour: Rgb) -> None:
        """A filled polygon of points in shares of the sides."""
        corners = [(x * self.width, y * self.height) for x, y in points]
        self._draw.polygon(corners, fill=colour)

    def outline(self, x: float, y: float, points: Iterable[Point], colour: Rgb) -> None:
        """A filled polygon of offsets from (x, y), in shares of the shorter side."""
        left, top = x * self.width, y * self.height
        corners = [(left + dx * self.unit, top + dy * self.unit) for dx, dy in points]
        self._draw.polygon(corners, fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: Rgb) -> None:
        """A filled circle."""
        self.oval(x, y, radius, radius, colour)

    def oval(self, x: float, y: float, across: float, down: float, colour: Rgb) -> None:
        """A filled ellipse of two radii."""
        left, top = x * self.width, y * self.height
        across, down = across * self.unit, down * self.unit
        self._draw.ellipse((left - across, top - down, left + across, top + down), fill=colour)

    def box(self, x: float, y: float, size: tuple[float, float], colour: Rgb) -> None:
        """A filled box of ``size`` around (x, y), in shares of the shorter side."""
        wide, high = size[0] / 2, size[1] / 2
        self.outline(x, y, ((-wide, -high), (wide, -high), (wide, high), (-wide, high)), colour)

    def arc(self, x: float, y: float, radius: float, width: float, colour: Rgb) -> None:
        """The upper half of a ring; ``radius`` is its outer one."""
        points = [(radius * math.cos(a), -radius * math.sin(a)) for a in _half_turn()]
        inner = radius - width
        points += [(inner * math.cos(a), -inner * math.sin(a)) for a in reversed(_half_turn())]
        self.outline(x, y, points, colour)

    def mirror(self, line: float, depth: float, colour: Rgb, share: float) -> None:
        """Below ``line``, what is above it, flattened into ``depth`` and tinted by ``share``."""
        at, high = round(line * self.height), round(depth * self.height)
        above = self.image.crop((0, max(at - 2 * high, 0), self.width, at))
        below = above.transpose(Image.Transpose.FLIP_TOP_BOTTOM).resize((self.width, high))
        tint = Image.new("RGB", below.size, colour)
        self.image.paste(Image.blend(below, tint, share), (0, at))


def corners(kind: str) -> list[Point]:
    """The outline of a kind of shape whose half extent is 1; y points down."""
    match kind:
        case "circle" | "ring":
            return round_points(1.0)
        case "square":
            return [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]
        case "triangle":
            return [(0.0, -1.0), (1.08, 0.87), (-1.08, 0.87)]
        case "diamond":
            return [(0.0, -1.2), (0.85, 0.0), (0.0, 1.2), (-0.85, 0.0)]
        case "star":
            turns = [math.pi * i / 5 for i in range(10)]
            reach = [1.25, 0.54] * 5
            return [(r * math.sin(a), -r * math.cos(a)) for r, a in zip(reach, turns, strict=True)]
        case "heart":
            # The usual parametric heart, 16 sin^3 across, shrunk to the extent of the others.
            turns = [2 * math.pi * i / _NUM_CORNERS for i in range(_NUM_CORNERS)]
            return [(1.05 * math.sin(a) ** 3, _heart_height(a)) for a in turns]
        case _:
            raise ValueError(f"unknown kind of shape {kind!r}")


def round_points(radius: float) -> list[Point]:
    """A circle as a polygon."""
    turns = [2 * math.pi * i / _NUM_CORNERS for i in range(_NUM_CORNERS)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in turns]


def _heart_height(turn: float) -> float:
    waves = (13, -5, -2, -1)
    return -sum(w * math.cos(k * turn) for k, w in enumerate(waves, 1)) / 15.5 - 0.05


def _half_turn() -> list[float]:
    return [math.pi * i / 48 for i in range(49)]
