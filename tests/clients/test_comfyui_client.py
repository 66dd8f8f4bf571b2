"""The client of the ComfyUI API, and the programs of the guides that it is made after."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from clients import comfyui_client
from clients.comfyui_client import ComfyUIClient, create_client, parse_outputs
from clients.comfyui_errors import (
    ComfyUIError,
    GenerationTimeout,
    OutOfMemory,
    ServiceRefused,
    ServiceUnreachable,
    WorkflowFailed,
    WorkflowInterrupted,
    WorkflowInvalid,
    explain_failure,
)
from clients.comfyui_workflows import text2image_workflow
from tests.cluster.server import free_port
from tests.router.apis.comfyui_gateway import Served, comfyui_gateway

DOCUMENT = Path(__file__).with_name("comfyui_document.md")
#: The guides' two servers; here one gateway speaks both APIs.
GUIDES_URL = re.compile(r"https://(qwen-image-edit|turbo\.stable-diffusion-webui-forge)\.myia\.io")


@pytest.fixture(scope="module")
def comfy() -> Iterator[Served]:
    with comfyui_gateway() as running:
        yield running


@pytest.fixture
def client(comfy: Served) -> Iterator[ComfyUIClient]:
    with create_client(comfy.url) as client:
        yield client


def test_text2image_asks_for_what_it_says(comfy: Served, client: ComfyUIClient) -> None:
    asked = {"width": 128, "height": 64, "steps": 3, "cfg_scale": 2.0, "seed": 7}
    images = client.wait_for_images(client.generate_text2image("a cat", "blurry", **asked))
    assert [image.size for image in images] == [(128, 64)]
    request = next(call for call in reversed(comfy.models.calls) if call.task == "generate")
    assert [part.text for part in request.parts] == ["a cat"]
    assert [part.text for part in request.negative_parts] == ["blurry"]
    assert (request.params.num_inference_steps, request.params.seed) == (3, 7)


def test_edit_image_starts_from_the_picture(comfy: Served, client: ComfyUIClient) -> None:
    picture = Image.new("RGB", (128, 64), (200, 30, 30))
    prompt_id = client.edit_image(image=picture, prompt="Add a rainbow", strength=0.5, steps=4)
    (image,) = client.wait_for_images(prompt_id)
    assert image.size == (128, 64)
    request = next(call for call in reversed(comfy.models.calls) if call.task == "generate")
    assert request.images or (request.latents and request.latents.value is not None)


def test_a_seed_of_minus_one_draws_one() -> None:
    seeds = {text2image_workflow("a", seed=-1)["5"]["inputs"]["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert min(seeds) >= 0


def test_execute_workflow_waits_and_tells(
    client: ComfyUIClient, capsys: pytest.CaptureFixture[str]
) -> None:
    workflow = text2image_workflow("a cat", width=64, height=64, steps=3, batch_size=2)
    result = client.execute_workflow(workflow)
    assert result["count"] == len(result["images"]) == 2
    told = capsys.readouterr().out
    assert "✅ Workflow queued: " in told
    assert "✅ Génération terminée en " in told


def test_execute_workflow_need_not_wait(client: ComfyUIClient) -> None:
    workflow = text2image_workflow("a cat", width=64, height=64, steps=1)
    queued = client.execute_workflow(workflow, wait_for_completion=False)
    assert queued["status"] == "queued"
    assert len(client.wait_for_images(queued["prompt_id"])) == 1


@pytest.mark.parametrize("has_socket", [True, False])
def test_progress_is_told_or_asked_for(
    client: ComfyUIClient, has_socket: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_socket:
        monkeypatch.setitem(sys.modules, "websockets.sync.client", None)
    steps: list[tuple[int, int]] = []
    workflow = text2image_workflow("slowly", width=64, height=64, steps=6)
    images = client.wait_for_images(
        client.queue(workflow), on_progress=lambda step, total: steps.append((step, total))
    )
    assert len(images) == 1
    assert bool(steps) is has_socket
    assert all(total == 6 and 0 <= step <= total for step, total in steps)


def test_what_takes_too_long_is_a_timeout(client: ComfyUIClient) -> None:
    workflow = text2image_workflow("slowly", width=64, height=64, steps=100)
    prompt_id = client.queue(workflow)
    with pytest.raises(TimeoutError, match="has not ended") as caught:
        client.wait_for_images(prompt_id, max_wait=0.3)
    assert isinstance(caught.value, GenerationTimeout)
    client.interrupt(prompt_id)
    with pytest.raises(WorkflowInterrupted):
        client.wait_for_images(prompt_id, max_wait=10)


def test_a_wrong_workflow_is_explained(client: ComfyUIClient) -> None:
    workflow = text2image_workflow("a cat", model="no-such-model")
    with pytest.raises(WorkflowInvalid, match="Value not in list") as caught:
        client.execute_workflow(workflow)
    assert caught.value.status == 400
    assert "QwenVLCLIPLoader" in str(caught.value)
    assert set(caught.value.node_errors) == {"1"}


def test_an_unknown_node_is_explained(client: ComfyUIClient) -> None:
    with pytest.raises(WorkflowInvalid, match="Foo"):
        client.queue({"1": {"class_type": "Foo", "inputs": {}}})


def test_a_server_that_is_not_there_is_explained() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with create_client(url, timeout=1) as client, pytest.raises(ServiceUnreachable, match=url):
        client.generate_text2image("a cat")


def test_a_missing_key_is_explained() -> None:
    with comfyui_gateway(api_key="key") as comfy:
        with create_client(comfy.url) as client, pytest.raises(ServiceRefused, match="api_key"):
            client.generate_text2image("a cat")
        with ComfyUIClient(comfy.url, api_key="key") as client:
            asked = {"width": 64, "height": 64, "steps": 1}
            assert client.wait_for_images(client.generate_text2image("a cat", **asked))


def test_a_failed_workflow_names_the_node(client: ComfyUIClient) -> None:
    prompt_id = client.queue(
        text2image_workflow("a cat", width=64, height=64, scheduler="kl_optimal")
    )
    with pytest.raises(WorkflowFailed, match="QwenImageSamplerNode") as caught:
        client.wait_for_images(prompt_id, max_wait=20)
    assert caught.value.node_id == "5"


def test_a_full_card_says_what_helps() -> None:
    data = {"node_id": "5", "node_type": "KSampler", "exception_type": "torch.OutOfMemoryError"}
    error = explain_failure({**data, "exception_message": "Allocation on device"})
    assert isinstance(error, OutOfMemory)
    assert "smaller picture" in str(error)


def test_an_entry_of_an_old_server_that_failed_without_words() -> None:
    with pytest.raises(ComfyUIError, match="does not say why"):
        parse_outputs("p", {"outputs": {}, "status": {"status_str": "error", "messages": []}})


def test_guides_programs_run_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    _pretend_matplotlib(monkeypatch, shown)
    _pretend_course(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), (30, 120, 200)).save("mon_image.png")
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    scope: dict[str, Any] = {}
    with comfyui_gateway() as comfy:
        for block in blocks:
            program = compile(GUIDES_URL.sub(comfy.url, block), "guide", "exec")
            if "class ComfyUIClient" in block:
                exec(program, scope)
                monkeypatch.setattr(comfyui_client, "ComfyUIClient", scope["ComfyUIClient"])
                continue
            if "# 1. Connexion au service" in block:
                monkeypatch.setattr(comfyui_client, "ComfyUIClient", ComfyUIClient)
            exec(program, scope)
    assert len(shown) == 2  # the cat of the client made by hand, and of the project's
    assert (tmp_path / "image_editee.png").exists()


def _pretend_matplotlib(monkeypatch: pytest.MonkeyPatch, shown: list[Any]) -> None:
    """As much of it as the guides use."""
    pyplot = types.ModuleType("matplotlib.pyplot")
    for name in ("figure", "axis", "title", "show"):
        setattr(pyplot, name, lambda *_, **__: None)
    pyplot.imshow = shown.append  # type: ignore[attr-defined]
    matplotlib = types.ModuleType("matplotlib")
    matplotlib.pyplot = pyplot  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "matplotlib", matplotlib)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", pyplot)


def _pretend_course(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the course, in which the client goes by its own file's name."""
    helpers = types.ModuleType("helpers")
    monkeypatch.setitem(sys.modules, "helpers", helpers)
    monkeypatch.setitem(sys.modules, "helpers.comfyui_client", comfyui_client)
    monkeypatch.setitem(sys.modules, "comfyui_client", comfyui_client)


def test_the_documented_polling_by_hand(comfy: Served) -> None:
    workflow = text2image_workflow("a cat", width=64, height=64, steps=1)
    body = {"prompt": workflow, "client_id": "client123"}
    prompt_id = httpx.post(f"{comfy.url}/prompt", json=body).json()["prompt_id"]
    result: dict[str, Any] = {}
    while not (prompt_id in result and "outputs" in result[prompt_id]):
        result = httpx.get(f"{comfy.url}/history/{prompt_id}").json()
    assert result[prompt_id]["outputs"]["7"]["images"][0]["filename"].startswith("Qwen_T2I_")
