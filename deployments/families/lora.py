"""Loras: the LoRAs that a model offers, those in memory, and what a request makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, WeakValueDictionary

from deployments.families.lora_file import Layers, LowRank
from deployments.types import Evicted, Holding

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

    from deployments.families.fitter import Adapters
    from deployments.families.lora_shelf import Shelf
    from deployments.types import CheckedWeights, LoraUse, WeightsSource


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Lora:
    """A LoRA in use, on the device and in the precision of the layers that it adapts."""

    name: str
    layers: Layers = field(repr=False)

    @property
    def num_bytes(self) -> int:
        """Bytes of its factors."""
        return _num_bytes(self.layers)


@dataclass(slots=True)
class Kept:
    """The layers of a LoRA that stays for a while although nobody may use it.

    Attributes:
        used_at: when it was last asked for, on the monotonic clock.
    """

    layers: Layers
    used_at: float

    @property
    def num_bytes(self) -> int:
        """Bytes of its factors."""
        return _num_bytes(self.layers)


class Loras:
    """Owns the LoRAs of one model: reads them when they are asked for, and keeps the last used.

    Who holds a ``Lora`` uses it, and keeps it in memory; this keeps, besides, the last used one and
    as many before it as fit ``max_bytes``, and finds those that are in use although they left. Any
    thread may call. See ``Additions`` for what the pool asks of it.

    Args:
        shelf: where they are read from. Here a LoRA is known by its name there, an owner's by the
            id of its source.
        modules: part -> the base model's module.
        fixed: name -> weight of those that every request has besides its own; they stay in memory.
        device: where the layers compute; None is where they are.
    Raises:
        ValueError: a fixed one is not there.
    """

    def __init__(
        self,
        shelf: Shelf,
        modules: Mapping[str, Module],
        *,
        max_bytes: int,
        fixed: Mapping[str, float] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.shelf = shelf
        self._modules = dict(modules)
        self._max_bytes = max_bytes
        self._device = device
        self._lock = Lock()
        self._alive: WeakValueDictionary[str, Lora] = WeakValueDictionary()
        self._replaced: WeakSet[Lora] = WeakSet()  # in use, while their names mean other files
        self._kept: dict[str, Kept] = {}  # the least recently used first
        self._arriving: Counter[str] = Counter()
        self._sizes: dict[str, int] = {}
        dtypes: list[Any] = [module.dtype for module in modules.values()]
        self._itemsize = max((dtype.itemsize for dtype in dtypes), default=4)
        self._fixed = dict(fixed or {})
        if unknown := sorted(self._fixed.keys() - set(shelf.names)):
            known = ", ".join(self.names) or "none"
            raise ValueError(f"fixed LoRA {unknown[0]!r} is not there; known: {known}")
        self._held = [self.get(name) for name in self._fixed]

    @property
    def names(self) -> tuple[str, ...]:
        """Names that requests may use, sorted."""
        return self.shelf.names

    @property
    def num_bytes(self) -> int:
        """Bytes that LoRAs take in memory, in use and idle, with those that are being read."""
        with self._lock:
            return self._sum(self._present()) + self._num_replaced()

    def needed_bytes(self, uses: Iterable[LoraUse] = ()) -> int:
        """Bytes of those in use, or announced, the fixed ones among them, and of these."""
        with self._lock:
            needed = self._sum({*self._alive, *self._arriving, *self._keys(uses)})
            return needed + self._num_replaced()

    def own_bytes(self, uses: Iterable[LoraUse]) -> int:
        """Bytes of the fixed ones and of these."""
        return self._sum({*self._fixed, *self._keys(uses)})

    def missing_bytes(self, uses: Iterable[LoraUse]) -> int:
        """Bytes of those of these that are not in memory."""
        with self._lock:
            return self._sum(self._keys(uses) - self._present())

    def announce(self, uses: Iterable[LoraUse]) -> None:
        """Count these as in use, for they are to be read."""
        with self._lock:
            self._arriving.update(self._keys(uses))

    def withdraw(self, uses: Iterable[LoraUse]) -> None:
        """The reading of these is over."""
        with self._lock:
            self._arriving -= Counter({use.key for use in uses})

    def idle_since(self, kept: Iterable[LoraUse] = ()) -> float | None:
        """When the least recently used idle one but these was asked for; None without one."""
        with self._lock:
            name = self._idle({use.key for use in kept})
            return None if name is None else self._kept[name].used_at

    def drop_idle(self, kept: Iterable[LoraUse] = ()) -> Evicted | None:
        """Let go of the least recently used idle one but these; None without one."""
        with self._lock:
            if (name := self._idle({use.key for use in kept})) is None:
                return None
            return Evicted(weights=(name,), num_bytes=self._kept.pop(name).num_bytes)

    def holdings(self) -> tuple[Holding, ...]:
        """What is in memory."""
        with self._lock:
            used = set(self._alive)
            replaced = [(lora.name, lora.num_bytes, True) for lora in list(self._replaced)]
            named = [(n, self._size(n), n in used) for n in used.union(self._kept)]
            return tuple(
                Holding(name=name, kind="lora", num_bytes=num_bytes, is_used=is_used)
                for name, num_bytes, is_used in sorted(named + replaced)
            )

    def prepare(self, uses: Iterable[LoraUse]) -> None:
        """Read those that are not in memory. Raises as ``get``."""
        for use in uses:
            self.get(use.name, use.source)

    def look(self) -> None:
        """Look at the files again; those that changed are read anew when they are asked for."""
        self._forget(self.shelf.look())

    def configure(self, loras: Mapping[str, str], folder: str | None) -> None:
        """Offer other files; see ``Shelf.configure`` for errors. The fixed ones stay."""
        self._forget(self.shelf.configure(loras, folder))

    def check(self, source: WeightsSource, max_bytes: int) -> CheckedWeights | None:
        """See ``Shelf.check``."""
        return self.shelf.check(source, max_bytes)

    def get(self, name: str, source: WeightsSource | None = None) -> Lora:
        """The LoRA of this name, or an owner's, read if it is not in memory; in use while it is
        held.

        Raises ``InvalidRequest`` for an unknown name, ``GenerationFailed`` when its file is gone.
        """
        key = name if source is None else source.id
        layers = self._find(key)
        if layers is None:
            layers = self._read(name, source)
        with self._lock:
            # Another thread may have read it meanwhile: there is one of each key.
            lora = self._alive.get(key)
            if lora is None:
                kept = self._kept.get(key)
                lora = self._alive[key] = Lora(key, kept.layers if kept else layers)
            self._sizes[key] = lora.num_bytes
            self._kept.pop(key, None)
            self._kept[key] = Kept(lora.layers, monotonic())
            while len(self._kept) > 1 and self._num_kept() > self._max_bytes:
                del self._kept[next(iter(self._kept))]
        return lora

    def adapters(self, uses: Iterable[LoraUse], *, is_text: bool = False) -> Adapters:
        """What is added to the denoiser's rows of a request, or to the text encoders'.

        A LoRA that is named twice counts with the sum of its weights.
        """
        weights = dict(self._fixed)
        named: dict[str, tuple[str, WeightsSource | None]] = {n: (n, None) for n in weights}
        for use in uses:
            named[use.key] = use.name, use.source
            weight = use.text_encoder_weight if is_text else use.weight
            weights[use.key] = weights.get(use.key, 0.0) + weight
        return tuple((self.get(*named[key]), weight) for key, weight in weights.items() if weight)

    def evict(self) -> Evicted:
        """Let go of all that no request uses."""
        with self._lock:
            gone = {name: kept for name, kept in self._kept.items() if name not in self._alive}
            self._kept.clear()
        return Evicted(weights=tuple(gone), num_bytes=sum(kept.num_bytes for kept in gone.values()))

    def _forget(self, names: Iterable[str]) -> None:
        """Let go of what was read of these files; who uses it keeps it. Fixed ones stay."""
        with self._lock:
            for name in set(names) - self._fixed.keys():
                self._kept.pop(name, None)
                self._sizes.pop(name, None)
                if (lora := self._alive.pop(name, None)) is not None:
                    self._replaced.add(lora)

    def _keys(self, uses: Iterable[LoraUse]) -> set[str]:
        """By what these are known here; what owners' own will take is noted."""
        keys = set()
        for use in uses:
            keys.add(use.key)
            if use.source is not None:
                self._sizes.setdefault(use.key, use.source.num_values * self._itemsize)
        return keys

    def _size(self, key: str) -> int:
        """Bytes of what is read, or about what it will take."""
        size = self._sizes.get(key)
        return self.shelf.num_values(key) * self._itemsize if size is None else size

    def _find(self, name: str) -> Layers | None:
        """The layers of a LoRA that is in memory."""
        with self._lock:
            found = self._alive.get(name) or self._kept.get(name)
            return None if found is None else found.layers

    def _read(self, name: str, source: WeightsSource | None) -> Layers:
        """The layers as they lie on the shelf now; again, when another file came meanwhile."""
        if source is None and self.shelf.stamp(name) is None:
            self.look()  # it may lie in the folder only just now
        while True:
            stamp = self.shelf.stamp(name)
            layers = self._placed_all(self.shelf.read(name, source))
            if source is not None or self.shelf.stamp(name) == stamp:
                return layers

    def _present(self) -> set[str]:
        return {*self._alive, *self._kept, *self._arriving}

    def _sum(self, names: Iterable[str]) -> int:
        return sum(map(self._size, names))

    def _idle(self, kept: set[str]) -> str | None:
        """The least recently used one that nobody uses, and that is none of these."""
        kept = kept.union(self._alive, self._arriving)
        return next((name for name in self._kept if name not in kept), None)

    def _num_kept(self) -> int:
        return sum(kept.num_bytes for kept in self._kept.values())

    def _num_replaced(self) -> int:
        """Bytes of those in use whose files were replaced."""
        return sum(lora.num_bytes for lora in list(self._replaced))

    def _placed_all(self, layers: Layers) -> Layers:
        return {part: self._placed(part, own) for part, own in layers.items()}

    def _placed(self, part: str, layers: dict[str, LowRank]) -> dict[str, LowRank]:
        """On the device and in the precision in which the layers compute."""
        module: Any = self._modules[part]
        placed, dtype = {}, module.dtype
        for name, low in layers.items():
            device = self._device or module.get_submodule(name).weight.device
            # NOTE: copies, for what was read may be the file itself, mapped, which may change.
            down, up = (one.to(device, dtype, copy=True) for one in (low.down, low.up))
            placed[name] = LowRank(down, up)
        return placed


def _num_bytes(layers: Layers) -> int:
    return sum(low.num_bytes for part in layers.values() for low in part.values())
