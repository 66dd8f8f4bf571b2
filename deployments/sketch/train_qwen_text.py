"""Trains the language model of the embedded Qwen-Image-Edit to tell what instructions say.

    python -m deployments.sketch.train_qwen_text FOLDER [--minutes 8] [--seed 0]

FOLDER is a Qwen-Image-Edit that ``begin_qwen`` has written. As ``train_text_encoder``, but that a
causal model can only know at the end of a text: from any token after a caption or an instruction,
one linear layer shall answer all questions of ``meaning``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import torch
from torch import Tensor
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from deployments.sketch.answering import answering_layer, answering_loss
from deployments.sketch.command import command_line, read
from deployments.sketch.edits import random_edit
from deployments.sketch.lesson import Lesson, pick_device, save_first
from deployments.sketch.meaning import EDIT_QUESTIONS, QUESTIONS, answers, edit_answers
from deployments.sketch.qwen_reader import Grid, QwenReader
from deployments.sketch.wording import captioned

_BATCH: Final = 48
#: Share of the batches that are instructions; the others are captions.
_INSTRUCTING: Final = 0.55
#: Tokens after the text: its end, and the beginning of an answer.
_NUM_LAST: Final = 5
#: Grids of the pictures' tokens; small ones stand for all, as the model is blind.
_GRIDS: Final[tuple[Grid, ...]] = ((1, 1), (2, 2), (2, 3), (14, 14), (13, 15))


def teach(folder: Path, minutes: float, seed: int) -> None:
    """Train for some minutes and write the model."""
    torch.manual_seed(seed)
    rng = Random(seed)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder / "text_encoder", dtype=torch.float32
    ).to(pick_device())
    model.model.visual.requires_grad_(False)
    width = model.config.text_config.hidden_size
    heads = torch.nn.ModuleList(
        answering_layer(width, questions) for questions in (QUESTIONS, EDIT_QUESTIONS)
    ).to(model.device)
    reader = QwenReader(tokenizer, model)

    def loss(_progress: float) -> Tensor:
        if rng.random() < _INSTRUCTING:
            hidden, wanted = _instructions(reader, rng)
            return answering_loss(heads[1](hidden), wanted, EDIT_QUESTIONS)
        hidden, wanted = _captions(reader, rng)
        return answering_loss(heads[0](hidden), wanted, QUESTIONS)

    lesson = Lesson([model, heads], minutes=minutes, rate=2e-2, memory=0.99)
    lesson.run(loss, partial(save_first, folder / "text_encoder"))


def _captions(reader: QwenReader, rng: Random) -> tuple[Tensor, list[list[int]]]:
    scenes, texts = zip(*(captioned(rng) for _ in range(_BATCH)), strict=True)
    return _ends(reader, texts, [()] * _BATCH, rng), [answers(scene) for scene in scenes]


def _instructions(reader: QwenReader, rng: Random) -> tuple[Tensor, list[list[int]]]:
    edits = [random_edit(rng) for _ in range(_BATCH)]
    grids = rng.choices(_GRIDS, (8, 8, 8, 1, 1))
    pictures = [grids * len(edit.before) for edit in edits]
    texts = [edit.instruction for edit in edits]
    return _ends(reader, texts, pictures, rng), [edit_answers(edit.asks) for edit in edits]


def _ends(
    reader: QwenReader, texts: Sequence[str], pictures: Sequence[Sequence[Grid]], rng: Random
) -> Tensor:
    """(n, width): one of the last tokens of each."""
    hidden, mask = reader.read(texts, pictures)
    lengths = mask.sum(dim=1)
    back = torch.tensor([rng.randint(1, _NUM_LAST) for _ in texts], device=lengths.device)
    return hidden[torch.arange(len(hidden), device=hidden.device), lengths - back]


def main() -> None:
    """Read the command line and teach."""
    given = read(command_line(__doc__, minutes=8))
    teach(given.folder, given.minutes, given.seed)


if __name__ == "__main__":
    main()
