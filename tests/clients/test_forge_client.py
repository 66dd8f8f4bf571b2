"""The client of the A1111 API, and the programs of the guide that it is made after."""

from __future__ import annotations

import asyncio
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clients.forge_client import (
    ForgeError,
    agenerate_image_turbo,
    agenerate_variations,
    generate_image_turbo,
    generate_variations,
)
from tests.router.apis.sdapi_gateway import Served, sdapi_gateway

DOCUMENT = Path(__file__).with_name("forge_document.md")
GUIDES_URL = "https://turbo.stable-diffusion-webui-forge.myia.io"
STYLES = ["modern minimalist design", "vintage rustic atmosphere"]


@pytest.fixture(scope="module")
def sd() -> Iterator[Served]:
    with sdapi_gateway(api_key="key", user="ann") as running:
        yield running


def test_generate_image_turbo_is_a_few_step_picture(sd: Served) -> None:
    at = {"base_url": sd.url, "auth": ("ann", "key")}
    image = generate_image_turbo("a city", "blurry", 6, **at, seed=7, width=64, height=64)
    request = sd.models.calls[-1]
    params = request.params
    assert image.size == (64, 64)
    assert (request.negative_prompt, params.num_inference_steps, params.seed) == ("blurry", 6, 7)
    assert (params.guidance_scale, params.scheduler, params.sigmas) == (2.0, "Euler", "simple")


def test_generate_variations_draws_each(sd: Served) -> None:
    at = {"base_url": sd.url, "auth": ("ann", "key")}
    results = generate_variations("a shop", STYLES, **at, width=64, height=64)
    assert [variation for variation, _ in results] == STYLES
    assert [call.prompt for call in sd.models.calls[-2:]] == [f"a shop, {s}" for s in STYLES]


def test_asynchronous_client_gets_the_same(sd: Served) -> None:
    at = {"base_url": sd.url, "auth": ("ann", "key"), "seed": 7, "width": 64, "height": 64}

    async def draw() -> tuple[Any, Any]:
        return await agenerate_image_turbo("a", **at), await agenerate_variations("a", STYLES, **at)

    image, results = asyncio.run(draw())
    assert image.tobytes() == generate_image_turbo("a", **at).tobytes()
    expected = generate_variations("a", STYLES, **at)
    assert [i.tobytes() for _, i in results] == [i.tobytes() for _, i in expected]


def test_refusals_are_told_in_the_servers_words(sd: Served) -> None:
    with pytest.raises(ForgeError, match="Not authenticated") as caught:
        generate_image_turbo("a", base_url=sd.url)
    assert caught.value.status == 401
    at = {"base_url": sd.url, "auth": ("ann", "key")}
    with pytest.raises(ForgeError, match="Sampler not found"):
        generate_image_turbo("a", **at, sampler_name="Foo")


class OtherApi:
    """The guide's other API, which is not this one."""

    def generate_text2image(self, prompt: str, **_: Any) -> str:
        return prompt

    def wait_for_images(self, prompt_id: str) -> list[str]:
        return [prompt_id]


class Frame:
    """As much of pandas as the guide's last lines use."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def __getitem__(self, name: str) -> Frame:
        return Frame([{"value": row[name]} for row in self._rows])

    def mean(self) -> float:
        return sum(row["value"] for row in self._rows) / len(self._rows)


def test_guides_programs_run_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pandas = types.ModuleType("pandas")
    pandas.DataFrame = Frame  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"client": OtherApi()}
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    with sdapi_gateway(user="ann", api_key="key") as sd:
        for block in blocks:
            program = block.replace(GUIDES_URL, sd.url)
            program = re.sub(r"AUTH = .*", 'AUTH = ("ann", "key")', program)
            exec(compile(program, "guide", "exec"), scope)
    assert len(scope["best_concepts"]) == 3
    assert {item["image"].size for item in scope["dataset"]} == {(1024, 1024)}
    assert [result["prompt"] for result in scope["results"]] == scope["test_prompts"]
    assert len(list(tmp_path.glob("*.png"))) == 5
    told = capsys.readouterr().out
    assert "Dataset de 12 images" in told
    assert "Status: 200" in told
