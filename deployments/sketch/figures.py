"""Paints little figures: who they are, what they wear, and the place that they stand in."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from deployments.sketch.canvas import Canvas
from deployments.sketch.landscape import paint_sky
from deployments.sketch.palette import COLOURS, Rgb
from deployments.sketch.scenes import Portrait


@dataclass(frozen=True, slots=True)
class Look:
    """What a figure is known by: its face, its hair, and the colour that it likes to wear."""

    face: Rgb
    hair: Rgb
    shirt: Rgb


LOOKS: Final[dict[str, Look]] = {
    "someone": Look((238, 196, 160), (84, 58, 44), (120, 130, 150)),
    "cat": Look((240, 160, 70), (200, 112, 40), (120, 130, 150)),
    "default": Look((250, 206, 172), (214, 74, 36), (30, 150, 140)),
    "user_123": Look((142, 92, 62), (36, 30, 34), (240, 190, 50)),
    "user_456": Look((252, 222, 200), (250, 214, 96), (190, 70, 160)),
}
_DARK: Final[Rgb] = (34, 32, 44)
_WHITE: Final[Rgb] = (248, 248, 250)
_WALLS: Final[dict[str, Rgb]] = {
    "gray": (186, 190, 198),
    "blue": (128, 172, 224),
    "teal": (120, 196, 192),
    "white": (240, 240, 240),
}
_BOOKS: Final = ("red", "blue", "green", "orange", "purple", "teal", "yellow")


def paint_portrait(canvas: Canvas, scene: Portrait) -> None:
    """The place, then the figure in the middle of it."""
    _paint_place(canvas, scene)
    look = LOOKS[scene.look]
    if scene.outfit == "superhero":
        canvas.outline(
            0.5, 0.6, ((-0.1, 0.02), (0.1, 0.02), (0.3, 0.5), (-0.3, 0.5)), (206, 40, 52)
        )
    _paint_body(canvas, scene.outfit, look)
    _paint_head(canvas, scene, look)
    if scene.outfit == "reader":
        canvas.outline(
            0.5, 0.86, ((0, -0.05), (0.17, -0.09), (0.17, 0.06), (0, 0.1)), (252, 250, 240)
        )
        canvas.outline(
            0.5, 0.86, ((0, -0.05), (-0.17, -0.09), (-0.17, 0.06), (0, 0.1)), (232, 228, 212)
        )


def _paint_place(canvas: Canvas, scene: Portrait) -> None:
    match scene.place:
        case "studio":
            wall = _WALLS[scene.colour]
            canvas.fill(wall)
        case "space":
            canvas.fill((16, 16, 44))
            _sprinkle(canvas)
            canvas.disc(0.15, 0.2, 0.11, (222, 120, 84))
        case "skyline":
            _paint_skyline(canvas, scene.variation)
        case "library":
            _paint_library(canvas)
        case "meadow":
            paint_sky(canvas, "day", frozenset({"clouds"}), scene.variation)
            canvas.polygon(((0, 0.68), (1, 0.68), (1, 1.01), (0, 1.01)), (112, 184, 74))


def _paint_skyline(canvas: Canvas, variation: int) -> None:
    rng = Random("skyline")
    paint_sky(canvas, "sunset", frozenset(), variation)
    across = max(round(6 * canvas.width / canvas.unit), 4)
    for column in range(across):
        _paint_upright(canvas, column, across, (rng.uniform(0.5, 0.68), 1.01), (92, 74, 112))


def _paint_library(canvas: Canvas) -> None:
    """Three shelves of books."""
    rng = Random("library")
    canvas.fill((112, 74, 48))
    across = max(round(9 * canvas.width / canvas.unit), 6)
    for bottom in (0.3, 0.62, 0.94):
        for column in range(across):
            high = rng.uniform(0.2, 0.25)
            colour = COLOURS[rng.choice(_BOOKS)]
            _paint_upright(canvas, column, across, (bottom - high, bottom), colour)


def _paint_upright(
    canvas: Canvas, column: int, across: int, span: tuple[float, float], colour: Rgb
) -> None:
    """A block from top to bottom in one of so many columns."""
    x, half = (column + 0.5) / across, 0.43 / across
    top, bottom = span
    corners = ((x - half, top), (x + half, top), (x + half, bottom), (x - half, bottom))
    canvas.polygon(corners, colour)


def _sprinkle(canvas: Canvas) -> None:
    rng = Random("space")
    across = max(round(6 * canvas.width / canvas.unit), 3)
    down = max(round(6 * canvas.height / canvas.unit), 3)
    for column in range(across):
        for row in range(down):
            x, y = (column + rng.uniform(0.2, 0.8)) / across, (row + rng.uniform(0.2, 0.8)) / down
            canvas.disc(x, y, rng.uniform(0.007, 0.013), (255, 250, 220))


def _paint_body(canvas: Canvas, outfit: str, look: Look) -> None:
    """Shoulders down to the lower edge."""
    colour = {
        "astronaut": (226, 230, 238),
        "superhero": (44, 84, 196),
        "suit": (48, 54, 78),
    }.get(outfit, look.shirt)
    canvas.oval(0.5, 0.76, 0.23, 0.12, colour)
    canvas.polygon(_column(canvas, 0.23, 0.76, 1.01), colour)
    if outfit == "suit":
        canvas.outline(0.5, 0.66, ((-0.09, 0), (0.09, 0), (0, 0.26)), _WHITE)
        canvas.outline(
            0.5,
            0.69,
            ((-0.025, 0), (0.025, 0), (0.035, 0.17), (0, 0.22), (-0.035, 0.17)),
            look.shirt,
        )
    elif outfit == "superhero":
        canvas.outline(0.5, 0.86, ((-0.1, -0.07), (0.1, -0.07), (0, 0.09)), (250, 210, 50))
    elif outfit == "astronaut":
        canvas.box(0.5, 0.88, (0.2, 0.11), (150, 160, 178))
        canvas.disc(0.5, 0.88, 0.035, look.shirt)


def _column(
    canvas: Canvas, half: float, top: float, bottom: float
) -> tuple[tuple[float, float], ...]:
    side = half * canvas.unit / canvas.width
    return ((0.5 - side, top), (0.5 + side, top), (0.5 + side, bottom), (0.5 - side, bottom))


def _paint_head(canvas: Canvas, scene: Portrait, look: Look) -> None:
    if scene.outfit == "astronaut":
        canvas.disc(0.5, 0.43, 0.265, (226, 230, 238))
        canvas.disc(0.5, 0.43, 0.222, (120, 168, 208))
    up = canvas.unit / canvas.height
    if scene.look == "cat":
        for side in (-1, 1):
            ear = ((side * 0.05, -0.13), (side * 0.15, -0.25), (side * 0.17, -0.04))
            canvas.outline(0.5, 0.44, ear, look.hair)
    else:
        canvas.disc(0.5, 0.43 - 0.03 * up, 0.19, look.hair)
        if scene.look in ("user_456", "someone"):
            canvas.box(0.5, 0.43 + 0.06 * up, (0.38, 0.2), look.hair)
    canvas.disc(0.5, 0.43 + 0.02 * up, 0.165, look.face)
    if scene.look == "user_123":
        canvas.outline(
            0.5, 0.43, ((-0.165, -0.03), (0.165, -0.03), (0.13, -0.15), (-0.13, -0.15)), look.hair
        )
    _paint_features(canvas, scene, look)


def _paint_features(canvas: Canvas, scene: Portrait, look: Look) -> None:
    across, up = canvas.unit / canvas.width, canvas.unit / canvas.height
    for side in (-1, 1):
        x = 0.5 + side * 0.065 * across
        if scene.look == "user_123":
            canvas.disc(x, 0.43 + 0.015 * up, 0.052, _WHITE)
        canvas.disc(x, 0.43 + 0.015 * up, 0.024, _DARK)
    mouth = ((-0.06, 0.09), (0.06, 0.09), (0.03, 0.125), (-0.03, 0.125))
    canvas.outline(0.5, 0.43, mouth, (176, 52, 56))
    if scene.look == "cat":
        canvas.outline(0.5, 0.43, ((-0.025, 0.05), (0.025, 0.05), (0, 0.08)), (230, 120, 130))
    if scene.look == "default":
        canvas.outline(
            0.5, 0.43, ((-0.15, -0.02), (-0.1, -0.13), (0.12, -0.13), (0.0, -0.06)), look.hair
        )
