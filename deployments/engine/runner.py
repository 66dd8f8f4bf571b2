"""TorchRunner: owns the device. The one file of the engine that imports torch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

logger = logging.getLogger(__name__)


class TorchRunner:
    """Runs a family's code on a torch device, without gradients.

    Args:
        device: a torch device name, as ``pick_device`` returns.
        num_threads: torch's threads in the engine's thread; None leaves torch's choice.
    """

    def __init__(self, device: str, num_threads: int | None = None) -> None:
        self._device = torch.device(device)
        self._num_threads = num_threads
        self._is_lost = False

    @property
    def is_lost(self) -> bool:
        """Whether the device failed for good: CUDA refuses all work after such a fault."""
        return self._is_lost

    def open(self) -> None:
        """Set the threads and the device of the calling thread."""
        if self._num_threads is not None:
            torch.set_num_threads(self._num_threads)
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)

    def load(self, function: Callable[[str | None], T], name: str | None) -> T:
        """``function(name)``; its tensors are ordinary ones, so that they may be changed later."""
        with torch.inference_mode(False), torch.no_grad():
            return self._guarded(function, name)

    def run(self, function: Callable[..., T], *args: object) -> T:
        """``function(*args)`` in inference mode."""
        with torch.inference_mode():
            return self._guarded(function, *args)

    def trim(self) -> None:
        """Give cached memory back to the device."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _guarded(self, function: Callable[..., T], *args: object) -> T:
        try:
            return function(*args)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                self._is_lost |= is_device_lost(error)
                raise
        # NOTE: outside of the except block, so that the failed call's frames, and with them its
        # tensors, are freed before the cache is emptied.
        self.trim()
        raise MemoryError("the device has no memory left for this work")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch raised this because memory ran out: CUDA's own class, or the CPU's text."""
    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError)
        or ("DefaultCPUAllocator" in text and "allocate memory" in text)
        or "CUDA error: out of memory" in text  # of the context or a module, not the allocator
        or "STATUS_ALLOC_FAILED" in text  # of cuBLAS and its like
    )


def is_device_lost(error: RuntimeError) -> bool:
    """Whether this is a fault after which CUDA refuses all further work in the process."""
    return isinstance(error, torch.AcceleratorError)


def pick_device(device: str) -> str:
    """A torch device name: ``auto`` is ``cuda`` when there is one, else ``cpu``."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def pick_dtype(dtype: str, device: str) -> str:
    """A torch dtype name: ``auto`` is float32 on a CPU and bfloat16 elsewhere."""
    if dtype == "auto":
        return "float32" if device.startswith("cpu") else "bfloat16"
    return dtype
