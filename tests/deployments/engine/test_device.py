"""The memory of a host: what is installed, or what its container may have."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil
import pytest

from deployments.engine.device import host_bytes, host_cores, host_device, usable_cores


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


@pytest.mark.parametrize(
    ("texts", "cores"),
    [
        pytest.param(["400000 100000\n"], 4, id="four"),
        pytest.param(["150000 100000\n"], 1, id="one and a half"),
        pytest.param(["50000 100000\n"], 1, id="half of one"),
        pytest.param(["max 100000\n"], 6, id="unlimited"),
        pytest.param(["900000 100000\n"], 6, id="more than there are"),
        pytest.param(["200000\n", "100000\n"], 2, id="version 1"),
        pytest.param(["-1\n", "100000\n"], 6, id="unlimited, version 1"),
        pytest.param([], 6, id="no control groups"),
    ],
)
def test_container_has_the_cores_that_its_limit_leaves(
    texts: list[str], cores: int, tmp_path: Path
) -> None:
    paths = [tmp_path / "quota", tmp_path / "period"][: max(len(texts), 1)]
    for path, text in zip(paths, texts, strict=False):
        path.write_text(text)
    assert host_cores(6, [(tmp_path / "missing",), paths]) == cores


def test_process_has_no_more_cores_than_the_machine() -> None:
    assert 1 <= usable_cores() <= psutil.cpu_count()
