"""Transfer: tensors on their way to a GPU, and page-locked copies that make the way short."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from torch import Tensor

Tensors: TypeAlias = Mapping[str, Mapping[str, "Tensor"]]


class PinnedCopies:
    """Owns copies of sets of tensors in page-locked memory; the least recently used leave first.

    Any thread may call.

    Args:
        max_bytes: what they may take together; larger sets are not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._copies: dict[str, Tensors] = {}
        self._lock = Lock()

    def get(self, name: str) -> Tensors | None:
        """The copy of a set, or None."""
        with self._lock:
            found = self._copies.pop(name, None)
            if found is not None:
                self._copies[name] = found
            return found

    def put(self, name: str, tensors: Tensors) -> Tensors:
        """Keep a copy of a set, where it finds room, and return that, or else the set itself."""
        if num_bytes(tensors) > self._max_bytes:
            return tensors
        pinned = {
            part: {key: tensor.pin_memory() for key, tensor in own.items()}
            for part, own in tensors.items()
        }
        with self._lock:
            self._copies[name] = pinned
            while sum(map(num_bytes, self._copies.values())) > self._max_bytes:
                del self._copies[next(iter(self._copies))]
        return pinned

    @property
    def num_bytes(self) -> int:
        """Bytes of all copies."""
        with self._lock:
            return sum(map(num_bytes, self._copies.values()))

    def clear(self) -> int:
        """Let go of all; how many bytes there were."""
        with self._lock:
            freed = sum(map(num_bytes, self._copies.values()))
            self._copies.clear()
            return freed


def num_bytes(tensors: Tensors) -> int:
    """Bytes of a set."""
    return sum(t.numel() * t.element_size() for own in tensors.values() for t in own.values())


def move(tensors: Tensors, device: torch.device) -> dict[str, dict[str, Tensor]]:
    """The set on a device, pictures' filters with their channels last.

    On a GPU the copying goes on beside what others compute, and is over at the end.
    """
    if device.type != "cuda":
        return {
            part: {key: _laid_out(tensor.to(device)) for key, tensor in own.items()}
            for part, own in tensors.items()
        }
    # NOTE: the memory is the computing stream's, which had other uses for it that may not be over:
    # the copying stream waits for those, and nobody computes with the set before it is there.
    placed = {
        part: {
            key: torch.empty_like(tensor, device=device, memory_format=_format(tensor))
            for key, tensor in own.items()
        }
        for part, own in tensors.items()
    }
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for part, own in tensors.items():
            for key, tensor in own.items():
                placed[part][key].copy_(tensor, non_blocking=True)
    stream.synchronize()
    return placed


def _laid_out(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=_format(tensor))


def _format(tensor: Tensor) -> torch.memory_format:
    return torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
