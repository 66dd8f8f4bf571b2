"""TorchRunner: owns the device. The one file of the engine that imports torch."""

from __future__ import annotations

import ctypes
import logging
import os
import socket
from collections.abc import Callable
from itertools import accumulate
from typing import TypeVar

import torch

from deployments.engine.device import host_device
from deployments.types import Device

T = TypeVar("T")

logger = logging.getLogger(__name__)


class TorchRunner:
    """Runs a family's code on a torch device, without gradients.

    Args:
        device: a torch device name, as ``pick_device`` returns.
        num_threads: torch's threads in the engine's thread on a CPU; None leaves torch's choice.
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
        if self._num_threads is not None and self._device.type == "cpu":
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

    def measure(self, function: Callable[..., T], *args: object) -> tuple[T, int]:
        """As ``run``, and the most bytes that it took meanwhile.

        On a CPU those are of tensors, without what the libraries' own code takes besides.
        """
        if self._device.type != "cuda":
            return self._measure_tensors(function, *args)
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        allocated = torch.cuda.memory_allocated(self._device)
        result = self.run(function, *args)
        torch.cuda.synchronize(self._device)
        return result, torch.cuda.max_memory_allocated(self._device) - allocated

    def _measure_tensors(self, function: Callable[..., T], *args: object) -> tuple[T, int]:
        # The profiler's library tells on the standard error whenever it starts, unless it must not.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        with torch.autograd.profiler.profile(use_kineto=True, profile_memory=True) as profile:
            result = self.run(function, *args)
        events = profile.kineto_results.events()
        steps = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
        return result, max(accumulate((step for _, step in steps), initial=0))

    @property
    def device(self) -> Device:
        """The GPU, or the host's own memory."""
        if self._device.type != "cuda":
            return host_device()
        properties = torch.cuda.get_device_properties(self._device)
        return Device(
            node=socket.gethostname(),
            id=f"GPU-{properties.uuid}",
            name=properties.name,
            total_bytes=int(properties.total_memory),
        )

    def bound(self, num_bytes: int) -> None:
        """On a GPU, let the allocator refuse more: neighbours on the card keep their shares."""
        if self._device.type == "cuda":
            total = torch.cuda.get_device_properties(self._device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, num_bytes / total), self._device)

    def trim(self) -> None:
        """Give cached memory back to the device, or to the machine."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        elif give_back := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc alone has it
            give_back(0)

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
