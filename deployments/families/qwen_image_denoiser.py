"""Denoiser: one forward pass of Qwen-Image's transformer over rows of different requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from deployments.engine.state import BatchKey
from deployments.families.flow_schedulers import NUM_TRAIN_TIMESTEPS
from deployments.families.qwen_image_text import Conditioning, bucket, padded

if TYPE_CHECKING:
    from torch import Tensor

#: Latent positions of one token's side.
PATCH: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiserRow:
    """One line of the batch: a picture, what it looks at and one of its guidance branches.

    Attributes:
        latents: (1, channels, height, width), sides even.
        references: latents of the pictures it looks at, clean, of any sizes.
        branch: its text.
        timestep: 0..1000.
        guidance: scale for models that take it as an input, else None.
    """

    latents: Tensor
    references: tuple[Tensor, ...]
    branch: Conditioning
    timestep: Tensor
    guidance: float | None = None

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Frames, rows and columns of tokens, of the picture and of its references."""
        return [grid(latents) for latents in (self.latents, *self.references)]


def batch_key(
    weights: str,
    branches: Sequence[Conditioning],
    shape: tuple[int, ...],
    references: Sequence[Tensor],
) -> BatchKey:
    """Rows share a forward when the shapes of all their pictures are equal, in order.

    And when their texts are of the same bucket, which bounds what the shorter ones are padded by.
    """
    length = bucket(max((branch.num_tokens for branch in branches), default=0))
    return BatchKey(weights, shape, (*(grid(picture) for picture in references), (length,)))


def denoise(transformer: Any, rows: Sequence[DenoiserRow]) -> Sequence[Tensor]:
    """Each row's flow, (1, tokens, patch), float32; all rows have equal ``shapes``.

    Texts are padded to the longest and masked, timesteps are each row's own: a row comes out as
    it does alone. Rotary positions are of the first row's shapes, so others must not differ.
    """
    device, dtype = rows[0].latents.device, transformer.dtype
    pictures = [torch.cat([pack(p) for p in (row.latents, *row.references)], dim=1) for row in rows]
    text, mask = padded([row.branch for row in rows])
    timesteps = torch.stack([row.timestep.float() for row in rows]).to(device)
    flows: Tensor = transformer(
        hidden_states=torch.cat(pictures).to(dtype),
        timestep=timesteps / NUM_TRAIN_TIMESTEPS,
        guidance=_guidance(rows, device),
        encoder_hidden_states=text.to(device, dtype),
        encoder_hidden_states_mask=None if mask is None else mask.to(device),
        img_shapes=[row.shapes for row in rows],
        return_dict=False,
    )[0]
    _, height, width = rows[0].shapes[0]
    return torch.split(flows[:, : height * width].to(device).float(), 1)


def guided(branches: Sequence[Conditioning], flows: Sequence[Tensor], scale: float) -> Tensor:
    """Classifier-free guidance, each token then as long as it was (``QwenImagePipeline``).

    With several parts, n is the weighted sum of the negative ones' flows, and the result is
    ``n + scale * sum(weight * (c - n))`` over the others' flows c, as long as their mean.
    """
    rows = list(zip(branches, flows, strict=True))
    positive = [(branch.weight, flow) for branch, flow in rows if not branch.is_negative]
    negative = [(branch.weight, flow) for branch, flow in rows if branch.is_negative]
    whole = sum(weight for weight, _ in positive)
    if not negative:
        return _sum([(weight / whole, flow) for weight, flow in positive])
    away = _sum(negative)
    combined = away + scale * _sum([(weight, flow - away) for weight, flow in positive])
    mean = _sum([(weight / (whole or 1.0), flow) for weight, flow in positive])
    return combined * (_length(mean) / _length(combined))


def grid(latents: Tensor) -> tuple[int, int, int]:
    """Frames, rows and columns of the tokens of one picture's latents."""
    return 1, latents.shape[-2] // PATCH, latents.shape[-1] // PATCH


def num_tokens(latents: Tensor) -> int:
    """Tokens of one picture's latents."""
    _, rows, columns = grid(latents)
    return rows * columns


def pack(latents: Tensor) -> Tensor:
    """(n, channels, height, width) as tokens (n, height / 2 * width / 2, channels * 4)."""
    n, channels, height, width = latents.shape
    patches = latents.view(n, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(n, -1, channels * PATCH * PATCH)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens as latents (n, channels, height, width): the way back of ``pack``."""
    n, _, size = tokens.shape
    patches = tokens.view(n, height // PATCH, width // PATCH, size // PATCH**2, PATCH, PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(n, -1, height, width)


def _guidance(rows: Sequence[DenoiserRow], device: torch.device) -> Tensor | None:
    scales = [row.guidance for row in rows if row.guidance is not None]
    assert len(scales) in (0, len(rows))
    return torch.tensor(scales, device=device, dtype=torch.float32) if scales else None


def _length(tokens: Tensor) -> Tensor:
    length: Tensor = torch.norm(tokens, dim=-1, keepdim=True)
    return length


def _sum(weighted: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Of tensors times their weights."""
    first, *others = (flow if weight == 1 else weight * flow for weight, flow in weighted)
    return sum(others, start=first)
