"""Trains the text encoder to tell what captions say, before any picture is drawn from it.

    python -m deployments.sketch.train_text_encoder FOLDER [--minutes 5] [--seed 0]

FOLDER gets ``tokenizer`` and ``text_encoder`` as a Stable Diffusion 1 folder has them; they are
trained on if they exist. From the last hidden state at a caption's end, and at any padding after
it, one linear layer shall answer all questions of ``meaning``; so a denoiser finds there, in plain
sight, what to draw.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from deployments.sketch.answering import answering_errors, answering_layer
from deployments.sketch.captions import captions
from deployments.sketch.command import command_line, read
from deployments.sketch.lesson import Lesson, pick_device, save_first
from deployments.sketch.meaning import QUESTIONS, answers
from deployments.sketch.tokenizer import MAX_LENGTH, learn_tokenizer
from deployments.sketch.wording import captioned

WIDTH: Final = 128
NUM_LAYERS: Final = 3
_BATCH: Final = 96
#: Captions that the tokenizer learns from, besides the fixed ones.
_NUM_CAPTIONS: Final = 20_000


def text_config(tokenizer: Any, *, width: int = WIDTH, num_layers: int = NUM_LAYERS) -> Any:
    """A CLIP text encoder's configuration for our tokenizer."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=width,
        projection_dim=width,
        intermediate_size=4 * width,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
    )


def teach(folder: Path, minutes: float, seed: int) -> None:
    """Train for some minutes and write the encoder."""
    torch.manual_seed(seed)
    rng = Random(seed)
    if (folder / "text_encoder").is_dir():
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    else:
        tokenizer = learn_tokenizer(itertools.chain(captions(), _described(Random(0))))
        tokenizer.save_pretrained(folder / "tokenizer")
        encoder = CLIPTextModel(text_config(tokenizer))
    head = answering_layer(WIDTH, QUESTIONS)
    for module in (encoder, head):
        module.to(pick_device())
    lesson = Lesson([encoder, head], minutes=minutes, rate=3e-2, memory=0.99)
    lesson.run(
        lambda _progress: _loss(tokenizer, encoder, head, rng),
        partial(save_first, folder / "text_encoder"),
    )


def _described(rng: Random) -> Iterator[str]:
    return (captioned(rng)[1] for _ in range(_NUM_CAPTIONS))


def _loss(tokenizer: Any, encoder: Any, head: Any, rng: Random) -> Tensor:
    """Mean over the questions of the cross entropy at the end and at one padding after it."""
    scenes, texts = zip(*(captioned(rng) for _ in range(_BATCH)), strict=True)
    length = MAX_LENGTH if rng.random() < 0.2 else 40
    ids = tokenizer(
        list(texts),
        padding="max_length",
        truncation=True,
        max_length=length,
        return_tensors="pt",
    ).input_ids.to(encoder.device)
    hidden = encoder(ids).last_hidden_state
    ends = (ids == tokenizer.eos_token_id).int().argmax(dim=1)
    later = ends + (torch.rand(len(ends), device=ids.device) * (length - ends)).long()
    rows = torch.arange(len(ends), device=ids.device)
    logits = head(torch.cat([hidden[rows, ends], hidden[rows, later]]))
    wanted = [answers(scene) for scene in scenes] * 2
    return answering_errors(logits, wanted, QUESTIONS).mean()


def main() -> None:
    """Read the command line and teach."""
    given = read(command_line(__doc__, minutes=5))
    teach(given.folder, given.minutes, given.seed)


if __name__ == "__main__":
    main()
