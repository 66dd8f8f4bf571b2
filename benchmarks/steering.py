"""What negative prompts, strength and guidance do to the embedded models' pictures.

    python -m benchmarks.steering [--model sdxl-turbo] [--steps 4] [--guidance 2] [--size 512]
                                  [--count 6] [--weights deployments/sketch/weights]

A negative prompt shall take away what it names, if the prompt names it, too, and leave the day; of
the times of day that a prompt leaves open it shall leave the others; where nobody has asked for
what it names, it shall leave the picture clean and its time of day as it is. The change that an
edit makes shall grow with its strength, from next to none to what the prompt says. At any guidance
shapes shall have their colours, grounds and kinds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import numpy as np

from benchmarks.draw import WEIGHTS
from benchmarks.easel import Easel, Pixels, encoded, euler
from benchmarks.pictures import (
    colour_of,
    ground_of,
    is_with,
    kind_of,
    off_by,
    single_shapes,
    time_of,
    truths_of,
)
from deployments.sketch.assemble import BASE, EDITOR, TURBO
from deployments.sketch.painter import paint
from deployments.sketch.scenes import random_landscape
from deployments.types import GenerationRequest

Ask = Callable[..., Pixels]

#: Thing -> how it is named in a prompt and in a negative one.
_THINGS: Final = {
    "tree": "a tree",
    "house": "a red house",
    "mountains": "mountains",
    "rainbow": "a rainbow",
    "clouds": "clouds",
    "sun": "a sun",
}
#: What a prompt may leave open, and how a negative one refuses it.
_TIMES: Final = {"day": "blue sky, day", "sunset": "sunset", "night": "night"}
#: What a bare field is told not to have.
_UNASKED: Final = ("", "blurry, low quality, watermark", "tree", "tree, house, clouds")
#: What a house by day is told not to have.
_BESIDE_A_HOUSE: Final = ("mountains, watermark", "clouds, mountains, tree")
_STRENGTHS: Final = (0.05, 0.25, 0.5, 0.75, 1.0)
_GUIDANCES: Final = (1.0, 2.0, 4.0, 7.5)
_SEED: Final = 3_000_017
#: Model -> its family, and what asks for night: a picture of it, or an edit.
_MODELS: Final = {
    TURBO: ("stable-diffusion-xl", "a desert at night"),
    BASE: ("stable-diffusion", "a desert at night"),
    EDITOR: ("qwen-image", "make it night"),
}


def measure_negatives(ask: Ask, count: int) -> dict[str, tuple[float, float, float]]:
    """Thing -> shares of pictures that show it when it is named, that show it when it is refused,
    too, and that are still by day then."""
    seen = {}
    for thing, named in _THINGS.items():
        truths = truths_of(thing, "field", "day", Random(_SEED))
        shows = partial(is_with, truths=truths)
        prompt = f"a field by day with {named}"
        asked = [shows(ask(prompt, seed=seed)) for seed in range(count)]
        refused = [ask(prompt, negative=named, seed=seed) for seed in range(count)]
        still_there = [shows(picture) for picture in refused]
        by_day = [time_of(picture) == "day" for picture in refused]
        seen[thing] = (_share(asked), _share(still_there), _share(by_day))
    return seen


def measure_refusals(ask: Ask, count: int) -> dict[str, tuple[float, float]]:
    """Time of day -> shares of landscapes that show it when nobody says, and when it is refused."""

    def times(negative: str) -> list[str]:
        pictures = (ask("a landscape", negative=negative, seed=seed) for seed in range(count))
        return list(map(time_of, pictures))

    anyway = times("")
    return {
        time: (anyway.count(time) / count, times(refused).count(time) / count)
        for time, refused in _TIMES.items()
    }


def measure_unasked(ask: Ask, count: int) -> dict[str, float]:
    """Negative prompt -> mean levels that pictures of a bare field are off the nearest of the
    drawer's, when it names what nobody has asked for."""
    _, bare = truths_of("tree", "field", "day", Random(_SEED))
    seen = {}
    for negative in _UNASKED:
        pictures = [ask("a field by day", negative=negative, seed=seed) for seed in range(count)]
        seen[negative] = float(np.mean([off_by(picture, bare) for picture in pictures]))
    return seen


def measure_days(ask: Ask, count: int) -> dict[str, float]:
    """Negative prompt -> share of pictures that are by day, as the prompt says."""
    seen = {}
    for negative in _BESIDE_A_HOUSE:
        asked = partial(ask, "a red house on a field by day", negative=negative)
        seen[negative] = _share([time_of(asked(seed=seed)) == "day" for seed in range(count)])
    return seen


def _share(answers: list[bool]) -> float:
    return float(np.mean(answers))


def measure_strengths(
    ask: Ask, count: int, size: int, into_night: str
) -> dict[float, tuple[float, float]]:
    """Strength -> mean change in levels, and the share of pictures that follow the prompt."""
    rng = Random(_SEED)
    scenes = [random_landscape(rng, "day", rng.choice(("field", "lake"))) for _ in range(count)]
    seen = {}
    for strength in _STRENGTHS:
        changes, follows = [], []
        for seed, scene in enumerate(scenes):
            before = np.asarray(paint(scene, size, size, oversampling=2), dtype=np.float32)
            after = ask(into_night, images=(encoded(before),), strength=strength, seed=seed)
            changes.append(float(np.abs(after - before).mean()))
            follows.append(time_of(after) == "night")
        seen[strength] = (float(np.mean(changes)), float(np.mean(follows)))
    return seen


def measure_guidances(ask: Ask, count: int) -> dict[float, float]:
    """Guidance -> share of single shapes that are right in colour, ground and kind."""
    seen = {}
    for guidance in _GUIDANCES:
        right = []
        for seed, scene in zip(range(count), single_shapes(Random(_SEED)), strict=False):
            [shape] = scene.shapes
            prompt = f"a {shape.colour} {shape.kind} on a {scene.ground} background"
            picture = ask(prompt, guidance=guidance, seed=seed)
            found = (colour_of(picture), kind_of(picture), ground_of(picture))
            right.append(found == (shape.colour, shape.kind, scene.ground))
        seen[guidance] = float(np.mean(right))
    return seen


def asking(easel: Easel, steps: int, guidance: float, size: int, *, is_editor: bool) -> Ask:
    """Draws a prompt with these settings, but those that a call names."""

    def ask(
        prompt: str,
        *,
        negative: str = "",
        images: tuple[bytes, ...] = (),
        strength: float = 1.0,
        guidance: float = guidance,
        seed: int = 0,
    ) -> Pixels:
        params = euler((size, size), steps, guidance, is_editor=is_editor, seed=seed)
        params = replace(params, strength=strength)
        request = GenerationRequest(
            prompt=prompt, negative_prompt=negative, images=images, params=params
        )
        return easel.draw(request)

    return ask


def main() -> None:
    """Draw, measure, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=tuple(_MODELS), default=TURBO)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    given = parser.parse_args()
    family, into_night = _MODELS[given.model]
    easel = Easel(family, given.weights / given.model)
    is_editor = given.model == EDITOR
    ask = asking(easel, given.steps, given.guidance, given.size, is_editor=is_editor)
    for thing, shares in measure_negatives(ask, given.count).items():
        named, refused, by_day = (100 * share for share in shares)
        print(f"{thing:10} {named:5.1f} % named, {refused:5.1f} % refused, {by_day:5.1f} % by day")
    for time, (anyway, refused) in measure_refusals(ask, given.count).items():
        print(f"{time:10} {100 * anyway:5.1f} % unsaid, {100 * refused:5.1f} % refused")
    for negative, levels in measure_unasked(ask, given.count).items():
        print(f"a bare field is {levels:4.1f} levels off, told not to be {negative or 'anything'}")
    for negative, by_day in measure_days(ask, given.count).items():
        print(f"a house by day is by day {100 * by_day:5.1f} %, told not to be {negative}")
    strengths = measure_strengths(ask, given.count, given.size, into_night)
    for strength, (change, follows) in strengths.items():
        print(f"strength {strength:4} changes {change:5.1f} levels; night {100 * follows:5.1f} %")
    for guidance, right in measure_guidances(ask, given.count).items():
        print(f"guidance {guidance:4} shapes all right {100 * right:5.1f} %")
    easel.close()


if __name__ == "__main__":
    main()
