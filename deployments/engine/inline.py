"""Runner: on what the family's code runs; and the one that needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

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

    def trim(self) -> None:
        """Give memory that nothing uses back to the device."""
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

    def trim(self) -> None:
        """Nothing to give back."""
