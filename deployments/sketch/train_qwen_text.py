"""Trains the language model of the embedded Qwen-Image-Edit to tell what instructions say.

    python -m deployments.sketch.train_qwen_text FOLDER [--minutes 8] [--seed 0]

FOLDER is a Qwen-Image-Edit that ``begin_qwen`` has written. As ``train_text_encoder``, but that a
causal model can only know at the end of a text: from any token after a caption or an instruction,
one linear layer shall answer all questions of ``meaning``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import torch
from torch import Tensor

from deployments.sketch.command import command_line, read
from deployments.sketch.comprehension import Comprehension, random_ends
from deployments.sketch.edits import random_edit
from deployments.sketch.lesson import Lesson, pick_device, save_first
from deployments.sketch.qwen_reader import Grid, QwenReader
from deployments.sketch.wording import captioned

_BATCH: Final = 48
#: Share of the batches that are instructions; the others are captions.
_INSTRUCTING: Final = 0.55
#: Grids of the pictures' tokens; small ones stand for all, as the model is blind.
_GRIDS: Final[tuple[Grid, ...]] = ((1, 1), (2, 2), (2, 3), (14, 14), (13, 15))


def teach(folder: Path, minutes: float, seed: int) -> None:
    """Train for some minutes and write the model."""
    torch.manual_seed(seed)
    rng = Random(seed)
    reader = QwenReader.learning(folder, pick_device())
    model = reader.model
    asking = Comprehension(model.config.text_config.hidden_size).to(model.device)

    def loss(_progress: float) -> Tensor:
        errors = _instruction_errors if rng.random() < _INSTRUCTING else _caption_errors
        return errors(reader, asking, rng).mean()

    lesson = Lesson([model, asking], minutes=minutes, rate=2e-2, memory=0.99)
    lesson.run(loss, partial(save_first, folder / "text_encoder"))


def _caption_errors(reader: QwenReader, asking: Comprehension, rng: Random) -> Tensor:
    scenes, texts = zip(*(captioned(rng) for _ in range(_BATCH)), strict=True)
    ends = random_ends(*reader.read(texts, [()] * _BATCH), rng)
    return asking.scene_errors(ends, scenes)


def _instruction_errors(reader: QwenReader, asking: Comprehension, rng: Random) -> Tensor:
    edits = [random_edit(rng) for _ in range(_BATCH)]
    grids = rng.choices(_GRIDS, (8, 8, 8, 1, 1))
    texts = [edit.instruction for edit in edits]
    pictures = [grids * len(edit.before) for edit in edits]
    ends = random_ends(*reader.read(texts, pictures), rng)
    return asking.edit_errors(ends, edits)


def main() -> None:
    """Read the command line and teach."""
    given = read(command_line(__doc__, minutes=8))
    teach(given.folder, given.minutes, given.seed)


if __name__ == "__main__":
    main()
