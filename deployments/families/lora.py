"""Loras: the LoRAs that a model offers, those in memory, and what a request makes of them."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from deployments.errors import GenerationFailed, InvalidRequest
from deployments.families.lora_file import Convert, Layers, LowRank, read_layers
from deployments.types import Evicted

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

    from deployments.families.fitter import Adapters
    from deployments.types import LoraUse

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Lora:
    """One LoRA in memory, on the device and in the precision of the layers that it adapts."""

    name: str
    layers: Layers = field(repr=False)

    @property
    def num_bytes(self) -> int:
        """Bytes of its factors."""
        return sum(low.num_bytes for part in self.layers.values() for low in part.values())


class Loras:
    """Owns the LoRAs of one model: reads them when they are asked for, and keeps the last used.

    Who holds a ``Lora`` keeps it in memory; this keeps, besides, the last used one and as many
    before it as fit ``max_bytes``, and finds those that are in use although they left. Any thread
    may call.

    Args:
        files: name -> safetensors file. Each is checked against the modules here.
        modules: part -> the base model's module.
        convert: knows the forms of the model's family.
        fixed: name -> weight of those that every request has besides its own; they stay in memory.
        optional: names whose files may be of other models: those are left out, and logged.
        device: where the layers compute; None is where they are.
    Raises:
        ValueError: a file that is not optional cannot be read, or is of another model; or a fixed
            one is not there.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        modules: Mapping[str, Module],
        convert: Convert,
        *,
        max_bytes: int,
        fixed: Mapping[str, float] | None = None,
        optional: Iterable[str] = (),
        device: torch.device | None = None,
    ) -> None:
        self._modules = dict(modules)
        self._convert = convert
        self._max_bytes = max_bytes
        self._device = device
        self._lock = Lock()
        self._alive: WeakValueDictionary[str, Lora] = WeakValueDictionary()
        self._recent: OrderedDict[str, Lora] = OrderedDict()  # the least recently used first
        self._files = self._fitting(files, frozenset(optional))
        self._fixed = dict(fixed or {})
        if unknown := sorted(self._fixed.keys() - self._files.keys()):
            known = ", ".join(self.names) or "none"
            raise ValueError(f"fixed LoRA {unknown[0]!r} is not there; known: {known}")
        self._held = [self.get(name) for name in self._fixed]

    @property
    def names(self) -> tuple[str, ...]:
        """Names that requests may use, sorted."""
        return tuple(sorted(self._files))

    @property
    def num_bytes(self) -> int:
        """Bytes that LoRAs take in memory, in use and idle."""
        with self._lock:
            return sum(lora.num_bytes for lora in self._alive.values())

    def get(self, name: str) -> Lora:
        """The LoRA of this name, read if it is not in memory.

        Raises ``InvalidRequest`` for an unknown name, ``GenerationFailed`` when its file is gone.
        """
        if name not in self._files:
            known = ", ".join(self.names) or "none"
            raise InvalidRequest(f"unknown LoRA {name!r}; known: {known}", param="loras")
        with self._lock:
            lora = self._alive.get(name)
        lora = lora or self._read(name)
        with self._lock:
            # Another thread may have read it meanwhile: there is one of each name.
            lora = self._alive.setdefault(name, lora)
            self._recent[name] = lora
            self._recent.move_to_end(name)
            while len(self._recent) > 1 and self._num_kept() > self._max_bytes:
                self._recent.popitem(last=False)
        return lora

    def adapters(self, uses: Iterable[LoraUse], *, is_text: bool = False) -> Adapters:
        """What is added to the denoiser's rows of a request, or to the text encoders'.

        A LoRA that is named twice counts with the sum of its weights.
        """
        weights = dict(self._fixed)
        for use in uses:
            weights[use.name] = weights.get(use.name, 0.0) + (
                use.text_encoder_weight if is_text else use.weight
            )
        return tuple((self.get(name), weight) for name, weight in weights.items() if weight)

    def evict(self) -> Evicted:
        """Let go of all that no request uses."""
        with self._lock:
            kept = {name: lora.num_bytes for name, lora in self._recent.items()}
            self._recent.clear()
            gone = [name for name in kept if name not in self._alive]
        return Evicted(weights=tuple(gone), num_bytes=sum(kept[name] for name in gone))

    def _num_kept(self) -> int:
        return sum(lora.num_bytes for lora in self._recent.values())

    def _read(self, name: str) -> Lora:
        try:
            layers = read_layers(self._files[name], self._modules, self._convert)
        except ValueError as error:
            logger.warning("LoRA %s: %s", name, error)
            raise GenerationFailed(f"LoRA {name!r} cannot be read: {error}") from error
        return Lora(name, {part: self._placed(part, own) for part, own in layers.items()})

    def _placed(self, part: str, layers: dict[str, LowRank]) -> dict[str, LowRank]:
        """On the device and in the precision in which the layers compute."""
        module: Any = self._modules[part]
        placed, dtype = {}, module.dtype
        for name, low in layers.items():
            device = self._device or module.get_submodule(name).weight.device
            placed[name] = LowRank(low.down.to(device, dtype), low.up.to(device, dtype))
        return placed

    def _fitting(self, files: Mapping[str, Path], optional: frozenset[str]) -> dict[str, Path]:
        fitting = {}
        for name, path in files.items():
            try:
                read_layers(path, self._modules, self._convert, is_meta=True)
            except ValueError as error:
                if name not in optional:
                    raise ValueError(f"LoRA {name!r} does not fit this model: {error}") from error
                logger.warning("LoRA %s is left out: %s", name, error)
            else:
                fitting[name] = path
        return fitting
