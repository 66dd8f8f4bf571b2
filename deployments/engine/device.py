"""The device of a host without a GPU: its node's memory, as far as its processes may have it."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import psutil

from deployments.types import Device

#: Where Linux tells the limit of a container's memory: of control groups' versions 2 and 1.
LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def host_device() -> Device:
    """The CPU and the memory of this node."""
    return Device(
        node=socket.gethostname(),
        id="cpu",
        name="CPU",
        total_bytes=host_bytes(psutil.virtual_memory().total),
    )


def host_bytes(installed: int, limits: Iterable[Path] = LIMITS) -> int:
    """Of so much memory that is installed, what this process's container may have."""
    return min([installed, *(limit for path in limits if (limit := _limit(path)) is not None)])


def _limit(path: Path) -> int | None:
    """A limit in bytes; None where there is none (``max``), or no such file."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
