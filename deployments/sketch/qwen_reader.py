"""QwenReader: the texts of a Qwen-Image-Edit, many at once, as its pipelines give them out.

The embedded language model is blind: its vision tower says nothing of any picture, which the
denoiser sees itself. So pictures are so many empty tokens here, and the tower need not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from deployments.families.qwen_image_text import EDIT, PICTURE, TEXT_TO_IMAGE

_IMAGE_TOKEN: Final = "<|image_pad|>"

#: Rows and columns of a picture's tokens.
Grid = tuple[int, int]


@torch.no_grad()
def blind(model: Any) -> None:
    """Let the vision tower of a Qwen2.5-VL say nothing."""
    last = model.model.visual.merger.mlp[-1]
    last.weight.zero_()
    last.bias.zero_()


@dataclass(frozen=True, slots=True)
class QwenReader:
    """A tokenizer and a Qwen2.5-VL whose tower is blind."""

    tokenizer: Any
    model: Any

    @classmethod
    def learning(cls, folder: Path, device: torch.device) -> QwenReader:
        """That of a Qwen-Image-Edit's folder, to be trained in float32, but for its tower."""
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder / "text_encoder", dtype=torch.float32
        ).to(device)
        model.model.visual.requires_grad_(False)
        return cls(AutoTokenizer.from_pretrained(folder / "tokenizer"), model)

    def read(
        self, texts: Sequence[str], pictures: Sequence[Sequence[Grid]]
    ) -> tuple[Tensor, Tensor]:
        """Last hidden states (n, tokens, width) without templates, and which of them are text.

        Args:
            pictures: for each text the grids of what it speaks of; none, for text-to-image.
        """
        template = EDIT if pictures[0] else TEXT_TO_IMAGE
        rows = [
            template.text.format(_shown(grids) + text)
            for text, grids in zip(texts, pictures, strict=True)
        ]
        batch = self.tokenizer(rows, padding=True, padding_side="right", return_tensors="pt")
        ids, mask = (batch[name].to(self.model.device) for name in ("input_ids", "attention_mask"))
        seen = _seen(pictures, ids.device)
        hidden: Tensor = self.model.model(
            input_ids=ids,
            attention_mask=mask,
            mm_token_type_ids=(ids == self.model.config.image_token_id).int(),
            image_grid_thw=seen,
            mm_encoder_outputs=self._unseen(seen),
            use_cache=False,
        ).last_hidden_state
        return hidden[:, template.num_dropped :], mask[:, template.num_dropped :].bool()

    def _unseen(self, seen: Tensor | None) -> dict[str, Any]:
        if seen is None:
            return {}
        counts = (seen.prod(dim=1) // 4).tolist()
        width = self.model.config.text_config.hidden_size
        nothing = [torch.zeros(count, width, device=seen.device) for count in counts]
        return {"image": SimpleNamespace(pooler_output=nothing)}


def _shown(grids: Sequence[Grid]) -> str:
    return "".join(
        PICTURE.format(k).replace(_IMAGE_TOKEN, _IMAGE_TOKEN * (rows * columns))
        for k, (rows, columns) in enumerate(grids, 1)
    )


def _seen(pictures: Sequence[Sequence[Grid]], device: torch.device) -> Tensor | None:
    """Grids of the tower's patches, of which two by two make a token."""
    grids = [(1, 2 * rows, 2 * columns) for grids in pictures for rows, columns in grids]
    return torch.tensor(grids, device=device) if grids else None
