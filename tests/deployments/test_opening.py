"""A replica's share of its device: what was configured, what was reserved, or all there is."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.config import ModelConfig
from deployments.engine.share import Share
from deployments.opening import NOTHING, Reserved, share_of
from deployments.types import Device

CPU = Device(node="one", id="cpu", name="CPU", total_bytes=1000)
GPU = Device(node="one", id="GPU-1", name="H200", total_bytes=800)


@pytest.mark.parametrize(
    ("device", "reserved", "options", "share"),
    [
        pytest.param(CPU, NOTHING, {}, Share(num_bytes=1000, is_reserved=False), id="cpu"),
        pytest.param(CPU, Reserved(memory=300), {}, Share(num_bytes=300), id="cpu, memory"),
        pytest.param(
            CPU, Reserved(memory=300), {"memory_bytes": 5}, Share(num_bytes=5), id="configured"
        ),
        pytest.param(GPU, NOTHING, {}, Share(num_bytes=800, is_reserved=False), id="gpu"),
        pytest.param(
            GPU, Reserved(num_gpus=0.25, memory=3), {}, Share(num_bytes=200), id="quarter"
        ),
        pytest.param(GPU, Reserved(num_gpus=2), {}, Share(num_bytes=800), id="one of two"),
        pytest.param(
            GPU,
            Reserved(num_gpus=2),
            {"device_map": "balanced"},
            Share(num_bytes=800),
            id="spread over two",
        ),
        pytest.param(
            GPU,
            NOTHING,
            {"device_map": "balanced"},
            Share(num_bytes=800, is_reserved=False),
            id="spread over all",
        ),
    ],
)
def test_share_of_a_device(
    device: Device, reserved: Reserved, options: dict[str, Any], share: Share
) -> None:
    assert share_of(ModelConfig(family="qwen-image", **options), device, reserved) == share
