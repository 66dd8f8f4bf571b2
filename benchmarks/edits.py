"""How many edits of the embedded editor are done, and how much they change beside.

    python -m benchmarks.edits [--count 12] [--steps 8] [--guidance 1] [--size 512x512]
                               [--weights deployments/sketch/weights/qwen-image-edit] [--sheet FILE]
                               [--kinds reshape ...]

Scenes, instructions and truths are the drawer's, of seeds that no model was trained on. An edit is
done when what should change is nearer to the truth than to the picture before. Where a thing is to
be added nobody says where: there, something of its colours must have come that was not there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
from PIL import Image

from benchmarks.draw import WEIGHTS
from benchmarks.easel import Easel, Pixels, encoded, euler
from deployments.engine.device import usable_cores
from deployments.sketch.edits import Edit, random_edit
from deployments.sketch.meaning import EDITS
from deployments.sketch.painter import paint
from deployments.types import GenerationRequest

#: What scenes are drawn from; training counts from 0.
_SEED: Final = 2_000_003
#: Levels by which a channel of a pixel has changed.
_CHANGED: Final = 40
_CELL: Final = 192


@dataclass(frozen=True, slots=True)
class Trial:
    """One edit: what was there, what should be, what is, and the seconds that it took."""

    edit: Edit
    before: tuple[Pixels, ...]
    truth: Pixels
    seen: Pixels
    seconds: float

    @property
    def is_done(self) -> bool:
        """Whether the picture shows the edit."""
        first = self.before[0]
        mask = np.abs(self.truth - first).max(axis=-1) > _CHANGED
        if self.edit.asks["edit"] != "add":
            return _distance(self.seen, self.truth, mask) < _distance(self.seen, first, mask)
        came = np.abs(self.seen - first).max(axis=-1) > _CHANGED
        if came.sum() < 0.3 * mask.sum():
            return False
        colour = self.seen[came].mean(axis=0)
        wanted, old = self.truth[mask].mean(axis=0), first[mask].mean(axis=0)
        return bool(np.linalg.norm(colour - wanted) < np.linalg.norm(colour - old))

    @property
    def stray(self) -> float:
        """Mean levels by which what should stay has changed."""
        if self.edit.asks["edit"] == "add":
            return float(np.median(np.abs(self.seen - self.before[0])))
        kept = np.abs(self.truth - self.before[0]).max(axis=-1) <= _CHANGED
        return _distance(self.seen, self.truth, kept)


class Editor:
    """The embedded editor in an engine of its own."""

    def __init__(self, weights: Path, steps: int, guidance: float, size: tuple[int, int]) -> None:
        self._easel = Easel("qwen-image", weights)
        self._size = size
        self._params = euler(size, steps, guidance, is_editor=True, seed=1)

    def try_out(self, edit: Edit) -> Trial:
        """One edit of pictures that the drawer draws."""
        before = tuple(self._painted(scene) for scene in edit.before)
        images = tuple(encoded(picture) for picture in before)
        request = GenerationRequest(prompt=edit.instruction, images=images, params=self._params)
        began = time.perf_counter()
        seen = self._easel.draw(request)
        seconds = time.perf_counter() - began
        return Trial(edit, before, self._painted(edit.after), seen, seconds)

    def close(self) -> None:
        """Stop its engine."""
        self._easel.close()

    def _painted(self, scene: Any) -> Pixels:
        return np.asarray(paint(scene, *self._size, oversampling=2), dtype=np.float32)


def _distance(one: Pixels, other: Pixels, mask: Any) -> float:
    return float(np.abs(one - other)[mask].mean()) if mask.any() else 0.0


def edits(count: int, kinds: Sequence[str] = EDITS) -> list[Edit]:
    """So many of each kind; the same whatever other kinds are asked for."""
    dice = {kind: Random(f"{_SEED} {kind}") for kind in kinds}
    return [random_edit(dice[kind], kind) for kind in kinds for _ in range(count)]


def sheet(trials: list[Trial], columns: int) -> Image.Image:
    """Before, after and truth of each, side by side."""
    rows = -(-len(trials) // columns)
    page = Image.new("RGB", (columns * 3 * _CELL + 8 * columns, rows * _CELL), (255, 255, 255))
    for place, trial in enumerate(trials):
        row, column = divmod(place, columns)
        for index, picture in enumerate((trial.before[-1], trial.seen, trial.truth)):
            image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
            image.thumbnail((_CELL - 2, _CELL - 2))
            page.paste(image, (column * (3 * _CELL + 8) + index * _CELL, row * _CELL))
    return page


def main() -> None:
    """Edit, measure, and print a line per kind of edit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--kinds", nargs="+", choices=EDITS, default=EDITS)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--weights", type=Path, default=WEIGHTS / "qwen-image-edit")
    parser.add_argument("--sheet", type=Path)
    given = parser.parse_args()
    width, height = map(int, given.size.split("x"))
    editor = Editor(given.weights, given.steps, given.guidance, (width, height))
    trials = [editor.try_out(edit) for edit in edits(given.count, given.kinds)]
    for kind in given.kinds:
        ours = [trial for trial in trials if trial.edit.asks["edit"] == kind]
        done = 100 * np.mean([trial.is_done for trial in ours])
        stray = np.mean([trial.stray for trial in ours])
        print(f"{kind:10} done {done:5.1f} % of {len(ours)}; other pixels {stray:.1f} levels off")
    seconds = np.median([trial.seconds for trial in trials])
    print(f"{seconds:.2f} s for an edit on {usable_cores()} cores")
    if given.sheet is not None:
        sheet(trials, 3).save(given.sheet)
    editor.close()


if __name__ == "__main__":
    main()
