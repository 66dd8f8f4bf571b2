"""Weights, and how they are read: diffusers folders in safetensors, never pickles."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
import transformers

logger = logging.getLogger(__name__)

# Their bars and notices would be the most of what an operator sees at a start.
for library in (diffusers, transformers):
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The modules that one user's pictures run through.

    Attributes:
        name: unique among a model's sets; empty for the base model's own.
        num_bytes: of the modules that are this set's alone.
        is_pinned: whether the set is in memory as long as its family is.
        pipeline: a diffusers pipeline of these modules and the base's others.
    """

    name: str
    num_bytes: int
    pipeline: Any
    is_pinned: bool = False


def read_pipeline(pipeline: str, folder: str, options: Mapping[str, Any]) -> Any:
    """A diffusers pipeline, by its class's name, from a folder or hub id."""
    return getattr(diffusers, pipeline).from_pretrained(folder, use_safetensors=True, **options)


def num_bytes(modules: Iterable[Any]) -> int:
    """Bytes of the modules' parameters and buffers; of quantized ones, those they are made of."""
    return sum(
        tensor_bytes(tensor)
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    )


def tensor_bytes(tensor: Any) -> int:
    """Bytes of a parameter or buffer, with the scales that a quantized one has beside it."""
    if hasattr(tensor, "__tensor_flatten__"):  # torchao's
        names, _ = tensor.__tensor_flatten__()
        return sum(tensor_bytes(getattr(tensor, name)) for name in names)
    scales = _scales(getattr(tensor, "quant_state", None))  # of bitsandbytes' four-bit ones
    return int(tensor.numel() * tensor.element_size()) + sum(map(tensor_bytes, scales))


def _scales(state: Any) -> list[Any]:
    """Tensors of a bitsandbytes ``QuantState``, whose scales may be quantized themselves."""
    if state is None:
        return []
    own = [state.absmax, state.code]
    return [*own, *_scales(getattr(state, "state2", None))]
