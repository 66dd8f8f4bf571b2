"""The device of a host without a GPU: its node's memory and cores, as far as a process has them."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import psutil

from deployments.types import Device

#: Where Linux tells the limit of a container's memory: of control groups' versions 2 and 1.
LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
#: The same of cores: microseconds of them in so many microseconds, in one file or in two.
CORE_LIMITS: Final = (
    (Path("/sys/fs/cgroup/cpu.max"),),
    (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")),
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


def usable_cores() -> int:
    """Physical cores that this process may keep busy."""
    process = psutil.Process()
    installed = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    if hasattr(process, "cpu_affinity"):  # not on macOS
        installed = min(installed, len(process.cpu_affinity()))
    return host_cores(installed)


def host_cores(installed: int, limits: Iterable[Sequence[Path]] = CORE_LIMITS) -> int:
    """Of so many cores that are installed, how many this process's container may keep busy."""
    shares = [share for paths in limits if (share := _share(paths)) is not None]
    return max(math.floor(min([installed, *shares])), 1)


def _share(paths: Sequence[Path]) -> float | None:
    """Cores; None where there is no limit (``max`` or -1), or no such file."""
    try:
        allowed, period = (int(word) for path in paths for word in path.read_text().split())
    except (OSError, ValueError):
        return None
    return allowed / period if allowed > 0 else None


def _limit(path: Path) -> int | None:
    """A limit in bytes; None where there is none (``max``), or no such file."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
