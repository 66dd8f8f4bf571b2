"""Real clients of ComfyUI: its own example scripts, comfy-api-simplified, and the official SDK."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import comfy_sdk
import httpx
import pytest
from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper
from PIL import Image
from websockets.sync.client import connect

from tests.router.apis.comfyui_gateway import Served, comfyui_gateway
from tests.router.apis.conftest import wait_until


def workflow(prompt: str = "a star", *, seed: int = 5, steps: int = 3) -> dict[str, Any]:
    """The flow of ComfyUI's own scripts."""
    return {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "cfg": 2,
                "denoise": 1,
                "latent_image": ["5", 0],
                "model": ["4", 0],
                "negative": ["7", 0],
                "positive": ["6", 0],
                "sampler_name": "euler",
                "scheduler": "normal",
                "seed": seed,
                "steps": steps,
            },
        },
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sdxl-turbo"}},
        "5": {
            "class_type": "EmptyLatentImage",
            "inputs": {"batch_size": 1, "height": 64, "width": 128},
        },
        "6": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": prompt}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": "bad hands"}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {
            "class_type": "SaveImage",
            "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]},
        },
    }


def inversion(image: str) -> dict[str, Any]:
    """A flow that needs no model."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {
            "class_type": "SaveImage",
            "inputs": {"filename_prefix": "turned", "images": ["2", 0]},
        },
    }


def titled(flow: dict[str, Any]) -> dict[str, Any]:
    """With a title on every node, as ComfyUI's page exports a flow."""
    return {
        node_id: {**node, "_meta": {"title": node["class_type"]}} for node_id, node in flow.items()
    }


@pytest.fixture(scope="module")
def comfy() -> Iterator[Served]:
    with comfyui_gateway() as running:
        yield running


def size(data: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(data)).size


# -- ComfyUI's own scripts ----------------------------------------------------------------------


def queue_prompt(comfy: Served, prompt: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """As the scripts do it: urllib, which sends the JSON as a form."""
    data = json.dumps({"prompt": prompt, **fields}).encode()
    request = urllib.request.Request(f"{comfy.url}/prompt", data=data)
    answer: dict[str, Any] = json.loads(urllib.request.urlopen(request).read())
    return answer


def test_basic_script(comfy: Served) -> None:
    answer = queue_prompt(comfy, workflow(seed=1))
    assert set(answer) == {"prompt_id", "number", "node_errors"}
    wait_until(lambda: answer["prompt_id"] in comfy.http.get("/history").json())


def test_websockets_script(comfy: Served) -> None:
    client_id = str(uuid.uuid4())
    with connect(f"{comfy.url.replace('http', 'ws')}/ws?clientId={client_id}") as ws:
        prompt_id = queue_prompt(comfy, workflow(seed=2), client_id=client_id)["prompt_id"]
        while True:
            out = ws.recv()
            if isinstance(out, str):
                message = json.loads(out)
                if message["type"] == "executing":
                    data = message["data"]
                    if data["node"] is None and data["prompt_id"] == prompt_id:
                        break
    history = comfy.http.get(f"/history/{prompt_id}").json()[prompt_id]
    (image,) = history["outputs"]["9"]["images"]
    query = urllib.parse.urlencode(
        {"filename": image["filename"], "subfolder": image["subfolder"], "type": image["type"]}
    )
    with urllib.request.urlopen(f"{comfy.url}/view?{query}") as response:
        assert size(response.read()) == (128, 64)


def test_websockets_script_with_pictures_in_frames(comfy: Served) -> None:
    prompt = workflow(seed=3)
    prompt["save_image_websocket_node"] = {
        "class_type": "SaveImageWebsocket",
        "inputs": {"images": ["8", 0]},
    }
    del prompt["9"]
    client_id = str(uuid.uuid4())
    images: dict[str, list[bytes]] = {}
    with connect(f"{comfy.url.replace('http', 'ws')}/ws?clientId={client_id}") as ws:
        prompt_id = queue_prompt(comfy, prompt, client_id=client_id)["prompt_id"]
        current = ""
        while True:
            out = ws.recv()
            if isinstance(out, str):
                message = json.loads(out)
                if message["type"] == "executing" and message["data"]["prompt_id"] == prompt_id:
                    if message["data"]["node"] is None:
                        break
                    current = message["data"]["node"]
            elif current == "save_image_websocket_node":
                images.setdefault(current, []).append(out[8:])
    assert [size(data) for data in images["save_image_websocket_node"]] == [(128, 64)]


# -- comfy-api-simplified -----------------------------------------------------------------------


def test_comfy_api_simplified(comfy: Served, tmp_path: Path) -> None:
    (tmp_path / "workflow.json").write_text(json.dumps(titled(workflow())))
    wrapped = ComfyWorkflowWrapper(str(tmp_path / "workflow.json"))
    wrapped.set_node_param("KSampler", "seed", 11)
    api = ComfyApiWrapper(comfy.url)
    results = api.queue_and_wait_images(wrapped, "SaveImage")
    assert [size(data) for data in results.values()] == [(128, 64)]
    assert all(name.startswith("ComfyUI_") for name in results)
    assert "KSampler" in api.get_object_info("KSampler")
    assert api.get_system_stats()["devices"]
    assert api.get_embeddings() == []
    api.interrupt()


def test_comfy_api_simplified_with_a_key_and_an_upload(tmp_path: Path) -> None:
    Image.new("RGB", (40, 24), (9, 8, 7)).save(tmp_path / "picture.png")
    with comfyui_gateway(api_key="key") as comfy:
        api = ComfyApiWrapper(comfy.url, user="ann", password="key")
        kept = api.upload_image(tmp_path / "picture.png", subfolder="plays")
        name = f"{kept['subfolder']}/{kept['name']}"
        (data,) = api.queue_and_wait_images(titled(inversion(name)), "SaveImage").values()
        assert Image.open(io.BytesIO(data)).getpixel((0, 0)) == (246, 247, 248)


def test_eight_clients_at_once_see_their_own_frames_only(comfy: Served) -> None:
    def draw(seed: int) -> tuple[str, set[str], bytes]:
        client_id = str(uuid.uuid4())
        seen: set[str] = set()
        with connect(f"{comfy.url.replace('http', 'ws')}/ws?clientId={client_id}") as ws:
            prompt = workflow(f"star {seed}", seed=seed, steps=5)
            prompt_id = queue_prompt(comfy, prompt, client_id=client_id)["prompt_id"]
            while True:
                message = json.loads(ws.recv())
                if "prompt_id" in message["data"]:
                    seen.add(message["data"]["prompt_id"])
                if message["type"] == "executing" and message["data"]["node"] is None:
                    break
        entry = comfy.http.get(f"/history/{prompt_id}").json()[prompt_id]
        (image,) = entry["outputs"]["9"]["images"]
        return prompt_id, seen, comfy.http.get("/view", params=image).content

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(draw, range(100, 108)))
    assert all(seen == {prompt_id} for prompt_id, seen, _ in together)
    pictures = {Image.open(io.BytesIO(data)).tobytes() for _, _, data in together}
    assert len(pictures) == 8
    assert len({prompt_id for prompt_id, _, _ in together}) == 8


# -- the official SDK, through its proxy --------------------------------------------------------


@pytest.fixture(scope="module")
def proxy(comfy: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """comfy-api-proxy before the gateway; its URL."""
    port = _free_port()
    command = [str(Path(sys.executable).parent / "comfy-api-proxy"), "run"]
    where = ["--comfyui", comfy.url, "--port", str(port)]
    process = subprocess.Popen([*command, *where], cwd=tmp_path_factory.mktemp("proxy"))
    try:
        _wait_for_port(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError("the proxy did not start")


def test_official_sdk(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_BASE_URL", proxy)
    client = comfy_sdk.Comfy()
    flow = client.workflows.from_json(workflow("a heart"))
    flow.set_input("3", "seed", 42)
    job = client.run(flow)
    (output,) = job.get_outputs("9")
    assert size(output.to_bytes()) == (128, 64)
    assert output.name.startswith("ComfyUI_")


def test_official_sdk_with_an_asset(
    proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_BASE_URL", proxy)
    Image.new("RGB", (40, 24), (9, 8, 7)).save(tmp_path / "picture.png")
    client = comfy_sdk.Comfy()
    flow = client.workflows.from_json(inversion(""))
    flow.set_input("1", "image", client.assets.from_file(str(tmp_path / "picture.png")))
    (output,) = client.run(flow).get_outputs("3")
    assert Image.open(io.BytesIO(output.to_bytes())).getpixel((0, 0)) == (246, 247, 248)


def test_official_sdk_asynchronously_with_events_and_cancel(
    comfy: Served, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_BASE_URL", proxy)

    async def draw() -> tuple[Any, Any]:
        async with comfy_sdk.AsyncComfy() as client:
            done = await client.submit(client.workflows.from_json(workflow("one", seed=77)))
            slow = await client.submit(
                client.workflows.from_json(workflow("two", seed=78, steps=150))
            )
            await slow.cancel()
            await done.wait()
            return done, slow

    done, _ = asyncio.run(draw())
    assert done.status in ("succeeded", "completed")
    wait_until(lambda: _statuses(comfy.http).get("cancelled", 0) >= 1)


def _statuses(http: httpx.Client) -> dict[str, int]:
    jobs = http.get("/api/jobs", params={"limit": 200}).json()["jobs"]
    counts: dict[str, int] = {}
    for job in jobs:
        counts[job["status"]] = counts.get(job["status"], 0) + 1
    return counts
