"""Answering: a linear layer that reads the answers to ``meaning``'s questions off hidden states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

Questions: TypeAlias = Mapping[str, Sequence[str]]


def answering_layer(width: int, questions: Questions) -> torch.nn.Linear:
    """From hidden states (n, width) to a logit for each answer, and for none, of each question."""
    return torch.nn.Linear(width, sum(_sizes(questions)))


def answering_errors(
    logits: Tensor, answered: Sequence[Sequence[int]], questions: Questions
) -> Tensor:
    """(n,): mean cross entropy over the questions; ``answered`` are n rows of answers, as
    ``meaning.answers``."""
    wanted = torch.tensor(answered, device=logits.device)
    parts = torch.split(logits, _sizes(questions), dim=1)
    errors = [
        cross_entropy(part, wanted[:, index], reduction="none") for index, part in enumerate(parts)
    ]
    return torch.stack(errors).mean(dim=0)


def _sizes(questions: Questions) -> list[int]:
    return [1 + len(choices) for choices in questions.values()]
