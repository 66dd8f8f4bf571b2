"""/cluster and /v1/cluster: what runs where, and what it holds."""

from __future__ import annotations

import re

from deployments.types import Device, Holding, Load
from router.fake_models import FakeModels, fake_card
from tests.router.apis.gateway import serving

DEVICE = Device(node="one", id="GPU-1", name="H200", total_bytes=1000)
LOAD = Load(
    num_running=2,
    num_waiting=1,
    work=1.0,
    weight_bytes=600,
    lora_bytes=40,
    work_bytes=50,
    picture_bytes=60,
    memory_bytes=700,
    holdings=(
        Holding(name="", kind="base", num_bytes=600),
        Holding(name="ink", kind="lora", num_bytes=40, is_used=True),
    ),
    device=DEVICE,
)


def full_models() -> FakeModels:
    """Two models on one device, whose shares are more than it has, and one that starts."""
    models = FakeModels(fake_card("sdxl-turbo"), fake_card("qwen-image-edit"))
    models.fill("sdxl-turbo", LOAD)
    models.fill("qwen-image-edit", LOAD, Load(num_running=0, num_waiting=0, work=0.0))
    models.start_later("late")
    return models


async def test_figures_of_replicas_and_sums_of_devices() -> None:
    async with serving(full_models()) as client:
        body = (await client.get("/v1/cluster")).json()
    turbo, qwen, late = body["applications"]
    assert (turbo["id"], turbo["status"]) == ("sdxl-turbo", "RUNNING")
    [deployment] = turbo["deployments"]
    assert (deployment["name"], deployment["status"]) == ("ModelHost", "HEALTHY")
    assert deployment["replicas"] == [
        {
            "state": "RUNNING",
            "node": "one",
            "device": "GPU-1",
            "device_name": "H200",
            "num_running": 2,
            "num_waiting": 1,
            "share_bytes": 700,
            "weight_bytes": 600,
            "lora_bytes": 40,
            "work_bytes": 50,
            "picture_bytes": 60,
            "host_bytes": 0,
            "holdings": [
                {"name": "", "kind": "base", "bytes": 600, "is_used": False},
                {"name": "ink", "kind": "lora", "bytes": 40, "is_used": True},
            ],
        }
    ]
    assert [replica["device"] for replica in qwen["deployments"][0]["replicas"]] == [
        "GPU-1",
        "remote",
    ]
    assert late["deployments"][0]["replicas"] == [{"state": "STARTING"}]
    [device] = body["devices"]
    assert {key: device[key] for key in ("total_bytes", "share_bytes", "held_bytes")} == {
        "total_bytes": 1000,
        "share_bytes": 1400,
        "held_bytes": 1280,
    }
    assert [part["application"] for part in device["parts"]] == ["sdxl-turbo", "qwen-image-edit"]
    assert body["warnings"] == device["warnings"]
    assert len(body["warnings"]) == 3


async def test_page_needs_nothing_from_elsewhere() -> None:
    async with serving(full_models()) as client:
        answer = await client.get("/cluster")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"https?://|src=|@import|innerHTML", answer.text)
    assert 'new URL("v1/cluster", location.origin' in answer.text
    assert "prefers-color-scheme: dark" in answer.text


async def test_both_want_the_key_each_in_its_way() -> None:
    async with serving(full_models(), api_key="key") as client:
        page, figures = await client.get("/cluster"), await client.get("/v1/cluster")
        assert (page.status_code, figures.status_code) == (401, 401)
        assert page.headers["www-authenticate"] == "Basic"
        assert figures.json()["error"]["message"] == "Not authenticated"
        for path in ("/cluster", "/v1/cluster"):
            assert (await client.get(path, auth=("ann", "key"))).status_code == 200
        assert (await client.post("/v1/cluster", auth=("ann", "key"))).status_code == 405
        assert "error" in (await client.get("/v1/cluster/none", auth=("ann", "key"))).json()
