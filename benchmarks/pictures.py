"""How many pictures of the embedded models show what was asked for.

    python -m benchmarks.pictures [--model sdxl-turbo] [--steps 4] [--guidance 1] [--size 512x512]
                                  [--count 40] [--weights deployments/sketch/weights]

Prompts are ones that no model was trained on: shapes in combinations that are held out, and scenes
of seeds of their own. Colours and kinds are read off the pictures; a time of day or a thing is
there when the nearest of the drawer's own pictures, with and without it, has it.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.draw import WEIGHTS, Draw, opened
from benchmarks.easel import Pixels
from deployments.sketch.canvas import Canvas, corners
from deployments.sketch.painter import paint
from deployments.sketch.palette import COLOURS
from deployments.sketch.scenes import (
    KINDS,
    SETTLED,
    TIMES,
    Landscape,
    Shapes,
    is_held_out,
    place,
    random_landscape,
    random_shapes,
)
from deployments.sketch.wording import describe

#: What a benchmark draws scenes from; training counts from 0.
_SEED: Final = 1_000_003
#: The drawer's pictures that a picture is compared with, on each side.
_NUM_TRUTHS: Final = 48
_TRUTH_SIZE: Final = 64
#: Thing -> the land and time that it is asked for in.
_THINGS: Final = {
    "sun": ("field", "day"),
    "moon": ("field", "night"),
    "stars": ("field", "night"),
    "clouds": ("field", "day"),
    "rainbow": ("field", "day"),
    "mountains": ("field", "day"),
    "tree": ("field", "day"),
    "house": ("field", "day"),
    "boat": ("lake", "day"),
}


def single_shapes(rng: Random) -> Iterator[Shapes]:
    """Held-out shapes, each alone on its ground."""
    names = [c for c in itertools.product(KINDS, COLOURS, COLOURS) if is_held_out(*c)]
    for kind, colour, ground in rng.sample(names, len(names)):
        if colour != ground:
            shape = place("single", 0, kind, colour, rng)
            yield Shapes(ground=ground, layout="single", shapes=(shape,))


def measure_shapes(draw: Draw, count: int, rng: Random) -> dict[str, list[bool]]:
    """Colour, ground and kind of single shapes, and all three at once."""
    seen: dict[str, list[bool]] = defaultdict(list)
    for seed, scene in enumerate(itertools.islice(single_shapes(rng), count)):
        [shape] = scene.shapes
        picture = draw(f"a {shape.colour} {shape.kind} on a {scene.ground} background", seed)
        found = {
            "shape: ground": ground_of(picture) == scene.ground,
            "shape: colour": colour_of(picture) == shape.colour,
            "shape: kind": kind_of(picture) == shape.kind,
        }
        for question, is_right in found.items():
            seen[question].append(is_right)
        seen["shape: all"].append(all(found.values()))
    return seen


def measure_pairs(draw: Draw, count: int, rng: Random) -> dict[str, list[bool]]:
    """Whether of two shapes each has its colour on its own side."""
    seen: dict[str, list[bool]] = defaultdict(list)
    for seed in range(count):
        scene = random_shapes(rng, ("beside", "stacked")[seed % 2])
        first, second = scene.shapes
        between = "left of" if scene.layout == "beside" else "above"
        prompt = (
            f"a {first.colour} {first.kind} {between} a {second.colour} {second.kind} "
            f"on a {scene.ground} background"
        )
        picture = draw(prompt, seed)
        right = [
            nearest_colour(_around(picture, shape.x, shape.y, 0.06)) == shape.colour
            for shape in scene.shapes
            if shape.kind != "ring"
        ]
        seen[f"pair: {between}"].append(all(right))
    return seen


def measure_times(draw: Draw, count: int, rng: Random) -> dict[str, list[bool]]:
    """Whether the sky's colours are those of the time of day that random landscapes ask for."""
    seen: dict[str, list[bool]] = defaultdict(list)
    for seed in range(count):
        wanted = TIMES[seed % 3]
        scene = random_landscape(rng, time=wanted, land=rng.choice(("field", "lake", "desert")))
        picture = draw(describe(scene, rng), seed)
        seen[f"time: {wanted}"].append(time_of(picture) == wanted)
    return seen


def measure_things(draw: Draw, count: int, rng: Random) -> dict[str, list[bool]]:
    """Whether each thing is there when it is named, and away when it is not."""
    seen: dict[str, list[bool]] = defaultdict(list)
    for thing, (land, hour) in _THINGS.items():
        truths = truths_of(thing, land, hour, rng)
        shows = _sparkles if thing == "stars" else partial(is_with, truths=truths)
        named = "a red house" if thing == "house" else thing if thing[-1] == "s" else f"a {thing}"
        spoken = {"day": "by day", "night": "at night"}[hour]
        for seed in range(max(count // 5, 4)):
            asked = draw(f"a {land} {spoken} with {named}", seed)
            seen[f"named: {thing}"].append(shows(asked))
            plain = draw(f"a {land} {spoken}", seed)
            seen[f"not named: {thing}"].append(not shows(plain))
    return seen


def ground_of(picture: Pixels) -> str:
    """The colour word nearest to the picture's corners."""
    high, wide = (side // 12 for side in picture.shape[:2])
    patches = [picture[:high, :wide], picture[:high, -wide:], picture[-high:, :wide]]
    return nearest_colour(np.concatenate([patch.reshape(-1, 3) for patch in patches]))


def colour_of(picture: Pixels) -> str:
    """The colour word nearest to what differs from the corners."""
    mask = shape_mask(picture)
    return nearest_colour(picture[mask]) if mask.any() else ground_of(picture)


def kind_of(picture: Pixels) -> str:
    """The kind of shape whose silhouette overlaps best with what differs from the corners."""
    seen = _boxed(shape_mask(picture))
    overlaps = {kind: _overlap(seen, _silhouette(kind)) for kind in KINDS}
    return max(overlaps, key=overlaps.__getitem__)


def shape_mask(picture: Pixels) -> NDArray[np.bool_]:
    """Pixels nearer to the main other colour than to the ground's."""
    ground = np.array(COLOURS[ground_of(picture)])
    far = np.linalg.norm(picture - ground, axis=-1)
    if far.max() < 40:
        return np.zeros(far.shape, dtype=bool)
    main = np.median(picture[far > 0.6 * np.quantile(far, 0.98)], axis=0)
    return np.asarray(np.linalg.norm(picture - main, axis=-1) < far)


def nearest_colour(pixels: Pixels) -> str:
    """The word whose colour is nearest to the pixels' median."""
    middle = np.median(pixels.reshape(-1, 3), axis=0)
    return min(COLOURS, key=lambda name: float(np.linalg.norm(middle - COLOURS[name])))


def time_of(picture: Pixels) -> str:
    """By the top third: dark is night, warm is sunset, blue is day."""
    red, green, blue = picture[: len(picture) // 3].reshape(-1, 3).mean(axis=0)
    if (red + green + blue) / 3 < 90:
        return "night"
    return "sunset" if red > blue + 15 else "day" if blue > red + 15 else "neither"


def truths_of(thing: str, land: str, hour: str, rng: Random) -> tuple[list[Pixels], list[Pixels]]:
    """Small pictures of the drawer's with the thing, and without it."""
    scenes = [random_landscape(rng, hour, land) for _ in range(_NUM_TRUTHS)]
    sides: tuple[list[Pixels], list[Pixels]] = ([], [])
    for scene in (replace(scenes[0], variation=SETTLED), *scenes):
        for side, things in zip(sides, (frozenset({thing}), frozenset[str]()), strict=True):
            side.append(_small(_painted(replace(scene, house="red", things=things))))
    return sides


def _sparkles(picture: Pixels) -> bool:
    """Whether a dark sky has specks: more than a few of its pixels are far brighter than most."""
    sky = picture[: round(0.45 * len(picture))].max(axis=-1)
    return bool((sky > np.median(sky) + 70).mean() > 0.002)


def is_with(picture: Pixels, truths: tuple[list[Pixels], list[Pixels]]) -> bool:
    """Whether the nearest of the drawer's pictures is one of the first."""
    near, away = (off_by(picture, side) for side in truths)
    return near < away


def off_by(picture: Pixels, truths: Sequence[Pixels]) -> float:
    """Mean levels between a picture and the nearest of small ones of the drawer's."""
    small = _small(picture)
    return min(float(np.abs(small - truth).mean()) for truth in truths)


def _painted(scene: Landscape) -> Pixels:
    return np.asarray(paint(scene, 256, 256), dtype=np.float32)


def _small(picture: Pixels) -> Pixels:
    image = Image.fromarray(picture.round().astype(np.uint8))
    small = image.resize((_TRUTH_SIZE, _TRUTH_SIZE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)


def _around(picture: Pixels, x: float, y: float, reach: float) -> Pixels:
    height, width = picture.shape[:2]
    half = round(min(height, width) * reach)
    column, row = round(x * width), round(y * height)
    return picture[max(row - half, 0) : row + half, max(column - half, 0) : column + half]


def _boxed(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask's bounding box, 64 by 64; stray pixels at its rims are left out."""
    rows = np.flatnonzero(mask.mean(axis=1) > 0.01)
    columns = np.flatnonzero(mask.mean(axis=0) > 0.01)
    if not len(rows) or not len(columns):
        return np.zeros((64, 64), dtype=bool)
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.asarray(Image.fromarray(box).resize((64, 64)))


def _silhouette(kind: str) -> NDArray[np.bool_]:
    canvas = Canvas(256, 256)
    canvas.outline(0.5, 0.5, [(0.35 * x, 0.35 * y) for x, y in corners(kind)], (255, 255, 255))
    if kind == "ring":
        canvas.disc(0.5, 0.5, 0.35 * 0.55, (0, 0, 0))
    return _boxed(np.asarray(canvas.image)[..., 0] > 127)


def _overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


def main() -> None:
    """Draw, measure, and print a line per question."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="sdxl-turbo")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    began, num_pictures = time.perf_counter(), 0
    folder = given.weights / given.model
    with opened(folder, given.steps, given.guidance, (width, height)) as draw:
        for measure in (measure_shapes, measure_pairs, measure_times, measure_things):
            for question, answers in measure(draw, given.count, Random(_SEED)).items():
                print(f"{question:24} {100 * np.mean(answers):5.1f} % of {len(answers)}")
                num_pictures += len(answers) * (not question.startswith(("shape: g", "shape: c")))
    print(f"{(time.perf_counter() - began):.0f} s for about {num_pictures} pictures")


if __name__ == "__main__":
    main()
