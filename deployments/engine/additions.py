"""Additions: what the pool of weights asks of who owns LoRAs. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol, TypeAlias

from deployments.types import Evicted, Holding, LoraUse

Uses: TypeAlias = Collection[LoraUse]


class Additions(Protocol):
    """What requests add to a set of weights, and who has it in memory: LoRAs.

    They count their users themselves, and do no more of their own accord than keep the idle ones
    within bounds. Any thread may call; none of this waits.
    """

    @property
    def num_bytes(self) -> int:
        """Bytes of all in memory, in use and idle, with those on their way."""
        ...

    def needed_bytes(self, uses: Uses = ()) -> int:
        """Bytes of those in use, those that always are among them, and of these."""
        ...

    def own_bytes(self, uses: Uses) -> int:
        """Bytes of those that always are in use and of these."""
        ...

    def missing_bytes(self, uses: Uses) -> int:
        """Bytes of those of these that are not in memory."""
        ...

    def announce(self, uses: Uses) -> None:
        """Count these as in use from now on, for they are to be read."""
        ...

    def withdraw(self, uses: Uses) -> None:
        """Whatever became of the reading of these, it is over."""
        ...

    def idle_since(self, kept: Uses = ()) -> float | None:
        """When the least recently used idle one but these was asked for, on the monotonic clock;
        None without one."""
        ...

    def drop_idle(self, kept: Uses = ()) -> Evicted | None:
        """Let go of the least recently used idle one but these; None without one."""
        ...

    def holdings(self) -> tuple[Holding, ...]:
        """What is in memory, one by one."""
        ...


class NoAdditions:
    """Of models that take none."""

    num_bytes = 0

    def needed_bytes(self, uses: Uses = ()) -> int:  # noqa: ARG002
        """None."""
        return 0

    def own_bytes(self, uses: Uses) -> int:  # noqa: ARG002
        """None."""
        return 0

    def missing_bytes(self, uses: Uses) -> int:  # noqa: ARG002
        """None."""
        return 0

    def announce(self, uses: Uses) -> None:
        """There are none to be read."""

    def withdraw(self, uses: Uses) -> None:
        """There were none."""

    def idle_since(self, kept: Uses = ()) -> float | None:  # noqa: ARG002
        """There is none."""
        return None

    def drop_idle(self, kept: Uses = ()) -> Evicted | None:  # noqa: ARG002
        """There is none."""
        return None

    def holdings(self) -> tuple[Holding, ...]:
        """Nothing."""
        return ()
