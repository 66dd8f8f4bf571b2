"""ComfyUI's API under Ray Serve: two gateway replicas, real models, latents by reference."""

from __future__ import annotations

import base64
import io
import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from websockets.sync.client import connect

from clients.comfyui_client import ComfyUIClient, create_client
from clients.comfyui_workflows import edit_workflow, text2image_workflow
from tests.cluster.server import Server

STEPS = 4


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def drawing(
    prompt: str, *, seed: int, model: str = "sdxl-turbo", **sampling: Any
) -> dict[str, Any]:
    """Text to image."""
    asked = {"steps": STEPS, "cfg": 1.0, "denoise": 1.0, "scheduler": "normal"} | sampling
    return {
        "loader": node("CheckpointLoaderSimple", ckpt_name=model),
        "empty": node("EmptyLatentImage", width=256, height=192, batch_size=1),
        "yes": node("CLIPTextEncode", clip=["loader", 1], text=prompt),
        "no": node("CLIPTextEncode", clip=["loader", 1], text=""),
        "sampler": node(
            "KSampler",
            model=["loader", 0],
            positive=["yes", 0],
            negative=["no", 0],
            latent_image=["empty", 0],
            seed=seed,
            sampler_name="euler",
            **asked,
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["loader", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="cluster"),
    }


def pixels(data: bytes) -> NDArray[np.int16]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.int16)


def run(server: Server, graph: dict[str, Any], output: str = "save") -> list[NDArray[np.int16]]:
    """The pictures of an output node, asked for without a socket."""
    answer = httpx.post(f"{server.url}/prompt", json={"prompt": graph}, timeout=60)
    assert answer.status_code == 200, answer.text
    prompt_id = answer.json()["prompt_id"]
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        history = httpx.get(f"{server.url}/history/{prompt_id}", timeout=60).json()
        if prompt_id in history:
            entry = history[prompt_id]
            assert entry["status"]["completed"], entry["status"]
            images = entry["outputs"][output]["images"]
            views = [httpx.get(f"{server.url}/view", params=i, timeout=60) for i in images]
            return [pixels(view.content) for view in views]
        time.sleep(0.05)
    raise TimeoutError(prompt_id)


def test_a_graph_draws_what_the_same_request_draws_elsewhere(server: Server) -> None:
    (picture,) = run(server, drawing("a red circle", seed=11, scheduler="simple"))
    body = {
        "prompt": "a red circle",
        "width": 256,
        "height": 192,
        "steps": STEPS,
        "cfg_scale": 1.0,
        "seed": 11,
        "sampler_name": "Euler",
        "scheduler": "simple",
    }
    answer = httpx.post(f"{server.url}/sdapi/v1/txt2img", json=body, timeout=300).json()
    same = pixels(base64.b64decode(answer["images"][0]))
    assert picture.shape == same.shape == (192, 256, 3)
    assert np.abs(picture - same).max() <= 1


def test_two_samplers_in_a_row_continue_one_walk(server: Server) -> None:
    whole = drawing("a star", seed=3)
    halves = drawing("a star", seed=3)
    common = {
        "model": ["loader", 0],
        "positive": ["yes", 0],
        "negative": ["no", 0],
        "noise_seed": 3,
        "steps": STEPS,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "normal",
    }
    halves["first"] = node(
        "KSamplerAdvanced",
        **common,
        latent_image=["empty", 0],
        add_noise="enable",
        start_at_step=0,
        end_at_step=2,
        return_with_leftover_noise="enable",
    )
    halves["sampler"] = node(
        "KSamplerAdvanced",
        **common,
        latent_image=["first", 0],
        add_noise="disable",
        start_at_step=2,
        end_at_step=10000,
        return_with_leftover_noise="disable",
    )
    (one,), (two,) = run(server, whole), run(server, halves)
    assert np.abs(one - two).max() <= 1


def test_an_upscaled_second_pass_and_a_masked_one(server: Server) -> None:
    graph = drawing("a boat", seed=5)
    graph["larger"] = node(
        "LatentUpscale",
        samples=["sampler", 0],
        upscale_method="bilinear",
        width=384,
        height=256,
        crop="disabled",
    )
    graph["mask"] = node("SolidMask", value=1.0, width=192, height=256)
    graph["masked"] = node("SetLatentNoiseMask", samples=["larger", 0], mask=["mask", 0])
    graph["second"] = node(
        "KSampler",
        **graph["sampler"]["inputs"] | {"latent_image": ["masked", 0], "denoise": 0.5},
    )
    graph["decode"]["inputs"]["samples"] = ["second", 0]
    (picture,) = run(server, graph)
    assert picture.shape == (256, 384, 3)


def test_eight_graphs_of_eight_clients_at_once(server: Server) -> None:
    seeds = range(60, 68)

    def draw(seed: int) -> tuple[set[str], str, NDArray[np.int16]]:
        client_id = uuid.uuid4().hex
        seen: set[str] = set()
        with connect(
            f"{server.url.replace('http', 'ws')}/ws?clientId={client_id}", max_size=None
        ) as socket:
            body = {"prompt": drawing(f"star {seed}", seed=seed), "client_id": client_id}
            answer = httpx.post(f"{server.url}/prompt", json=body, timeout=60)
            prompt_id = answer.json()["prompt_id"]
            kinds = []
            while True:
                message = json.loads(socket.recv(timeout=120))
                kinds.append(message["type"])
                if "prompt_id" in message["data"]:
                    seen.add(message["data"]["prompt_id"])
                if message["type"] == "executing" and message["data"]["node"] is None:
                    break
        assert kinds[-3:] == ["execution_success", "status", "executing"]
        assert {"execution_start", "execution_cached", "executed"} <= set(kinds)
        entry = httpx.get(f"{server.url}/history/{prompt_id}", timeout=60).json()[prompt_id]
        (image,) = entry["outputs"]["save"]["images"]
        return (
            seen,
            prompt_id,
            pixels(httpx.get(f"{server.url}/view", params=image, timeout=60).content),
        )

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(draw, seeds))
    assert all(seen == {prompt_id} for seen, prompt_id, _ in together)
    for seed in (60, 67):
        (alone,) = run(server, drawing(f"star {seed}", seed=seed))
        assert np.abs(alone - together[seed - 60][2]).max() <= 1


@pytest.fixture
def client(server: Server) -> Any:
    with create_client(server.url, timeout=60) as client:
        yield client


def test_the_courses_workflows(client: ComfyUIClient) -> None:
    steps: list[int] = []
    prompt_id = client.queue(
        text2image_workflow("a mountain", width=256, height=256, steps=6, seed=1)
    )
    (image,) = client.wait_for_images(prompt_id, 300, lambda step, _: steps.append(step))
    assert image.size == (256, 256)
    assert steps
    assert steps == sorted(steps)
    name = client.upload_image(image)
    workflow = edit_workflow(name, "Change sky to sunset", steps=4, seed=2, edit_strength=0.75)
    (edited,) = client.wait_for_images(client.queue(workflow), 300)
    assert edited.size == (256, 256)
    assert np.abs(np.asarray(image, np.int16) - np.asarray(edited, np.int16)).mean() > 1


def test_two_models_in_one_graph(server: Server) -> None:
    graph = drawing("a star", seed=9)
    other = drawing("a star", seed=9, model="sd15-dreambooth", cfg=5.0)
    for name, entry in other.items():
        entry["inputs"] = {
            key: [f"other {value[0]}", value[1]] if isinstance(value, list) else value
            for key, value in entry["inputs"].items()
        }
        graph[f"other {name}"] = entry
    first, second = run(server, graph), run(server, other_only(graph), "other save")
    assert first[0].shape == second[0].shape
    assert np.abs(first[0] - second[0]).mean() > 1


def other_only(graph: dict[str, Any]) -> dict[str, Any]:
    """The half of the graph that the other model draws."""
    return {name: entry for name, entry in graph.items() if name.startswith("other ")}
