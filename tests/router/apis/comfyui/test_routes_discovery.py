"""What clients look at before they draw, who may look, and from where."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from deployments.types import ModelCard
from router.apis.comfyui.discovery import render_system
from router.fake_models import fake_card
from tests.router.apis.comfyui.client import Comfy
from tests.router.apis.comfyui.graphs import flat
from tests.router.apis.comfyui_gateway import comfyui_gateway

PATHS = (
    *("/prompt", "/queue", "/history", "/history/x", "/object_info", "/object_info/KSampler"),
    *("/system_stats", "/features", "/models", "/models/checkpoints", "/embeddings"),
    *("/extensions", "/experiment/models", "/experiment/models/checkpoints", "/i18n"),
    *("/workflow_templates", "/global_subgraphs", "/node_replacements", "/jobs"),
    *("/users", "/settings", "/internal/logs/raw"),
)
KEY = "the key"


@pytest.fixture(scope="module")
def comfy() -> Iterator[Comfy]:
    with comfyui_gateway() as served:
        yield Comfy(served.http)


@pytest.fixture(scope="module")
def locked() -> Iterator[Comfy]:
    with comfyui_gateway(api_key=KEY) as served:
        yield Comfy(served.http)


@pytest.mark.parametrize("path", PATHS)
def test_every_route_is_there_bare_and_under_api(comfy: Comfy, path: str) -> None:
    told = comfy.get(path)
    again = comfy.get(f"/api{path}")
    if path != "/system_stats":
        assert again == told


def test_other_apis_keep_their_paths(comfy: Comfy) -> None:
    assert comfy.http.get("/api/images").status_code == 200
    assert set(comfy.http.get("/api/images/nothing").json()) == {"error", "message"}
    assert comfy.http.get("/queue/status").status_code == 200
    page = comfy.http.get("/", follow_redirects=True)
    assert page.headers["content-type"].startswith("text/html")


def test_paths_that_are_not_there_are_told_in_this_apis_shape(comfy: Comfy) -> None:
    for path in ("/api/nothing", "/history/", "/object_info/a/b"):
        response = comfy.http.get(path)
        if response.status_code != 200:
            assert set(response.json()) == {"error"}
    assert comfy.http.delete("/api/queue").status_code == 405


def test_the_machine_is_told_with_at_least_one_device(comfy: Comfy) -> None:
    stats = comfy.get("/system_stats")
    assert stats["system"]["os"] == sys.platform
    assert stats["system"]["ram_total"] >= stats["system"]["ram_free"] > 0
    assert stats["system"]["argv"] == []
    (device,) = stats["devices"]
    assert (device["name"], device["type"], device["index"]) == ("cpu", "cpu", None)
    assert device["vram_total"] == stats["system"]["ram_total"]


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ([], [("cpu", None)]),
        ([fake_card(device="cuda:1")], [("cuda", 1)]),
        ([fake_card(device="cuda"), fake_card("b", device="cpu")], [("cuda", None), ("cpu", None)]),
        ([fake_card(device="cuda"), fake_card("b", device="cuda")], [("cuda", None)]),
    ],
    ids=["none", "numbered", "two", "shared"],
)
def test_devices_are_those_of_the_models(cards: list[ModelCard], expected: list[Any]) -> None:
    devices = render_system(cards)["devices"]
    assert [(device["type"], device["index"]) for device in devices] == expected


def test_models_are_listed_by_what_loads_them(comfy: Comfy) -> None:
    assert "sdxl-turbo" in comfy.get("/models/checkpoints")
    assert comfy.get("/models/unet") == comfy.get("/models/diffusion_models")
    assert comfy.get("/models/controlnet") == []
    assert comfy.http.get("/models/nothing").status_code == 404
    assert comfy.http.get("/experiment/models/nothing").status_code == 404
    (first, *_) = comfy.get("/experiment/models/checkpoints")
    assert set(first) == {"name", "pathIndex", "modified", "created", "size"}


def test_nodes_are_told_one_by_one_and_unknown_ones_as_nothing(comfy: Comfy) -> None:
    nodes = comfy.get("/object_info")
    assert comfy.get("/object_info/KSampler") == {"KSampler": nodes["KSampler"]}
    assert comfy.get("/object_info/Nothing") == {}
    seed = nodes["KSampler"]["input"]["required"]["seed"][1]
    assert seed["max"] == 2**64 - 1


@pytest.mark.parametrize("authorization", ["Bearer", "Bearer junk", "Basic !", "Strange x"])
def test_credentials_are_ignored_where_none_are_needed(comfy: Comfy, authorization: str) -> None:
    response = comfy.http.get("/queue", headers={"Authorization": authorization})
    assert response.status_code == 200


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}], ids=["none", "wrong"])
def test_a_key_is_needed_where_one_is_set(locked: Comfy, headers: dict[str, str]) -> None:
    response = locked.http.get("/queue", headers=headers)
    assert response.status_code == 401
    assert set(response.json()) == {"error"}
    with pytest.raises(InvalidStatus) as refused:
        connect(_ws(locked.http), additional_headers=headers)
    assert refused.value.response.status_code == 401


def test_owners_who_share_a_key_see_only_their_own(locked: Comfy) -> None:
    base = str(locked.http.base_url)
    with (
        httpx.Client(base_url=base, auth=("ann", KEY), trust_env=False) as ann,
        httpx.Client(base_url=base, auth=("bob", KEY), trust_env=False) as bob,
        connect(_ws(locked.http).replace("ws://", "ws://ann:the%20key@")) as live,
    ):
        live.recv(timeout=5)
        name = Comfy(ann).submit(flat(), prompt_id="mine")
        Comfy(ann).entry(name)
        assert Comfy(bob).get("/history") == {}
        assert Comfy(bob).get("/history/mine") == {}
        assert Comfy(bob).get("/api/jobs")["jobs"] == []
        assert bob.get("/api/jobs/mine").status_code == 404
        assert bob.post("/api/jobs/mine/cancel").json() == {"cancelled": False}
        Comfy(bob).post("/history", delete=["mine"])
        Comfy(bob).submit(flat(), prompt_id="mine")
        assert list(Comfy(ann).get("/history")) == ["mine"]
        assert "status" in str(live.recv(timeout=5))


@pytest.mark.parametrize("scheme", ["Bearer the key", "Basic YW5uOnRoZSBrZXk="])
def test_both_ways_to_tell_the_key_are_taken(locked: Comfy, scheme: str) -> None:
    headers = {"Authorization": scheme}
    assert locked.http.get("/queue", headers=headers).status_code == 200
    with connect(_ws(locked.http), additional_headers=headers) as live:
        assert "status" in str(live.recv(timeout=5))


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://evil.example", 403),
        ("http://127.0.0.1.evil.example:8000", 403),
        ("http://localhost:3000", 200),
        ("http://127.0.0.1:9", 200),
        ("null", 200),
        ("://", 200),
    ],
)
def test_pages_of_other_sites_are_kept_out(comfy: Comfy, origin: str, status: int) -> None:
    headers = {"Origin": origin}
    assert comfy.http.get("/queue", headers=headers).status_code == status
    assert comfy.http.post("/interrupt", headers=headers).status_code == status
    if status == 403:
        with pytest.raises(InvalidStatus) as refused:
            connect(_ws(comfy.http), origin=origin)
        assert refused.value.response.status_code == 403


@pytest.mark.parametrize(
    "path", ["/api/prompt", "/upload/image", "/api/userdata/workflows%2Fa.json", "/view"]
)
def test_pages_of_this_machine_may_read_what_they_ask(locked: Comfy, path: str) -> None:
    headers = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    preflight = locked.http.options(path, headers=headers)
    assert (preflight.status_code, preflight.content) == (200, b"")
    assert preflight.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "PATCH" in preflight.headers["access-control-allow-methods"]
    refused = locked.http.get("/queue", headers=headers)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "http://localhost:3000"


def _ws(http: httpx.Client) -> str:
    return str(http.base_url).replace("http://", "ws://").rstrip("/") + "/ws?clientId=me"
