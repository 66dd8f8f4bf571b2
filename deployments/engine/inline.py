"""Runner: on what the family's code runs; and the one that needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from deployments.engine.device import host_device
from deployments.types import Device

T = TypeVar("T")


class Runner(Protocol):
    """Owns a device. The engine's thread alone calls it, ``is_lost`` excepted.

    Whatever runs out of the device's memory raises ``MemoryError``, with nothing of the failed
    work kept alive.
    """

    @property
    def is_lost(self) -> bool:
        """Whether the device failed for good: only a new process can help."""
        ...

    def open(self) -> None:
        """Make the calling thread ready; the engine's thread calls it first."""
        ...

    def load(self, function: Callable[[str | None], T], name: str | None) -> T:
        """Read weights: ``function(name)``."""
        ...

    def run(self, function: Callable[..., T], *args: object) -> T:
        """Compute: ``function(*args)``, without gradients."""
        ...

    def measure(self, function: Callable[..., T], *args: object) -> tuple[T, int]:
        """As ``run``, and the most bytes that it took meanwhile; 0 when that is not known."""
        ...

    def trim(self) -> None:
        """Give memory that nothing uses back to the device."""
        ...

    @property
    def device(self) -> Device:
        """What it runs on, and how much memory that has."""
        ...

    def bound(self, num_bytes: int) -> None:
        """Let this process have no more of the device's memory, where the device can keep that."""
        ...


class InlineRunner:
    """Calls, and nothing else: for families without torch."""

    is_lost = False

    def open(self) -> None:
        """Nothing to make ready."""

    def load(self, function: Callable[[str | None], T], name: str | None) -> T:
        """``function(name)``."""
        return function(name)

    def run(self, function: Callable[..., T], *args: object) -> T:
        """``function(*args)``."""
        return function(*args)

    def measure(self, function: Callable[..., T], *args: object) -> tuple[T, int]:
        """``function(*args)``, and 0."""
        return function(*args), 0

    def trim(self) -> None:
        """Nothing to give back."""

    @property
    def device(self) -> Device:
        """The host's own memory."""
        return host_device()

    def bound(self, num_bytes: int) -> None:
        """Nothing can be kept."""
