"""PlainAttention: how lessons attend on a processor, in the precision that autocast gives."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


class PlainAttention(TorchFunctionMode):
    """Within it attention is two products and a softmax.

    A processor's fused attention takes three times as long in bfloat16, most of it on the way back;
    in float32 it is the faster one.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Attend plainly; call everything else."""
        if function is scaled_dot_product_attention:
            return _attend(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    assert dropout_p == 0.0
    assert not is_causal
    assert not enable_gqa
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query * scale) @ key.transpose(-1, -2)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    attended: Tensor = scores.softmax(dim=-1) @ value
    return attended


def plain_attention(device: torch.device) -> AbstractContextManager[Any]:
    """``PlainAttention`` on a processor, nothing else on a GPU."""
    return PlainAttention() if device.type == "cpu" else nullcontext()
