"""Comprehension: what a lesson asks a causal language model after the texts that it has read."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Final

import torch
from torch import Tensor

from deployments.sketch.answering import answering_errors, answering_layer
from deployments.sketch.edits import Edit
from deployments.sketch.meaning import EDIT_QUESTIONS, QUESTIONS, answers, edit_answers
from deployments.sketch.scenes import Scene

#: Tokens after the text: its end, and the beginning of an answer.
_NUM_LAST: Final = 5


class Comprehension(torch.nn.Module):
    """One linear layer for captions' questions of ``meaning``, one for instructions'; it is not
    part of the model."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.captions: Any = answering_layer(width, QUESTIONS)
        self.instructions: Any = answering_layer(width, EDIT_QUESTIONS)
        for layer in (self.captions, self.instructions):
            # Else the first steps would have the model make sense of a random layer.
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)

    def scene_errors(self, ends: Tensor, scenes: Sequence[Scene]) -> Tensor:
        """(n,): how wrong it is what is read off ``random_ends`` (n, width) of captions."""
        return answering_errors(self.captions(ends), [answers(of) for of in scenes], QUESTIONS)

    def edit_errors(self, ends: Tensor, edits: Sequence[Edit]) -> Tensor:
        """The same of instructions."""
        wanted = [edit_answers(edit.asks) for edit in edits]
        return answering_errors(self.instructions(ends), wanted, EDIT_QUESTIONS)


def random_ends(hidden: Tensor, mask: Tensor, rng: Random) -> Tensor:
    """(n, width): one of the last tokens of each text, where a causal model knows all of it.

    Args:
        hidden: hidden states, (n, tokens, width); the templates of ``QwenReader`` alone are more
            than ``_NUM_LAST`` tokens.
        mask: which of them are text, padded on the right, (n, tokens).
    """
    back = [rng.randint(1, _NUM_LAST) for _ in range(len(hidden))]
    ends = mask.sum(dim=1) - torch.tensor(back, device=hidden.device)
    return hidden[torch.arange(len(hidden), device=hidden.device), ends]
