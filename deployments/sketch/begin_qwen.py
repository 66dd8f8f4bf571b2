"""Begins the embedded Qwen-Image-Edit, for its trainers to go on from.

    python -m deployments.sketch.begin_qwen FOLDER [--seed 0]

FOLDER becomes an ordinary diffusers folder of fresh modules with what ``qwen_thumbnails``,
``qwen_beginning`` and ``qwen_reader.blind`` give them.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

import torch

from deployments.sketch.captions import captions
from deployments.sketch.edits import random_edit
from deployments.sketch.qwen_beginning import set_beginning
from deployments.sketch.qwen_image import (
    QwenSizes,
    qwen_image_edit,
    qwen_tokenizer,
    write_processor,
)
from deployments.sketch.qwen_reader import blind
from deployments.sketch.qwen_thumbnails import set_thumbnails
from deployments.sketch.wording import captioned

#: Captions and instructions that the tokenizer learns from, besides the fixed ones.
_NUM_TEXTS: Final = 10_000
#: Two heads that copy and four that tell places make a first layer.
_SIZES: Final = QwenSizes(layers=6, heads=6)


def begin(folder: Path, seed: int) -> None:
    """Write the folder; the same seed, the same files."""
    torch.manual_seed(seed)
    tokenizer = qwen_tokenizer(itertools.chain(captions(), _texts(Random(seed))))
    pipeline = qwen_image_edit(tokenizer, _SIZES)
    set_thumbnails(pipeline.vae)
    set_beginning(pipeline.transformer)
    blind(pipeline.text_encoder)
    for module in (pipeline.vae, pipeline.transformer, pipeline.text_encoder):
        module.half()
    pipeline.save_pretrained(folder, safe_serialization=True)
    write_processor(tokenizer, folder)


def _texts(rng: Random) -> Iterator[str]:
    for _ in range(_NUM_TEXTS):
        yield captioned(rng)[1]
        yield random_edit(rng).instruction


def main() -> None:
    """Read the command line and begin."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    begin(given.folder, given.seed)


if __name__ == "__main__":
    main()
