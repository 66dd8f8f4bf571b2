"""Paints scenes at any size."""

from __future__ import annotations

from PIL import Image

from deployments.sketch.canvas import Canvas, corners
from deployments.sketch.figures import paint_portrait
from deployments.sketch.landscape import paint_landscape
from deployments.sketch.palette import COLOURS
from deployments.sketch.scenes import Landscape, Scene, Shapes


def paint(scene: Scene, width: int, height: int, *, oversampling: int = 1) -> Image.Image:
    """The scene as an RGB picture; ``oversampling`` 2 and more smooths its edges."""
    canvas = Canvas(width * oversampling, height * oversampling)
    if isinstance(scene, Shapes):
        _paint_shapes(canvas, scene)
    elif isinstance(scene, Landscape):
        paint_landscape(canvas, scene)
    else:
        paint_portrait(canvas, scene)
    return canvas.image if oversampling == 1 else canvas.image.reduce(oversampling)


def _paint_shapes(canvas: Canvas, scene: Shapes) -> None:
    canvas.fill(COLOURS[scene.ground])
    for shape in scene.shapes:
        points = [(x * shape.radius, y * shape.radius) for x, y in corners(shape.kind)]
        canvas.outline(shape.x, shape.y, points, COLOURS[shape.colour])
        if shape.kind == "ring":
            canvas.disc(shape.x, shape.y, 0.55 * shape.radius, COLOURS[scene.ground])
