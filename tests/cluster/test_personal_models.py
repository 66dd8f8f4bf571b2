"""Personal models on real Ray: two gateways, two replicas, a table that changes under them."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.server import Server, embedded_config, fake_application
from tests.router.apis.test_personal_models import PATH, upload


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = embedded_config()
    [gateway] = [one for one in config["applications"] if one["name"] == "gateway"]
    gateway["deployments"][0]["num_replicas"] = 2
    fake = fake_application("sd15-dreambooth", step_seconds=0.02, personal={"ann": "/a"})
    fake["deployments"][0] |= {"num_replicas": 2, "user_config": {"personal": {"bob": "/b"}}}
    config["applications"] = [gateway, fake]
    server = Server(config, tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


def generate(server: Server, user_id: str, **fields: Any) -> httpx.Response:
    body = {"prompt": "a", "user_id": user_id, "width": 256, "height": 256, **fields}
    body.setdefault("num_inference_steps", 2)
    return httpx.post(f"{server.url}/generate", json=body, timeout=60)


def evict(server: Server) -> list[str]:
    names: list[str] = httpx.delete(f"{server.url}/cache", timeout=60).json()["evicted"]
    return names


def test_upload_draws_from_every_gateway_and_replica_without_a_restart(server: Server) -> None:
    before = server.pids("ServeReplica:")
    form = upload(base="sd15-dreambooth")
    put = httpx.put(server.url + PATH, **form, timeout=60)
    assert put.status_code == 200, put.text
    pictures = set()
    for _ in range(8):  # a connection each, so that the proxy picks a gateway anew
        answer = generate(server, "sks", seed=1)
        assert answer.status_code == 200, answer.text
        pictures.add(answer.json()["image_base64"])
        assert httpx.get(server.url + PATH).status_code == 200
    assert len(pictures) == 1
    assert pictures != {generate(server, "nobody", seed=1).json()["image_base64"]}
    assert [name for name in evict(server) if name.startswith("pm_")]
    assert httpx.delete(server.url + PATH).status_code == 200
    assert generate(server, "sks", seed=1).json()["image_base64"] not in pictures
    assert server.pids("ServeReplica:") == before


def test_weights_that_do_not_fit_are_refused_in_words(server: Server) -> None:
    form = upload(base="sd15-dreambooth")
    unknown = httpx.put(f"{server.url}/v1/models/personal/a b", **form, timeout=60)
    assert unknown.status_code == 400
    hub = {"base": "sd15-dreambooth", "hub": "owner/misfit"}
    refused = httpx.put(server.url + PATH, json=hub, timeout=60)
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["message"] == "the weights do not fit"


def test_requests_go_to_the_replica_that_holds_their_weights(server: Server) -> None:
    evict(server)
    for _ in range(6):
        assert generate(server, "ann").status_code == 200
    time.sleep(2.5)  # every gateway has heard what the replicas hold
    for _ in range(6):
        assert generate(server, "ann").status_code == 200
    assert evict(server).count("ann") <= 2
    for _ in range(12):
        assert generate(server, "ann").status_code == 200
        time.sleep(0.2)
    assert evict(server).count("ann") == 1


def test_table_changes_while_the_replicas_keep_running(server: Server) -> None:
    before = server.pids("ServeReplica:")
    first = generate(server, "bob", seed=1).json()["image_base64"]
    assert first != generate(server, "eve", seed=1).json()["image_base64"]
    config = copy.deepcopy(server.config)
    table = {"personal": {"eve": "/e"}}
    config["applications"][1]["deployments"][0]["user_config"] = table
    path = server.write("changed.yaml", config)
    subprocess.run(
        [str(Path(sys.executable).parent / "serve"), "deploy", str(path), "-a", server.dashboard],
        check=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        timeout=120,
    )
    deadline = time.monotonic() + 60
    while evict(server).count("eve") == 0:
        assert time.monotonic() < deadline, server.log()
        assert generate(server, "eve", seed=1).status_code == 200
    assert server.pids("ServeReplica:") == before
