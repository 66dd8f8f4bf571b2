"""Captioner: a transformers checkpoint that tells what is on a picture, such as BLIP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from deployments.families.checkpoint import num_bytes

#: Says of each token, counted from 1, whether to go on after it.
GoOn = Callable[[int], bool]


class Captioner:
    """An image-to-text model with its processor.

    Args:
        folder: a transformers folder in safetensors, or a hub id.
        device, dtype: as torch names them.
        max_new_tokens: the longest text.
        num_beams: texts that are followed side by side; 1 is greedy.
    """

    def __init__(
        self, folder: str, device: str, dtype: str, *, max_new_tokens: int, num_beams: int
    ) -> None:
        self.max_new_tokens = max_new_tokens
        self._num_beams = num_beams
        self._processor = transformers.AutoProcessor.from_pretrained(folder)
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, dtype=getattr(torch, dtype), use_safetensors=True
        )
        self._model = model.to(device).eval()

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights."""
        return num_bytes([self._model])

    def caption(self, image: Image.Image, go_on: GoOn) -> str:
        """What is on an RGB picture, in words; cut short once ``go_on`` says no."""
        inputs = self._processor(images=image, return_tensors="pt")
        inputs = inputs.to(self._model.device, self._model.dtype)
        tokens = self._model.generate(
            **inputs,
            max_new_tokens=self.max_new_tokens,
            num_beams=self._num_beams,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([_Listener(go_on)]),
        )
        text: str = self._processor.batch_decode(tokens, skip_special_tokens=True)[0]
        return text.strip()


class _Listener(StoppingCriteria):  # type: ignore[misc]
    """Hears of every token."""

    def __init__(self, go_on: GoOn) -> None:
        self._go_on = go_on
        self._num_tokens = 0

    def __call__(self, input_ids: Tensor, _scores: Any, **_: Any) -> Tensor:
        self._num_tokens += 1
        stops = not self._go_on(self._num_tokens)
        return torch.full((len(input_ids),), stops, dtype=torch.bool, device=input_ids.device)
