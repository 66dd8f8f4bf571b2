"""Weights, and how they are read: diffusers folders in safetensors, never pickles."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from deployments.errors import GenerationFailed

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


def read_personal(name: str, folder: str, base: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of ``base`` that a user's folder or hub id has, on the base's device.

    Args:
        name: of the weights, for the error.
        folder: may lack text encoders (a UNet alone was trained); never the UNet.
        base: component name -> the base model's module.
    Raises:
        GenerationFailed: the folder cannot be read or was trained from another base.
    """
    parts = {}
    for part, module in base.items():
        if part != "unet" and Path(folder).is_dir() and not (Path(folder) / part).is_dir():
            continue
        try:
            own = type(module).from_pretrained(
                folder, subfolder=part, dtype=module.dtype, use_safetensors=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            logger.warning("weights %s: %s of %s: %s", name, part, folder, error)
            raise GenerationFailed(f"weights {name!r} cannot be read: {part}") from error
        _refuse_other_shapes(name, part, own, module)
        parts[part] = own.to(module.device).eval()
    parts["unet"].to(memory_format=torch.channels_last)
    return parts


def num_bytes(modules: Iterable[Any]) -> int:
    """Bytes of the modules' parameters and buffers; of quantized ones, those they are made of."""
    return sum(
        _num_bytes(tensor)
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    )


def _num_bytes(tensor: Any) -> int:
    if not hasattr(tensor, "__tensor_flatten__"):
        return int(tensor.numel() * tensor.element_size())
    names, _ = tensor.__tensor_flatten__()
    return sum(_num_bytes(getattr(tensor, name)) for name in names)


def _refuse_other_shapes(name: str, part: str, own: Any, base: Any) -> None:
    """Raise unless both modules hold tensors of the same names and shapes."""
    theirs, ours = _shapes(own), _shapes(base)
    for tensor in sorted(theirs.keys() | ours.keys()):
        if theirs.get(tensor) != ours.get(tensor):
            raise GenerationFailed(
                f"weights {name!r} do not fit this model: {part} has {tensor} of shape "
                f"{theirs.get(tensor)}, the base has {ours.get(tensor)}"
            )


def _shapes(module: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
