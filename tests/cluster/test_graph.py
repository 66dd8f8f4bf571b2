"""The graph as it runs: the README's configuration under Ray Serve, two gateway replicas."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.cluster.server import Server, fake_application


def pixels(data: bytes) -> NDArray[np.int16]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.int16)


def draw(server: Server, **body: Any) -> bytes:
    body = {"prompt": "a red circle", "width": 256, "height": 256, "num_inference_steps": 4} | body
    response = httpx.post(f"{server.url}/generate/image", json=body, timeout=300)
    assert response.status_code == 200, response.text
    return response.content


def test_every_configured_model_is_ready(server: Server) -> None:
    ready = httpx.get(f"{server.url}/ready").json()
    assert ready["status"] == "ready"
    assert {"sdxl-turbo", "sd15-dreambooth", "qwen-image-edit"} <= set(ready["models"])


def test_the_gateways_processes_hold_no_torch(server: Server) -> None:
    for pid in server.pids("ServeReplica:gateway"):
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()


def test_models_are_told_what_the_file_tells_their_processes(server: Server) -> None:
    applications = {each["name"]: each for each in server.config["applications"]}
    for model in ("sdxl-turbo", "sd15-dreambooth", "qwen-image-edit"):
        [deployment] = applications[model]["deployments"]
        told = deployment["ray_actor_options"]["runtime_env"]["env_vars"]
        assert {"OMP_WAIT_POLICY", "MALLOC_TRIM_THRESHOLD_"} <= told.keys()
        [pid] = server.pids(f"ServeReplica:{model}")
        assert told.items() <= psutil.Process(pid).environ().items()


def test_a_seed_means_one_picture_whichever_way_it_is_asked(server: Server) -> None:
    body = {"prompt": "a star", "width": 320, "height": 256, "num_inference_steps": 4, "seed": 42}
    answer = httpx.post(f"{server.url}/generate", json=body, timeout=300).json()
    text = pixels(base64.b64decode(answer["image_base64"]))
    binary = pixels(draw(server, **body))
    assert text.shape == (256, 320, 3)
    assert np.abs(text - binary).max() <= 1
    assert np.abs(text - pixels(draw(server, **(body | {"seed": 43})))).mean() > 4
    assert (server.folder / answer["image_path"]).is_file()


def test_pictures_drawn_together_equal_those_drawn_alone(server: Server) -> None:
    bodies = [
        {"seed": n, "num_inference_steps": 3 + n % 3, "guidance_scale": 1.0 + n, "user_id": user}
        for n, user in enumerate(["user_123", "user_456", "nobody", "user_123", "x", "y"])
    ]
    alone = [pixels(draw(server, **body)) for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as pool:
        together = list(pool.map(lambda body: pixels(draw(server, **body)), bodies))
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one - other).max() <= 1


def test_each_user_has_weights_of_their_own(server: Server) -> None:
    pictures = [pixels(draw(server, seed=1, user_id=u)) for u in ("user_123", "user_456", "nobody")]
    default = pixels(draw(server, seed=1))
    assert np.abs(pictures[0] - pictures[1]).mean() > 1
    assert np.abs(pictures[2] - default).max() <= 1


def test_the_official_sdk_generates_and_edits(server: Server) -> None:
    client = openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="any", _strict_response_validation=True, max_retries=0
    )
    made = client.images.generate(prompt="a star", size="256x192", n=2, extra_body={"seed": 3})
    assert made.data is not None
    pictures = [base64.b64decode(item.b64_json or "") for item in made.data]
    assert [Image.open(io.BytesIO(data)).size for data in pictures] == [(256, 192)] * 2
    edited = client.images.edit(
        image=[("a.png", pictures[0])], prompt="a moon", extra_body={"seed": 3, "strength": 0.5}
    )
    assert edited.data is not None
    assert Image.open(io.BytesIO(base64.b64decode(edited.data[0].b64_json or ""))).size == (
        256,
        192,
    )


def test_edits_at_once_are_what_they_are_one_by_one(server: Server) -> None:
    photo = draw(server, width=256, height=256)
    bodies = [
        {"prompt": prompt, "seed": str(n), "num_inference_steps": str(3 + n), "size": "128x128"}
        for n, prompt in enumerate(["make it red", "remove the circle, please", "as a painting"])
    ]

    def edit(body: dict[str, str]) -> NDArray[np.int16]:
        files = [("image[]", ("a.png", photo))]
        answer = httpx.post(f"{server.url}/v1/images/edits", data=body, files=files, timeout=300)
        assert answer.status_code == 200, answer.text
        return pixels(base64.b64decode(answer.json()["data"][0]["b64_json"]))

    alone = [edit(body) for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as pool:
        together = list(pool.map(edit, bodies))
    for one, other in zip(alone, together, strict=True):
        assert one.shape == (128, 128, 3)
        assert np.abs(one - other).max() <= 1


def test_a_stream_shows_real_previews_before_the_end(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    stream = client.images.generate(
        prompt="a star",
        size="256x256",
        stream=True,
        partial_images=2,
        extra_body={"num_inference_steps": 12, "seed": 1},
    )
    kinds = [event.type.rpartition(".")[2] for event in stream]
    assert kinds == ["partial_image"] * (len(kinds) - 1) + ["completed"]
    assert 2 <= len(kinds) <= 3


def test_sixteen_forge_clients_at_once_get_what_they_get_one_by_one(server: Server) -> None:
    def call(n: int) -> NDArray[np.int16]:
        body = {
            "prompt": f"(star {n}:1.2)",
            "seed": n,
            "width": 128,
            "height": 128,
            "steps": 3 + n % 3,
            "cfg_scale": 1 + n % 4,
            "sampler_name": ("Euler a", "Euler", "DPM++ 2M Karras", "DDIM")[n % 4],
        }
        answer = httpx.post(f"{server.url}/sdapi/v1/txt2img", json=body, timeout=300)
        assert answer.status_code == 200, answer.text
        assert json.loads(answer.json()["info"])["seed"] == n
        return pixels(base64.b64decode(answer.json()["images"][0]))

    alone = [call(n) for n in range(16)]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(call, range(16)))
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one - other).max() <= 1


def test_an_interrupt_ends_the_call_whichever_gateway_hears_it(server: Server) -> None:
    body = {
        "prompt": "long",
        "steps": 20,
        "n_iter": 8,
        "width": 512,
        "height": 512,
        "override_settings": {"sd_model_checkpoint": "fake"},
    }
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(httpx.post, f"{server.url}/sdapi/v1/txt2img", json=body, timeout=300)
        while httpx.get(f"{server.url}/sdapi/v1/progress").json()["progress"] < 0.3:
            time.sleep(0.1)
        # A connection each, so that either gateway may get it.
        answers = [httpx.post(f"{server.url}/sdapi/v1/interrupt").json() for _ in range(2)]
        asked = time.monotonic()
        answer = call.result()
    assert answers == [{}, {}]
    assert time.monotonic() - asked < 2
    assert answer.status_code == 200
    assert 1 <= len(answer.json()["images"]) < 8


def test_a_client_that_hangs_up_cancels_its_work(server: Server) -> None:
    body = {"prompt": "hang up", "num_inference_steps": 150, "model": "fake"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/generate", json=body, timeout=1.0)
    assert wait_for_status(server, "hang up") == "CANCELLED"


def test_a_client_that_hangs_up_disturbs_nobody_else(server: Server) -> None:
    body = {"num_inference_steps": 100, "model": "fake", "seed": 8}
    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(draw, server, **body, prompt=f"stays {n}") for n in range(2)]
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/generate", json=body | {"prompt": "leaves"}, timeout=1.0)
        assert all(call.result() for call in others)
    jobs = httpx.get(f"{server.url}/api/images", params={"limit": 3, "api": "generate"}).json()
    statuses = sorted(job["status"] for job in jobs["jobs"])
    assert statuses == ["CANCELLED", "COMPLETED", "COMPLETED"]
    assert "queued: " not in server.log()


def test_a_watcher_on_any_gateway_sees_progress(server: Server) -> None:
    body = {"prompt": "watched", "model": "fake", "num_inference_steps": 100, "size": "512x512"}
    job_id = httpx.post(f"{server.url}/api/images/generate", json=body).json()["job_id"]
    seen = []
    while True:
        answer = httpx.get(f"{server.url}/api/images/status/{job_id}").json()
        seen.append(answer["progress"])
        if answer["status"] == "COMPLETED":
            break
        time.sleep(0.05)
    assert seen == sorted(seen)
    assert seen[-1] == 100
    assert len(set(seen)) > 4


def test_health_answers_while_every_model_is_busy(server: Server) -> None:
    with ThreadPoolExecutor(6) as pool:
        busy = [
            pool.submit(draw, server, num_inference_steps=8, seed=n, model=model)
            for n in range(3)
            for model in ("sdxl-turbo", "sd15-dreambooth")
        ]
        started = time.monotonic()
        assert httpx.get(f"{server.url}/health", timeout=10).status_code == 200
        assert time.monotonic() - started < 3
        assert all(call.result() for call in busy)


def test_clearing_the_cache_leaves_every_model_ready(server: Server) -> None:
    draw(server, user_id="user_123")
    evicted = httpx.delete(f"{server.url}/cache", timeout=60).json()
    assert "user_123" in evicted["evicted"]
    assert evicted["freed_bytes"] > 0
    assert httpx.get(f"{server.url}/ready").status_code == 200
    draw(server, user_id="user_123")


@pytest.mark.parametrize("prompt", ["fail:step", "fail:nan", "fail:oom", "fail:encode"])
def test_a_request_that_fails_takes_no_other_with_it(server: Server, prompt: str) -> None:
    good = {"prompt": "good", "model": "fake", "num_inference_steps": 20, "seed": 5}
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(draw, server, **good)
        bad = httpx.post(f"{server.url}/generate", json=good | {"prompt": prompt}, timeout=60)
        assert bad.status_code == 500
        assert bad.json()["success"] is False
        assert "Traceback" not in bad.text
        assert other.result() == draw(server, **good)


def test_adding_a_stanza_leaves_every_other_process_alive(server: Server) -> None:
    before = server.pids("ServeReplica:")
    grown = {**server.config, "applications": [*server.config["applications"]]}
    grown["applications"].append(fake_application("added", aliases=["late"]))
    deploy(server, grown)
    wait_until_known(server, "late")
    assert len(draw(server, model="late")) > 0
    assert set(before) <= set(server.pids("ServeReplica:"))
    deploy(server, server.config)
    server.wait_ready()


def deploy(server: Server, config: dict[str, Any]) -> None:
    path = server.write("grown.yaml", config)
    subprocess.run(
        [str(Path(sys.executable).parent / "serve"), "deploy", str(path), "-a", server.dashboard],
        check=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        timeout=120,
    )


def wait_until_known(server: Server, name: str) -> None:
    deadline = time.monotonic() + 90
    while httpx.get(f"{server.url}/v1/models/{name}").status_code != 200:
        assert time.monotonic() < deadline, server.log()
        time.sleep(0.3)


def wait_for_status(server: Server, prompt: str) -> str:
    deadline = time.monotonic() + 20
    while True:
        jobs = httpx.get(f"{server.url}/api/images", params={"limit": 5}).json()["jobs"]
        status: str = jobs[0]["status"]
        if status in ("CANCELLED", "COMPLETED", "FAILED") or time.monotonic() > deadline:
            return status
        time.sleep(0.2)
