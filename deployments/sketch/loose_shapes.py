"""Loose shapes: as others draw them, off their layout's places, but still each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from random import Random
from typing import Final

from deployments.sketch.canvas import corners
from deployments.sketch.scenes import Shape, Shapes, random_shapes

#: From where to where something is, across and down, as shares of a square picture.
Box = tuple[tuple[float, float], tuple[float, float]]

#: How far shapes can be off their layout's places, as shares of the picture's width and height.
_ROOM: Final = {
    "single": (0.12, 0.12),
    "beside": (0.03, 0.25),
    "stacked": (0.25, 0.03),
    "row": (0.02, 0.3),
}


def loose_shapes(rng: Random, layout: str | None = None) -> Shapes:
    """Shapes as others draw them: in half of the pictures off their places, larger or smaller."""
    scene = random_shapes(rng, layout)
    if rng.random() < 0.5:
        return scene
    loose = None
    while loose is None or not are_clear(loose):
        loose = tuple(_loosened(scene.layout, shape, rng) for shape in scene.shapes)
    return replace(scene, shapes=loose)


def _loosened(layout: str, shape: Shape, rng: Random) -> Shape:
    right, down = _ROOM[layout]
    x, y = shape.x + rng.uniform(-right, right), shape.y + rng.uniform(-down, down)
    return replace(shape, x=x, y=y, radius=shape.radius * rng.uniform(0.6, 1.1))


def are_clear(shapes: Sequence[Shape]) -> bool:
    """Whether they neither leave a picture nor meet, square as it may be."""
    boxes = [_box(shape) for shape in shapes]
    are_inside = all(low >= 0 and high <= 1 for box in boxes for low, high in box)
    return are_inside and not any(_meet(*pair) for pair in combinations(boxes, 2))


def _box(shape: Shape) -> Box:
    places = zip(*corners(shape.kind), strict=True)
    across, down = (
        (middle + min(along) * shape.radius, middle + max(along) * shape.radius)
        for middle, along in zip((shape.x, shape.y), places, strict=True)
    )
    return across, down


def _meet(one: Box, other: Box) -> bool:
    return all(a[0] < b[1] and b[0] < a[1] for a, b in zip(one, other, strict=True))
