"""The memory of a host: what is installed, or what its container may have."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from deployments.engine.device import host_bytes, host_device


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        pytest.param("1000\n", 1000, id="limited"),
        pytest.param("max\n", 5000, id="unlimited"),
        pytest.param("9223372036854771712\n", 5000, id="unlimited, version 1"),
        pytest.param(None, 5000, id="no control groups"),
    ],
)
def test_container_has_what_its_limit_leaves(
    text: str | None, num_bytes: int, tmp_path: Path
) -> None:
    limit = tmp_path / "memory.max"
    if text is not None:
        limit.write_text(text)
    assert host_bytes(5000, (limit,)) == num_bytes


def test_host_tells_its_node_and_memory() -> None:
    device = host_device()
    assert (device.node, device.id) == (socket.gethostname(), "cpu")
    assert device.total_bytes is not None
    assert device.total_bytes > 2**28
