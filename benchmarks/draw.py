"""Draw: a picture per prompt and seed by an embedded model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.easel import Easel, Pixels, euler
from deployments.sketch.assemble import EDITOR, first_noise, open_pipeline
from deployments.types import GenerationRequest

Draw = Callable[[str, int], Pixels]

WEIGHTS: Final = Path("deployments/sketch/weights")


@contextmanager
def opened(folder: Path, steps: int, guidance: float, size: tuple[int, int]) -> Iterator[Draw]:
    """Draws by a folder's stock pipeline; the editor, which has none for prompts alone, by its
    engine. It is the one whose folder is named ``EDITOR``."""
    if folder.name != EDITOR:
        yield _drawing(folder, steps, guidance, size)
        return
    with closing(Easel("qwen-image", folder)) as easel:

        def draw(prompt: str, seed: int) -> Pixels:
            params = euler(size, steps, guidance, is_editor=True, seed=seed)
            return easel.draw(GenerationRequest(prompt=prompt, images=(), params=params))

        yield draw


def _drawing(folder: Path, steps: int, guidance: float, size: tuple[int, int]) -> Draw:
    pipeline = open_pipeline(folder)

    def draw(prompt: str, seed: int) -> Pixels:
        pictures = pipeline(
            prompt,
            width=size[0],
            height=size[1],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=first_noise(seed),
            output_type="np",
        ).images
        return np.asarray(pictures[0] * 255, dtype=np.float32)

    return draw
