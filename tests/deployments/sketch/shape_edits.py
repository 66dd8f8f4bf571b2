"""Edits of a square and a ring, and one of a landscape."""

from __future__ import annotations

from random import Random
from typing import Final

from deployments.sketch.edits import Edit, at_time
from deployments.sketch.scenes import Shape, Shapes, random_landscape

SQUARE: Final = Shape(kind="square", colour="red", x=0.25, y=0.5, radius=0.3)
RING: Final = Shape(kind="ring", colour="red", x=0.75, y=0.5, radius=0.4)


def into(*changed: Shape) -> Edit:
    """The square and the ring become these."""
    before, after = (
        Shapes(ground="white", layout="beside", shapes=shapes)
        for shapes in ((SQUARE, RING), changed)
    )
    return Edit(before=(before,), instruction="", after=after, asks={})


def into_night() -> Edit:
    """A landscape becomes dark."""
    scene = random_landscape(Random(0))
    return Edit(before=(scene,), instruction="", after=at_time(scene, "night"), asks={})
