"""Paints landscapes: sky and what stands in it, the land, and what stands on that."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random
from typing import Final

from deployments.sketch.canvas import Canvas
from deployments.sketch.palette import COLOURS, Rgb, lit, mixed
from deployments.sketch.scenes import Landscape

#: Where the land begins.
HORIZON: Final = 0.6

#: Time of day -> the sky's colours from its top to the horizon.
SKIES: Final[dict[str, tuple[Rgb, Rgb]]] = {
    "day": ((92, 168, 240), (190, 226, 250)),
    "sunset": ((232, 98, 74), (255, 206, 112)),
    "night": ((14, 18, 52), (44, 54, 108)),
}
_WATER: Final[dict[str, Rgb]] = {
    "day": (52, 120, 190),
    "sunset": (168, 92, 98),
    "night": (18, 30, 72),
}
_CLOUD: Final[dict[str, Rgb]] = {
    "day": (255, 255, 255),
    "sunset": (255, 184, 160),
    "night": (92, 100, 142),
}
_LAND: Final[dict[str, Rgb]] = {
    "field": (112, 184, 74),
    "lake": (96, 164, 80),
    "desert": (232, 190, 112),
    "forest": (84, 146, 70),
    "snow": (238, 243, 250),
    "city": (96, 100, 112),
}
_SUN: Final[Rgb] = (255, 222, 66)
_SUN_LOW: Final[Rgb] = (255, 240, 160)
_MOON: Final[Rgb] = (246, 244, 220)
_ROCK: Final[Rgb] = (112, 116, 142)
_SNOW: Final[Rgb] = (244, 247, 252)
_LEAVES: Final[Rgb] = (46, 128, 62)
_TRUNK: Final[Rgb] = (112, 72, 40)
_RAINBOW: Final = ("red", "orange", "yellow", "green", "blue", "purple")
_NEON: Final[tuple[Rgb, ...]] = ((255, 80, 190), (60, 220, 240), (250, 220, 90))


def paint_landscape(canvas: Canvas, scene: Landscape) -> None:
    """Paint all of it, from far to near."""
    if scene.land == "cafe":
        _paint_cafe(canvas, scene)
        return
    paint_sky(canvas, scene.time, scene.things, scene.variation)
    scene = replace(scene, time=scene.light or scene.time)
    if "mountains" in scene.things:
        _paint_mountains(canvas, scene)
    _paint_land(canvas, scene)
    for thing, paint in _ON_LAND:
        if thing in scene.things:
            paint(canvas, scene)


def paint_sky(canvas: Canvas, time: str, things: frozenset[str], variation: int) -> None:
    """The sky down to the horizon and what stands in it."""
    top, bottom = SKIES[time]
    canvas.fade(((0, top), (1, bottom)), 0, 1)
    for thing, paint in _IN_SKY:
        if thing in things:
            paint(canvas, time, Random(f"{thing} {variation}"))


def _paint_stars(canvas: Canvas, _time: str, _rng: Random) -> None:
    """Four-pointed stars, always the same: small models do not learn what is left to chance."""
    rng = Random("stars")
    across = max(round(6 * canvas.width / canvas.unit), 3)
    for column in range(across):
        for row in range(3):
            x = (column + rng.uniform(0.2, 0.8)) / across
            y = (row + rng.uniform(0.15, 0.85)) * 0.15
            size = rng.uniform(0.018, 0.03)
            points = [
                (r * math.sin(i * math.pi / 4) * size, -r * math.cos(i * math.pi / 4) * size)
                for i, r in enumerate((1, 0.42) * 4)
            ]
            canvas.outline(x, y, points, (255, 250, 214))


def _paint_sun(canvas: Canvas, time: str, rng: Random) -> None:
    """High by day; low over the horizon, with a glow, at sunset."""
    x = rng.uniform(0.68, 0.78) if time == "day" else rng.uniform(0.45, 0.55)
    if time == "sunset":
        y = rng.uniform(0.36, 0.44)
        canvas.disc(x, y, 0.17, mixed(SKIES["sunset"][1], _SUN_LOW, 0.35))
        canvas.disc(x, y, 0.115, _SUN_LOW)
    else:
        y = rng.uniform(0.15, 0.21)
        canvas.disc(x, y, 0.125, mixed(SKIES["day"][0], _SUN, 0.4))
        canvas.disc(x, y, 0.095, _SUN)


def _paint_moon(canvas: Canvas, time: str, rng: Random) -> None:
    x, y = rng.uniform(0.22, 0.32), rng.uniform(0.15, 0.21)
    canvas.disc(x, y, 0.125, mixed(SKIES[time][0], _MOON, 0.22))
    canvas.disc(x, y, 0.09, _MOON)


def _paint_clouds(canvas: Canvas, time: str, rng: Random) -> None:
    for middle in (0.2, 0.55, 0.88):
        x, y = middle + rng.uniform(-0.04, 0.04), rng.uniform(0.1, 0.2)
        size = rng.uniform(0.95, 1.1)
        for dx, dy, radius in ((-0.08, 0.01, 0.045), (0, -0.02, 0.062), (0.08, 0.008, 0.048)):
            shift = dx * size * canvas.unit / canvas.width
            drop = dy * size * canvas.unit / canvas.height
            canvas.disc(x + shift, y + drop, radius * size, _CLOUD[time])
        bottom = y + 0.03 * size * canvas.unit / canvas.height
        canvas.oval(x, bottom, 0.13 * size, 0.03 * size, _CLOUD[time])


def _paint_rainbow(canvas: Canvas, time: str, rng: Random) -> None:
    """Its feet stand on the horizon, its top is clear of the picture's."""
    radius = min(0.5 * canvas.height, 0.44 * canvas.width) / canvas.unit
    x, width = 0.5 + rng.uniform(-0.03, 0.03), 0.036 * radius / 0.44
    for band, name in enumerate(_RAINBOW):
        colour = mixed(COLOURS[name], (255, 255, 255), 0.12 if time != "night" else 0)
        canvas.arc(x, HORIZON, radius - band * width, width * 1.05, colour)


def _paint_mountains(canvas: Canvas, scene: Landscape) -> None:
    """Three peaks with snow on them."""
    rng = Random(f"mountains {scene.variation}")
    rock, snow = lit(_ROCK, scene.time), lit(_SNOW, scene.time)
    peaks = [
        (0.16 + rng.uniform(-0.04, 0.04), rng.uniform(0.37, 0.42), 0.34),
        (0.84 + rng.uniform(-0.04, 0.04), rng.uniform(0.37, 0.42), 0.34),
        (0.5 + rng.uniform(-0.06, 0.06), rng.uniform(0.28, 0.32), 0.36),
    ]
    for number, (x, top, reach) in enumerate(peaks):
        shade = mixed(rock, SKIES[scene.time][1], 0.3 if number < 2 else 0.08)
        canvas.polygon(((x, top), (x + reach, HORIZON + 0.01), (x - reach, HORIZON + 0.01)), shade)
        height, share = HORIZON - top, 0.36
        half, low = reach * share, top + height * share
        cap = (
            *((x, top), (x + half, low), (x + half * 0.45, low - 0.02)),
            *((x, low + 0.025), (x - half * 0.45, low - 0.02), (x - half, low)),
        )
        canvas.polygon(cap, snow)


def _paint_land(canvas: Canvas, scene: Landscape) -> None:
    time = scene.time
    rng = Random(f"land {scene.variation}")
    if scene.land == "sea":
        _paint_sea(canvas, time)
        return
    if scene.land == "city":
        _paint_city(canvas, time)
        return
    near = lit(_LAND[scene.land], time)
    if scene.land == "lake":
        canvas.mirror(HORIZON, 0.26, _WATER[time], 0.42)
        shore = 0.85 + rng.uniform(-0.01, 0.01)
        canvas.polygon(_wave(shore, 0.015, rng), near)
        return
    canvas.fade(((0, mixed(near, SKIES[time][1], 0.18)), (1, near)), HORIZON, 1)
    if scene.land == "forest":
        _paint_forest(canvas, time)
    elif scene.land in ("desert", "snow"):
        for height, share in ((0.7, 0.1), (0.83, 0.2)):
            shade = mixed(
                near, lit((120, 84, 60), time), share * (1 if scene.land == "desert" else 0.4)
            )
            canvas.polygon(_wave(height, 0.03, rng), shade)
    else:
        canvas.polygon(_wave(0.76, 0.025, rng), mixed(near, lit((40, 110, 50), time), 0.3))


def _wave(height: float, swing: float, rng: Random) -> list[tuple[float, float]]:
    """Everything below a rolling line."""
    turn, speed = rng.uniform(0, 1.5), rng.uniform(4, 5)
    line = [(i / 32, height + swing * math.sin(turn + speed * i / 32)) for i in range(33)]
    return [*line, (1.01, 1.01), (0.0, 1.01)]


def _paint_sea(canvas: Canvas, time: str) -> None:
    """Water with golden or pale crests of waves."""
    water = _WATER[time]
    canvas.fade(((0, mixed(water, SKIES[time][1], 0.3)), (1, water)), HORIZON, 1)
    crest = mixed(water, (255, 214, 110) if time == "sunset" else (235, 245, 255), 0.55)
    for row, y in enumerate((0.66, 0.76, 0.88)):
        for column in range(-1, 4):
            x = (column + 0.5 * (row % 2) + 0.5) / 3
            canvas.oval(x, y, 0.1 + 0.02 * row, 0.009 + 0.004 * row, crest)


def _paint_forest(canvas: Canvas, time: str) -> None:
    """Two rows of firs."""
    rng = Random("forest")
    for base, high, share in ((0.72, 0.2, 0.3), (0.93, 0.27, 0.0)):
        colour = mixed(lit((30, 104, 58), time), SKIES[time][1], share)
        across = max(round(6 * canvas.width / canvas.unit), 3)
        for column in range(across + 1):
            x = (column + rng.uniform(-0.15, 0.15) + (0.5 if share else 0)) / across
            points = ((0, -high), (0.075, 0), (-0.075, 0))
            canvas.outline(x, base, points, colour)


def _paint_city(canvas: Canvas, time: str) -> None:
    """Towers with lit windows; neon on them at night."""
    rng = Random("city")
    canvas.fade(((0, lit(_LAND["city"], time)), (1, lit((60, 62, 74), time))), HORIZON, 1)
    across = max(round(5 * canvas.width / canvas.unit), 3)
    for column in range(across):
        x, top = (column + 0.5) / across, rng.uniform(0.3, 0.45)
        body = lit(rng.choice(((92, 104, 138), (120, 112, 140), (84, 120, 140))), time)
        half = 0.42 / across
        canvas.polygon(((x - half, top), (x + half, top), (x + half, 0.82), (x - half, 0.82)), body)
        light = rng.choice(_NEON) if time == "night" else mixed(body, (255, 244, 190), 0.6)
        for row in range(4):
            y = top + 0.06 + row * 0.085
            for side in (-0.5, 0.5):
                canvas.polygon(_pane(x + side * half, y, half * 0.3, 0.018), light)


def _pane(x: float, y: float, half: float, high: float) -> tuple[tuple[float, float], ...]:
    return ((x - half, y - high), (x + half, y - high), (x + half, y + high), (x - half, y + high))


def _paint_tree(canvas: Canvas, scene: Landscape) -> None:
    x = 0.2 + Random(f"tree {scene.variation}").uniform(-0.05, 0.05)
    canvas.box(x, 0.8, (0.05, 0.22), lit(_TRUNK, scene.time))
    leaves = lit(_LEAVES, scene.time)
    for dx, dy, radius in ((-0.07, -0.12, 0.09), (0.07, -0.12, 0.09), (0, -0.2, 0.1)):
        canvas.disc(
            x + dx * canvas.unit / canvas.width,
            0.8 + dy * canvas.unit / canvas.height,
            radius,
            leaves,
        )


def _paint_house(canvas: Canvas, scene: Landscape) -> None:
    x = 0.76 + Random(f"house {scene.variation}").uniform(-0.05, 0.05)
    time = scene.time
    dim = time if time != "night" else "sunset"  # so that its colour can be told at night
    wall, roof = lit(COLOURS[scene.house], dim), lit((120, 62, 48), time)
    canvas.box(x, 0.8, (0.26, 0.2), wall)
    canvas.outline(x, 0.8, ((-0.17, -0.1), (0, -0.23), (0.17, -0.1)), roof)
    glow = (255, 228, 130) if time == "night" else lit((226, 240, 250), time)
    canvas.outline(x, 0.8, ((-0.09, -0.05), (-0.02, -0.05), (-0.02, 0.02), (-0.09, 0.02)), glow)
    canvas.outline(
        x, 0.8, ((0.03, -0.03), (0.09, -0.03), (0.09, 0.1), (0.03, 0.1)), lit(_TRUNK, time)
    )


def _paint_boat(canvas: Canvas, scene: Landscape) -> None:
    x = 0.47 + Random(f"boat {scene.variation}").uniform(-0.08, 0.08)
    hull, sail = lit((150, 60, 44), scene.time), lit((250, 246, 236), scene.time)
    canvas.outline(x, 0.74, ((-0.13, 0), (0.13, 0), (0.09, 0.055), (-0.09, 0.055)), hull)
    canvas.outline(x, 0.74, ((0.01, -0.2), (0.01, -0.015), (0.11, -0.015)), sail)
    canvas.outline(x, 0.74, ((-0.01, -0.15), (-0.01, -0.015), (-0.09, -0.015)), sail)


def _paint_cafe(canvas: Canvas, scene: Landscape) -> None:
    """A room: a window on the time of day, a lamp, a table with a cup."""
    wall = lit((222, 186, 146), "day" if scene.time == "day" else "sunset")
    canvas.fill(wall)
    canvas.polygon(((0, 0.78), (1, 0.78), (1, 1), (0, 1)), lit((120, 78, 52), "day"))
    canvas.polygon(_pane(0.27, 0.32, 0.19, 0.2), (96, 62, 44))
    canvas.polygon(_pane(0.27, 0.32, 0.165, 0.175), SKIES[scene.time][0])
    canvas.polygon(_pane(0.72, 0.09, 0.008, 0.09), (70, 48, 40))
    canvas.outline(
        0.72, 0.2, ((-0.06, -0.05), (0.06, -0.05), (0.12, 0.06), (-0.12, 0.06)), (236, 170, 60)
    )
    canvas.box(0.6, 0.8, (0.06, 0.26), (92, 58, 40))
    canvas.box(0.6, 0.68, (0.56, 0.05), (146, 96, 60))
    across, down = canvas.unit / canvas.width, canvas.unit / canvas.height
    y, china = 0.68 - 0.085 * down, (250, 248, 244)
    canvas.disc(0.6 + 0.09 * across, y, 0.045, china)
    canvas.disc(0.6 + 0.09 * across, y, 0.024, wall)
    canvas.box(0.6, y, (0.16, 0.12), china)
    canvas.box(0.6, y - 0.045 * down, (0.13, 0.025), (96, 58, 36))


_IN_SKY: Final = (
    ("stars", _paint_stars),
    ("clouds", _paint_clouds),
    ("sun", _paint_sun),
    ("moon", _paint_moon),
    ("rainbow", _paint_rainbow),
)
_ON_LAND: Final = (("tree", _paint_tree), ("house", _paint_house), ("boat", _paint_boat))
