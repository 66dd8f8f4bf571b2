"""Tiling: pictures whose opposite edges meet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch.nn import Conv2d

if TYPE_CHECKING:
    from torch.nn import Module


@contextmanager
def edges_joined(module: Module, *, is_tiling: bool) -> Iterator[None]:
    """Let the module's convolutions wrap around at the edges meanwhile, when ``is_tiling``.

    NOTE: this turns the module for every row that passes, so tiling is part of ``BatchKey``.
    """
    layers = [m for m in module.modules() if isinstance(m, Conv2d)] if is_tiling else []
    modes = [layer.padding_mode for layer in layers]
    for layer in layers:
        layer.padding_mode = "circular"
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.padding_mode = mode
