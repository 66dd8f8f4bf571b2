"""Owners' weights and LoRAs by their names, in every API; and nobody else's."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.types import GenerationRequest
from router.fake_models import FakeModels
from tests.router.apis.drawing import picture
from tests.router.apis.gateway import serving
from tests.router.apis.sdapi_gateway import SD15, SDXL

SDXL = replace(SDXL, loras=("ink",), lora_digests=(("ink", "0123456789ab"),))
SD15 = replace(SD15, weights=("default", "eve"))
T2I = "/sdapi/v1/txt2img"
SMALL: dict[str, Any] = {"prompt": "a", "width": 64, "height": 64, "steps": 2, "seed": 5}


def safetensors(name: str = "conv_in.weight", fill: int = 0) -> bytes:
    told = {name: {"dtype": "F16", "shape": [8], "data_offsets": [0, 16]}}
    header = json.dumps(told).encode()
    return len(header).to_bytes(8, "little") + header + bytes([fill]) * 16


LORA = safetensors("unet.conv_in.lora_A.weight")


def basic(user: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:key'.encode()).decode()}"}


class Owner:
    """One user's way to a gateway."""

    def __init__(self, http: httpx.AsyncClient, models: FakeModels, name: str) -> None:
        self.http, self.models, self.headers = http, models, basic(name)

    async def put(self, name: str, base: str, data: bytes) -> dict[str, Any]:
        answer = await self.http.put(
            f"/v1/models/personal/{name}",
            data={"base": base},
            files={"file": ("x.safetensors", data)},
            headers=self.headers,
        )
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def delete(self, name: str) -> None:
        path = f"/v1/models/personal/{name}"
        assert (await self.http.delete(path, headers=self.headers)).is_success

    async def get(self, path: str) -> Any:
        return (await self.http.get(path, headers=self.headers)).json()

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.http.post(path, json=body, headers=self.headers)

    @property
    def drawn(self) -> GenerationRequest:
        """What the models were asked last."""
        return self.models.calls[-1]


@asynccontextmanager
async def owners(folder: Path, step_seconds: float = 0.0) -> AsyncIterator[tuple[Owner, Owner]]:
    """Ann, who has weights ``sks`` of SD 1.5 and a LoRA ``wool`` of SDXL; and Bob."""
    models = FakeModels(SDXL, SD15, step_seconds=step_seconds)
    async with serving(models, images_url=str(folder), api_key="key") as http:
        ann, bob = Owner(http, models, "ann"), Owner(http, models, "bob")
        assert (await ann.put("sks", "sd15-dreambooth", safetensors()))["type"] == "checkpoint"
        assert (await ann.put("wool", "sdxl-turbo", LORA))["type"] == "lora"
        yield ann, bob


def is_anns(request: GenerationRequest) -> bool:
    source = request.weights_source
    return request.weights == "sks" and source is not None and not source.is_lora


def info(answer: httpx.Response) -> Any:
    return json.loads(answer.json()["info"])


# -- sdapi --------------------------------------------------------------------------------------


async def test_sdapi_lists_what_the_caller_may_use(tmp_path: Path) -> None:
    async with owners(tmp_path) as (ann, bob):
        anns, bobs = [
            [model["model_name"] for model in await owner.get("/sdapi/v1/sd-models")]
            for owner in (ann, bob)
        ]
        shared = ["sd15-dreambooth/default", "sd15-dreambooth/eve"]
        assert anns == ["sdxl-turbo", "sd15-dreambooth", "sks", *shared]
        assert bobs == ["sdxl-turbo", "sd15-dreambooth", *shared]
        loras = [
            [lora["name"] for lora in await owner.get("/sdapi/v1/loras")] for owner in (ann, bob)
        ]
        assert loras == [["ink", "wool"], ["ink"]]
        assert (await bob.post("/sdapi/v1/refresh-loras")).json() is None


@pytest.mark.parametrize("form", ["sks", "SKS.safetensors", "{title}", "{hash}", "{base}/sks"])
async def test_sdapi_draws_with_weights_by_every_name_and_tells_theirs(
    tmp_path: Path, form: str
) -> None:
    async with owners(tmp_path) as (ann, bob):
        [told] = [m for m in await ann.get("/sdapi/v1/sd-models") if m["model_name"] == "sks"]
        name = form.format(title=told["title"], hash=told["hash"], base="sd15-dreambooth")
        override = {"override_settings": {"sd_model_checkpoint": name}}
        answer = await ann.post(T2I, **SMALL, **override)
        assert answer.status_code == 200, answer.text
        assert ann.drawn.model == "sd15-dreambooth"
        assert is_anns(ann.drawn)
        assert f"Model hash: {told['hash']}, Model: sks" in info(answer)["infotexts"][0]
        assert (info(answer)["sd_model_name"], info(answer)["sd_model_hash"]) == (
            *("sks", told["hash"]),
        )
        refused = await bob.post(T2I, **SMALL, **override)
        assert refused.status_code == 400
        assert "not found" in refused.text


async def test_sdapi_tells_names_apart_that_differ_by_case(tmp_path: Path) -> None:
    async with owners(tmp_path) as (ann, _):
        await ann.put("SKS", "sdxl-turbo", safetensors(fill=1))
        for name, base in (("sks", "sd15-dreambooth"), ("SKS", "sdxl-turbo")):
            for form in ("{}", "{}.safetensors", "{} [0123456789]"):
                override = {"override_settings": {"sd_model_checkpoint": form.format(name)}}
                assert (await ann.post(T2I, **SMALL, **override)).status_code == 200
                assert (ann.drawn.model, ann.drawn.weights) == (base, name)


async def test_sdapi_keeps_the_choice_of_weights_of_each_owner(tmp_path: Path) -> None:
    async with owners(tmp_path) as (ann, bob):
        setting = {"sd_model_checkpoint": "sks"}
        assert (await ann.post("/sdapi/v1/options", **setting)).status_code == 200
        assert (await bob.post("/sdapi/v1/options", **setting)).status_code == 400
        await ann.post(T2I, **SMALL)
        assert is_anns(ann.drawn)
        await bob.post(T2I, **SMALL)
        assert (bob.drawn.model, bob.drawn.weights) == ("sdxl-turbo", None)
        # Registered anew, the weights have another hash, and the choice stays.
        before = (await ann.get("/sdapi/v1/options"))["sd_model_checkpoint"]
        await ann.put("sks", "sd15-dreambooth", safetensors(fill=1))
        after = (await ann.get("/sdapi/v1/options"))["sd_model_checkpoint"]
        assert before != after
        assert before.partition(" ")[0] == after.partition(" ")[0] == "sks.safetensors"
        await ann.delete("sks")
        await ann.post(T2I, **SMALL)
        assert (ann.drawn.model, ann.drawn.weights) == ("sdxl-turbo", None)


async def test_sdapi_draws_with_the_configurations_weights(tmp_path: Path) -> None:
    async with owners(tmp_path) as (_, bob):
        override = {"override_settings": {"sd_model_checkpoint": "sd15-dreambooth/eve"}}
        answer = await bob.post(T2I, **SMALL, **override)
        assert (bob.drawn.model, bob.drawn.weights) == ("sd15-dreambooth", "eve")
        assert bob.drawn.weights_source is None
        assert info(answer)["sd_model_name"] == "sd15-dreambooth/eve"


async def test_weights_end_what_their_own_model_began(tmp_path: Path) -> None:
    async with owners(tmp_path) as (ann, bob):
        fields = {
            "override_settings": {"sd_model_checkpoint": "sd15-dreambooth"},
            "refiner_checkpoint": "sks",
            "refiner_switch_at": 0.5,
        }
        answer = await ann.post(T2I, **SMALL, **fields)
        assert answer.status_code == 200, answer.text
        first, second = ann.models.calls[-2:]
        assert (first.weights, first.weights_source) == (None, None)
        assert is_anns(second)
        assert "Refiner: sks [" in info(answer)["infotexts"][0]
        assert (await bob.post(T2I, **SMALL, **fields)).status_code == 400


async def test_a_plot_draws_each_cell_with_its_own_weights(tmp_path: Path) -> None:
    async with owners(tmp_path) as (ann, _):
        axes = ["Checkpoint name", "", ["sks", "sdxl-turbo"], 0, "", [], 0, "", []]
        args = [*axes, True, True, False, False, False, False, False, 0, False]
        answer = await ann.post(T2I, **SMALL, script_name="x/y/z plot", script_args=args)
        assert answer.status_code == 200, answer.text
        drawn = sorted((call.model, call.weights) for call in ann.models.calls)
        assert drawn == [("sd15-dreambooth", "sks"), ("sdxl-turbo", None)]


async def test_sdapi_s_tags_name_the_owners_loras_and_its_infotext_their_hashes(
    tmp_path: Path,
) -> None:
    async with owners(tmp_path) as (ann, bob):
        body = {**SMALL, "prompt": "a <lora:wool:0.5><lora:ink:1>"}
        answer = await ann.post(T2I, **body, enable_hr=True, hr_prompt="b <lora:wool:1>")
        wool, ink = ann.drawn.loras
        assert wool.source is not None
        assert (wool.name, wool.weight, wool.source.is_lora) == ("wool", 0.5, True)
        assert ink.source is None
        assert ann.drawn.second_pass is not None
        assert ann.drawn.second_pass.loras is not None
        assert ann.drawn.second_pass.loras[0].source == wool.source
        text = info(answer)["infotexts"][0]
        assert f'Lora hashes: "wool: {wool.source.digest}, ink: 0123456789ab", Version' in text
        told = await ann.post("/sdapi/v1/png-info", image=answer.json()["images"][0])
        assert told.status_code == 200
        refused = await bob.post(T2I, **body)
        assert "LoRA 'wool' not found; known: ink" in json.dumps(refused.json()).replace("\\'", "'")
        other = {"override_settings": {"sd_model_checkpoint": "sd15-dreambooth"}}
        assert "known: none" in (await ann.post(T2I, **body, **other)).text


# -- the other APIs -----------------------------------------------------------------------------


async def test_openai_s_model_is_the_name_of_weights(tmp_path: Path) -> None:
    async with owners(tmp_path) as (ann, bob):
        body = {"prompt": "a", "model": "sks", "size": "64x64"}
        assert (await ann.post("/v1/images/generations", **body)).status_code == 200
        assert is_anns(ann.drawn)
        for field in ("image", "images"):
            answer = await ann.http.post(
                "/v1/images/edits", data=body, files={field: picture()}, headers=ann.headers
            )
            assert answer.status_code == 200, answer.text
            assert is_anns(ann.drawn)
        varied = await ann.http.post(
            "/v1/images/variations",
            data={"model": "sks"},
            files={"image": picture()},
            headers=ann.headers,
        )
        assert varied.status_code == 200, varied.text
        assert is_anns(ann.drawn)
        refused = await bob.post("/v1/images/generations", **body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")


async def test_openai_lists_the_owners_weights(tmp_path: Path) -> None:
    async with owners(tmp_path) as (ann, bob):
        ids = [
            [model["id"] for model in (await owner.get("/v1/models"))["data"]]
            for owner in (ann, bob)
        ]
        hosted = ["sdxl-turbo", "sd15-dreambooth"]
        assert ids == [[*hosted, "sks"], hosted]
        assert (await ann.get("/v1/models/sks"))["owned_by"] == "ann"
        assert (await bob.get("/v1/models/sks"))["error"]["code"] == "model_not_found"
        assert (await bob.get("/v1/models/sd15-dreambooth/eve"))["id"] == "sd15-dreambooth/eve"
        assert (await ann.get("/v1/models/wool"))["error"]["code"] == "model_not_found"


async def test_generate_draws_with_weights_by_model_too(tmp_path: Path) -> None:
    async with owners(tmp_path) as (ann, bob):
        size = {"width": 256, "height": 256, "num_inference_steps": 1}
        for fields in ({"model": "sks"}, {"user_id": "sks"}, {"model": "sks", "user_id": "eve"}):
            assert (await ann.post("/generate", prompt="a", **size, **fields)).status_code == 200
            assert is_anns(ann.drawn)
        await ann.post("/generate", prompt="a", user_id="wool", **size)
        assert ann.drawn.weights == "default"
        refused = await bob.post("/generate", prompt="a", model="sks", **size)
        assert refused.status_code == 404


async def told_once(
    owner: Owner, path: str, has_come: Callable[[httpx.Response], bool]
) -> dict[str, Any]:
    """What a path tells once something has come."""
    async with asyncio.timeout(20):
        while not has_come(got := await owner.http.get(path, headers=owner.headers)):  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.01)
    told: dict[str, Any] = got.json()
    return told


async def ended(owner: Owner, prompt: httpx.Response) -> dict[str, Any]:
    """The history of a graph."""
    prompt_id = prompt.json()["prompt_id"]
    told = await told_once(owner, f"/history/{prompt_id}", lambda got: bool(got.json()))
    history: dict[str, Any] = told[prompt_id]
    return history


async def finished(owner: Owner, answer: httpx.Response) -> dict[str, Any]:
    """The result of an image job."""
    path = f"/api/images/result/{answer.json()['job_id']}"
    return await told_once(owner, path, lambda got: got.status_code != 202)


async def test_image_jobs_draw_with_weights_and_loras(tmp_path: Path) -> None:
    async with owners(tmp_path) as (ann, bob):
        body = {"prompt": "a", "size": "512x512"}
        await finished(ann, await ann.post("/api/images/generate", model="sks", **body))
        assert is_anns(ann.drawn)
        wool = {"loras": [{"name": "wool"}]}
        await finished(ann, await ann.post("/api/images/generate", **wool, **body))
        assert ann.drawn.loras[0].source is not None
        refused = await bob.post("/api/images/generate", model="sks", **body)
        assert (refused.status_code, "sks" in refused.text) == (404, True)
        assert (await bob.post("/api/images/generate", **wool, **body)).status_code == 400


@pytest.mark.parametrize("path", ["/generate", "/v1/images/generations"])
async def test_loras_by_name_are_the_callers(tmp_path: Path, path: str) -> None:
    async with owners(tmp_path) as (ann, bob):
        body = {"prompt": "a", "model": "sdxl-turbo", "loras": [{"name": "wool", "weight": 2}]}
        assert (await ann.post(path, **body)).status_code == 200
        assert ann.drawn.loras[0].source is not None
        refused = await bob.post(path, **body)
        assert refused.status_code == 400
        assert "unknown LoRA 'wool' for 'sdxl-turbo'; known: ink" in refused.text
        other = await ann.post(path, **{**body, "model": "sd15-dreambooth"})
        assert other.status_code == 400


# -- ComfyUI ------------------------------------------------------------------------------------


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def graph(checkpoint: str, lora: str | None = None) -> dict[str, Any]:
    loader = node("CheckpointLoaderSimple", ckpt_name=checkpoint)
    model, clip = ["1", 0], ["1", 1]
    nodes = {"1": loader}
    if lora is not None:
        strengths = {"strength_model": 0.5, "strength_clip": 0.25}
        nodes["2"] = node("LoraLoader", model=model, clip=clip, lora_name=lora, **strengths)
        model, clip = ["2", 0], ["2", 1]
    return nodes | {
        "4": node("CLIPTextEncode", clip=clip, text="a star"),
        "5": node("CLIPTextEncode", clip=clip, text="fog"),
        "6": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "7": node(
            "KSampler",
            model=model,
            positive=["4", 0],
            negative=["5", 0],
            latent_image=["6", 0],
            seed=1,
            steps=2,
            cfg=2.0,
            denoise=1.0,
            sampler_name="euler",
            scheduler="normal",
        ),
        "8": node("VAEDecode", samples=["7", 0], vae=["1", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="x"),
    }


async def executed(owner: Owner, nodes: dict[str, Any]) -> dict[str, Any]:
    """The history of a graph that succeeds."""
    answer = await owner.post("/prompt", prompt=nodes)
    assert answer.status_code == 200, answer.text
    told = await ended(owner, answer)
    assert told["status"]["status_str"] == "success", told
    return told


async def test_comfyui_lists_and_draws_with_weights(tmp_path: Path) -> None:
    async with owners(tmp_path) as (ann, bob):
        for owner, has_them in ((ann, True), (bob, False)):
            loader = (await owner.get("/object_info"))["CheckpointLoaderSimple"]
            names = loader["input"]["required"]["ckpt_name"][0]
            assert ("sks" in names) is has_them
            assert "sd15-dreambooth/eve" in names
            assert ("sks" in await owner.get("/models/checkpoints")) is has_them
        await executed(ann, graph("sks"))
        sampled = next(call for call in ann.models.calls if call.parts)
        assert sampled.model == "sd15-dreambooth"
        assert is_anns(sampled)
        assert ann.drawn.task == "decode"
        assert (ann.drawn.model, ann.drawn.weights) == ("sd15-dreambooth", None)
        refused = await bob.post("/prompt", prompt=graph("sks"))
        [complaint] = refused.json()["node_errors"]["1"]["errors"]
        assert (refused.status_code, complaint["type"]) == (400, "value_not_in_list")


async def test_comfyui_lists_and_draws_with_loras(tmp_path: Path) -> None:
    async with owners(tmp_path) as (ann, bob):
        for owner, names in ((ann, ["ink", "wool"]), (bob, ["ink"])):
            files = [f"{name}.safetensors" for name in names]
            assert await owner.get("/models/loras") == [*names, *files]
        await executed(ann, graph("sdxl-turbo", "wool.safetensors"))
        sampled = next(call for call in ann.models.calls if call.parts)
        [use] = sampled.loras
        assert use.source is not None
        assert (use.weight, use.text_weight) == (0.5, 0.0)
        assert sampled.parts[0].loras is not None
        assert sampled.parts[0].loras[0].source == use.source
        refused = await bob.post("/prompt", prompt=graph("sdxl-turbo", "wool"))
        assert refused.status_code == 400


async def test_comfyui_draws_anew_once_weights_are_others(tmp_path: Path) -> None:
    async with owners(tmp_path) as (ann, _):
        for name, base, data in (
            ("sks", "sd15-dreambooth", safetensors(fill=1)),
            ("wool", "sdxl-turbo", LORA),
        ):
            nodes = graph("sks") if name == "sks" else graph(base, "wool.safetensors")
            await executed(ann, nodes)
            num_calls = len(ann.models.calls)
            await executed(ann, nodes)
            assert len(ann.models.calls) == num_calls
            await ann.put(name, base, data)
            await executed(ann, nodes)
            assert len(ann.models.calls) > num_calls


async def test_texts_of_the_base_do_not_guide_weights(tmp_path: Path) -> None:
    async with owners(tmp_path) as (ann, _):
        nodes = graph("sks")
        nodes["3"] = node("CheckpointLoaderSimple", ckpt_name="sd15-dreambooth")
        nodes["4"]["inputs"]["clip"] = ["3", 1]
        found = await ended(ann, await ann.post("/prompt", prompt=nodes))
        assert "is a text for model 'sd15-dreambooth'" in json.dumps(found).replace("\\'", "'")


# -- what is removed meanwhile ------------------------------------------------------------------


async def test_jobs_that_wait_draw_with_what_was_removed_meanwhile(tmp_path: Path) -> None:
    """Both a job of requests and a graph, neither of which has begun."""
    async with owners(tmp_path, step_seconds=0.3) as (ann, _):
        body = {"prompt": "a", "size": "512x512", "num_inference_steps": 10}
        busy = [await ann.post("/api/images/generate", model="sks", **body) for _ in range(16)]
        prompt = await ann.post("/prompt", prompt=graph("sks"))
        last = await ann.post("/api/images/generate", model="sks", **body)
        await ann.delete("sks")
        assert len(list(tmp_path.glob("weights/*"))) == 2
        for answer in (*busy, last):
            assert (await finished(ann, answer))["status"] == "COMPLETED"
        assert (await ended(ann, prompt))["status"]["status_str"] == "success"
        assert all(is_anns(call) for call in ann.models.calls if call.task == "generate")
        assert (await ann.post("/generate", prompt="a", model="sks")).status_code == 404
