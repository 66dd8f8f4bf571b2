"""Fitter: adds LoRAs to a module's layers, each to the rows that asked for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

from torch.nn import Conv2d
from torch.nn.functional import conv2d, linear

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from deployments.families.lora import Lora
    from deployments.families.lora_file import LowRank

#: What is added to a row, and how many times.
Adapters: TypeAlias = tuple[tuple["Lora", float], ...]


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring rows of a forward pass of ``num_rows``; 0 stands for however many, all of them.

    NOTE: a layer may see all rows several times over, one block after the other: the modulation of
    a Qwen-Image with ``zero_cond_t`` does.
    """

    start: int
    stop: int
    num_rows: int

    def within(self, length: int) -> Iterator[slice]:
        """Where the rows are in an input of this length."""
        if self.num_rows == 0:
            yield slice(None)
            return
        for first in range(0, length, self.num_rows):
            yield slice(first + self.start, first + self.stop)


@dataclass(frozen=True, slots=True)
class Term:
    """One LoRA's share in one layer's output, for neighbouring rows of a forward pass."""

    span: Span
    low: LowRank
    weight: float

    def add_to(self, layer: Any, inputs: Tensor, outputs: Tensor) -> None:
        """Add ``weight * up(down(inputs))`` to the rows of ``outputs``, in place."""
        for rows in self.span.within(len(inputs)):
            own = inputs[rows]
            if isinstance(layer, Conv2d):
                # NOTE: the layer's own way to convolve, for it pads as the layer does at this
                # moment: around the edges while a picture is tiled.
                inner = layer._conv_forward(own, self.low.down, None)
                added = conv2d(inner, self.low.up)
            else:
                added = linear(linear(own, self.low.down), self.low.up)
            outputs[rows].add_(added, alpha=self.weight)


class Fitter:
    """Puts LoRAs on layers for a while. Remembers, of modules that live, where their layers are."""

    def __init__(self) -> None:
        self._layers: WeakKeyDictionary[Module, dict[str, Module]] = WeakKeyDictionary()

    @contextmanager
    def fitted(self, module: Module, part: str, rows: Sequence[Adapters]) -> Iterator[None]:
        """Let each row of what passes through the module be adapted by LoRAs of its own meanwhile.

        The module's own weights stay as they are, so rows with different LoRAs, and with none,
        share a forward pass. Rows are the first axis of every layer's input.

        Args:
            part: which part of the LoRAs' layers the module is.
            rows: the adapters of each row; a single entry stands for all rows, however many.
        """
        terms: dict[str, list[Term]] = {}
        for span, adapters in _spans(rows):
            for lora, weight in adapters:
                for name, low in lora.layers[part].items():
                    terms.setdefault(name, []).append(Term(span, low, weight))
        handles = [
            self._layer(module, name).register_forward_hook(partial(_add, own))
            for name, own in terms.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def all_fitted(self, modules: Mapping[str, Module], adapters: Adapters) -> Iterator[None]:
        """Let several modules, by their parts, be adapted meanwhile, whatever passes."""
        with ExitStack() as stack:
            for part, module in modules.items():
                stack.enter_context(self.fitted(module, part, [adapters]))
            yield

    def _layer(self, module: Module, name: str) -> Module:
        # NOTE: a look-up by the names on the way takes longer than all the rest of a fitting.
        known = self._layers.setdefault(module, {})
        if name not in known:
            known[name] = module.get_submodule(name)
        return known[name]


def _spans(rows: Sequence[Adapters]) -> Iterator[tuple[Span, Adapters]]:
    """Neighbouring rows of equal adapters, together."""
    if len(set(rows)) == 1:
        yield Span(0, 0, 0), rows[0]
        return
    start = 0
    for adapters, group in groupby(rows):
        end = start + len(list(group))
        yield Span(start, end, len(rows)), adapters
        start = end


def _add(terms: Sequence[Term], layer: Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
    for term in terms:
        term.add_to(layer, inputs[0], outputs)
