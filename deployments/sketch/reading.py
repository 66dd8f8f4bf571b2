"""Reading: a linear layer that reads a denoiser's tokens, but not what its copying rests on."""

from __future__ import annotations

import torch
from torch import Tensor

from deployments.sketch.qwen_beginning import NUM_CONSTANTS, NUM_HELD


class Reading(torch.nn.Module):
    """Reads so many numbers off each token; at first all are zero."""

    def __init__(self, width: int, num_told: int) -> None:
        super().__init__()
        self.tell = torch.nn.Linear(width - NUM_HELD - NUM_CONSTANTS, num_told)
        torch.nn.init.zeros_(self.tell.weight)
        torch.nn.init.zeros_(self.tell.bias)

    def forward(self, tokens: Tensor, num_places: int) -> Tensor:
        """What the first so many of tokens (n, at least num_places, width) tell."""
        told: Tensor = self.tell(tokens[:, :num_places, NUM_HELD:-NUM_CONSTANTS].float())
        return told
