"""LoRAs, as each API names them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from deployments.types import LoraUse, ModelCard
from router.fake_models import FakeModels
from tests.router.apis.drawing import picture
from tests.router.apis.gateway import serving
from tests.router.apis.sdapi_gateway import SD15, SDXL

SDXL = replace(SDXL, loras=("ink", "styles/wool"))
SD15 = replace(SD15, loras=("line",))
REFINER = replace(SDXL, id="refiner", aliases=(), loras=("ink",))
ONE = ({"loras": [{"name": "ink", "weight": 0.5}]}, (LoraUse(name="ink", weight=0.5),))
TWO = (
    {"loras": [{"name": "ink"}, {"name": "styles/wool", "weight": -1, "text_weight": 0}]},
    (LoraUse(name="ink"), LoraUse(name="styles/wool", weight=-1, text_weight=0)),
)
ASKED = pytest.mark.parametrize(
    ("fields", "uses"), [ONE, TWO, ({"loras": []}, ()), ({"loras": None}, ())]
)
BAD = pytest.mark.parametrize(
    ("loras", "words"),
    [
        ([{"name": "pen"}], "unknown LoRA 'pen' for 'sdxl-turbo'; known: ink, styles/wool"),
        ([{"name": "ink", "weight": 11}], "loras"),
        ([{"name": "ink", "weight": "1"}], "loras"),
        ([{"weight": 1}], "loras"),
        ([{"name": "ink", "scale": 1}], "loras"),
        ("ink", "loras"),
        ("[", "loras"),
        ({"name": "ink"}, "loras"),
    ],
)


class Asked:
    """A gateway and what its fake models were asked."""

    def __init__(self, http: httpx.AsyncClient, models: FakeModels) -> None:
        self.http, self.models = http, models

    @property
    def uses(self) -> tuple[LoraUse, ...]:
        return self.models.calls[-1].loras

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.http.post(path, json=body)

    async def until(self, path: str, has_come: Callable[[httpx.Response], bool]) -> None:
        async with asyncio.timeout(10):
            while not has_come(await self.http.get(path)):  # noqa: ASYNC110 - over HTTP
                await asyncio.sleep(0.01)

    async def t2i(self, prompt: str, **fields: Any) -> httpx.Response:
        body = {"width": 64, "height": 64, "steps": 2, **fields}
        return await self.post("/sdapi/v1/txt2img", prompt=prompt, **body)


@asynccontextmanager
async def asking(*cards: ModelCard) -> AsyncIterator[Asked]:
    models = FakeModels(*(cards or (SDXL, SD15, REFINER)))
    async with serving(models) as http:
        yield Asked(http, models)


@ASKED
async def test_generate_takes_them(fields: dict[str, Any], uses: tuple[LoraUse, ...]) -> None:
    async with asking() as gateway:
        answer = await gateway.post("/generate", prompt="a star", model="sdxl-turbo", **fields)
        assert (answer.status_code, gateway.uses) == (200, uses)


@ASKED
async def test_image_jobs_take_them(fields: dict[str, Any], uses: tuple[LoraUse, ...]) -> None:
    async with asking() as gateway:
        headers = {"Idempotency-Key": "k"}
        body = {"prompt": "a star", "size": "512x512", **fields}
        answer = await gateway.http.post("/api/images/generate", json=body, headers=headers)
        job_id = answer.json()["job_id"]
        await gateway.until(f"/api/images/result/{job_id}", lambda got: got.status_code != 202)
        assert gateway.uses == uses


@ASKED
async def test_openai_s_routes_take_them(fields: dict[str, Any], uses: tuple[LoraUse, ...]) -> None:
    async with asking() as gateway:
        body = {"prompt": "a star", "size": "64x64", "model": "sdxl-turbo"}
        answer = await gateway.post("/v1/images/generations", **body, **fields)
        assert (answer.status_code, gateway.uses) == (200, uses)
        for name in ("image", "images"):
            answer = await gateway.http.post(
                "/v1/images/edits",
                data={**body, "loras": json.dumps(fields["loras"])},
                files={name: picture()},
            )
            assert (answer.status_code, gateway.uses) == (200, uses)


@BAD
@pytest.mark.parametrize(
    "path", ["/generate", "/v1/images/generations", "/v1/images/edits", "/api/images/generate"]
)
async def test_bad_ones_are_refused(path: str, loras: Any, words: str) -> None:
    async with asking() as gateway:
        body = {"prompt": "a star", "model": "sdxl-turbo"}
        if path.endswith("edits"):
            text = loras if isinstance(loras, str) else json.dumps(loras)
            answer = await gateway.http.post(
                path, data={**body, "loras": text}, files={"image": picture()}
            )
        else:
            answer = await gateway.post(path, **body, loras=loras)
        assert answer.status_code == 400
        assert words in answer.text.replace("\\'", "'")
        assert gateway.models.calls == []


@pytest.mark.parametrize(
    ("prompt", "uses"),
    [
        ("<lora:ink:0.5>", (LoraUse(name="ink", weight=0.5),)),
        ("<lora:ink>", (LoraUse(name="ink"),)),
        ("<lyco:wool:-1>", (LoraUse(name="styles/wool", weight=-1.0),)),
        ("<lora:ink:0.5:0.8>", (LoraUse(name="ink", weight=0.8, text_weight=0.5),)),
        ("<lora:ink:te=0:unet=1>", (LoraUse(name="ink", weight=1.0, text_weight=0.0),)),
        ("<lora:ink:te=0.3>", (LoraUse(name="ink", weight=0.3),)),
        (
            "<lora:ink:1><lora:styles/wool:2>",
            (LoraUse(name="ink"), LoraUse(name="styles/wool", weight=2.0)),
        ),
        ("<note:x>", ()),
    ],
)
async def test_tags_of_sdapi_s_prompts_name_them(prompt: str, uses: tuple[LoraUse, ...]) -> None:
    async with asking() as gateway:
        answer = (await gateway.t2i(f"a {prompt}star")).json()
        assert gateway.uses == uses
        assert gateway.models.calls[-1].prompt == "a star"
        assert json.loads(answer["info"])["infotexts"][0].startswith(f"a {prompt}star\n")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("<lora:line:1>", "LoRA 'line' not found; known: ink, styles/wool"),
        ("<hypernet:ink:1>", "hypernetwork 'ink' not found; known: none"),
        ("<lora:ink:strong>", "LoRA 'ink' has the weight 'strong'"),
        ("<lora:ink:1:1:1>", "LoRA 'ink' has the weight '1:1:1'"),
        ("<lora:ink:dyn=4>", "LoRA 'ink' has the weight 'dyn=4'"),
        ("<lora:ink:nan>", "weight nan of LoRA 'ink' is out of range; accepted: -10 to 10"),
        ("<lora:ink:10.5>", "weight 10.5 of LoRA 'ink' is out of range"),
    ],
)
async def test_tags_that_cannot_be_honoured_are_refused(prompt: str, words: str) -> None:
    async with asking() as gateway:
        answer = await gateway.t2i(f"{prompt} x")
        assert answer.status_code == 400
        assert words in json.dumps(answer.json()).replace("\\'", "'")


async def test_disabled_networks_are_taken_out_of_the_prompt() -> None:
    async with asking() as gateway:
        await gateway.t2i("<lora:none:1>star", disable_extra_networks=True)
        assert (gateway.uses, gateway.models.calls[-1].prompt) == ((), "star")


async def test_a_second_pass_has_the_loras_of_its_own_prompt() -> None:
    async with asking() as gateway:
        await gateway.t2i("<lora:ink:1>a", enable_hr=True, hr_prompt="<lora:ink:0.5>b")
        own = gateway.models.calls[-1].second_pass
        await gateway.t2i("<lora:ink:1>a", enable_hr=True, hr_prompt="b")
        none = gateway.models.calls[-1].second_pass
        await gateway.t2i("<lora:ink:1>a", enable_hr=True)
        inherited = gateway.models.calls[-1].second_pass
    assert own is not None
    assert none is not None
    assert inherited is not None
    assert own.loras == (LoraUse(name="ink", weight=0.5),)
    assert (own.prompt, none.loras, inherited.loras) == ("b", (), None)


async def test_a_refiner_has_those_that_it_knows() -> None:
    async with asking() as gateway:
        prompt = "<lora:ink:1><lora:wool:1>a"
        fields = {"refiner_checkpoint": "refiner", "refiner_switch_at": 0.5, "steps": 4}
        answer = await gateway.t2i(prompt, **fields)
        first, second = gateway.models.calls
    assert answer.status_code == 200
    assert [use.name for use in first.loras] == ["ink", "styles/wool"]
    assert [use.name for use in second.loras] == ["ink"]


async def test_sdapi_lists_those_of_every_model() -> None:
    async with asking() as gateway:
        listed = (await gateway.http.get("/sdapi/v1/loras")).json()
    assert [lora["name"] for lora in listed] == ["ink", "line", "wool"]
    assert listed[2] == {
        "name": "wool",
        "alias": "styles/wool",
        "path": "styles/wool.safetensors",
        "metadata": {},
    }


async def test_a_graph_names_them_by_its_loaders() -> None:
    graph = {
        "1": node("CheckpointLoaderSimple", ckpt_name="sdxl-turbo"),
        "2": node("LoraLoader", model=["1", 0], clip=["1", 1], lora_name="ink.safetensors")
        | {"strength": (0.5, 0.25)},
        "3": node("LoraLoaderModelOnly", model=["2", 0], lora_name="styles/wool"),
        "4": node("CLIPTextEncode", clip=["2", 1], text="a star"),
        "5": node("CLIPTextEncode", clip=["1", 1], text="fog"),
        "6": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "7": node(
            "KSampler",
            model=["3", 0],
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
    model, clip = graph["2"].pop("strength")
    graph["2"]["inputs"] |= {"strength_model": model, "strength_clip": clip}
    graph["3"]["inputs"]["strength_model"] = 2.0
    async with asking() as gateway:
        answer = await gateway.post("/prompt", prompt=graph)
        assert answer.status_code == 200, answer.text
        await gateway.until("/history", lambda got: bool(got.json()))
        call = next(call for call in gateway.models.calls if call.parts)
    ink = LoraUse(name="ink", weight=0.5, text_weight=0.0)
    wool = LoraUse(name="styles/wool", weight=2.0, text_weight=0.0)
    assert call.loras == (ink, wool)
    assert call.parts[0].loras == (LoraUse(name="ink", weight=0.25),)
    assert call.negative_parts[0].loras is None


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}
