"""The refiner: a model that goes on where another one stops."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.router.apis.drawing import opened
from tests.router.apis.sdapi_gateway import PICTURE, SD15, SDXL, Served, sdapi_gateway

T2I = "/sdapi/v1/txt2img"
SMALL: dict[str, Any] = {"prompt": "a", "width": 64, "height": 64, "steps": 10, "seed": 5}
REFINER = replace(SDXL, id="refiner", aliases=())
STRANGER = replace(SD15, family="another")
WITHOUT = replace(SDXL, id="without", aliases=(), has_latents=False)


@pytest.fixture(scope="module")
def sd() -> Iterator[Served]:
    with sdapi_gateway(SDXL, REFINER, STRANGER, WITHOUT) as running:
        yield running


def told(answer: Any, name: str) -> Any:
    return json.loads(answer["info"])[name]


@pytest.mark.parametrize("switch_at", [0.8, 0.75, 0.71])
def test_refiner_draws_the_steps_from_its_switch_on(sd: Served, switch_at: float) -> None:
    fields = {"refiner_checkpoint": "refiner", "refiner_switch_at": switch_at}
    answer = sd.post(T2I, batch_size=2, **fields, **SMALL)
    first, second = sd.models.calls[-2:]
    assert (first.model, second.model) == ("sdxl-turbo", "refiner")
    assert (first.params.first_step, first.params.last_step) == (0, 8)
    assert (second.params.first_step, second.params.last_step) == (8, None)
    assert (first.params.keeps_noise, second.params.adds_noise) == (True, False)
    assert first.params.seed != second.params.seed
    assert told(answer, "all_seeds") == [5, 6]
    assert [opened(image).size for image in answer["images"]] == [(64, 64)] * 2


def test_refined_picture_tells_how_to_make_it_again(sd: Served) -> None:
    fields = {"refiner_checkpoint": "refiner.safetensors", "refiner_switch_at": 0.5}
    answer = sd.post(T2I, **fields, **SMALL)
    text = told(answer, "infotexts")[0]
    assert "Refiner: refiner [" in text
    assert "Refiner switch at: 0.5" in text
    png = sd.post("/sdapi/v1/png-info", image=answer["images"][0])
    again = sd.post(T2I, infotext=png["info"])
    assert again["images"] == answer["images"]


@pytest.mark.parametrize(
    ("fields", "drawn"),
    [
        ({"refiner_checkpoint": "refiner"}, ["refiner"]),
        ({"refiner_checkpoint": "refiner", "refiner_switch_at": 1}, ["sdxl-turbo"]),
        ({"refiner_checkpoint": "sdxl-turbo", "refiner_switch_at": 0.5}, ["sdxl-turbo"]),
        ({"refiner_checkpoint": "None", "refiner_switch_at": 0.8}, ["sdxl-turbo"]),
        ({"refiner_switch_at": 0.8}, ["sdxl-turbo"]),
    ],
    ids=["from the start", "never", "the same model", "none", "left out"],
)
def test_refiner_that_has_all_or_nothing_to_do(
    sd: Served, fields: dict[str, Any], drawn: list[str]
) -> None:
    before = len(sd.models.calls)
    sd.post(T2I, **fields, **SMALL)
    calls = sd.models.calls[before:]
    assert [call.model for call in calls] == drawn
    assert calls[0].latents is None


def test_refiner_ends_every_cell_of_a_plot(sd: Served) -> None:
    before = len(sd.models.calls)
    args = ["Steps", "4,8", [], 0, "", [], 0, "", [], False, True]
    fields = {"refiner_checkpoint": "refiner", "refiner_switch_at": 0.5}
    answer = sd.post(T2I, script_name="X/Y/Z plot", script_args=args, **fields, **SMALL)
    ended = [call for call in sd.models.calls[before:] if call.model == "refiner"]
    assert sorted(call.params.first_step for call in ended) == [2, 4]
    assert len(answer["images"]) == 3


def test_refiner_differs_from_cell_to_cell(sd: Served) -> None:
    before = len(sd.models.calls)
    args = ["Refiner checkpoint", "", ["None", "refiner", "sdxl-turbo"]]
    args += ["Refiner switch at", "0.2,0.5", [], 0, "", [], False, True]
    answer = sd.post(T2I, n_iter=2, script_name="X/Y/Z plot", script_args=args, **SMALL)
    ended = [call.params.first_step for call in sd.models.calls[before:] if call.latents]
    assert sorted(step for step in ended if step) == [2, 2, 5, 5]
    assert len(answer["images"]) == 13
    refined = ["Refiner: refiner [" in text for text in told(answer, "infotexts")[1:]]
    assert refined == [False, False, True, True, False, False] * 2


@pytest.mark.parametrize(
    ("path", "fields", "words"),
    [
        (T2I, {"refiner_checkpoint": "nope"}, "model 'nope' not found"),
        (T2I, {"refiner_checkpoint": "sd15-dreambooth"}, "their latents differ"),
        (T2I, {"refiner_checkpoint": "without"}, "their latents differ"),
        (T2I, {"refiner_checkpoint": "refiner", "refiner_switch_at": 1.5}, "refiner_switch_at 1.5"),
        (T2I, {"refiner_checkpoint": "refiner", "enable_hr": True}, "without enable_hr"),
        ("/sdapi/v1/img2img", {"refiner_checkpoint": "refiner"}, "supported by txt2img"),
    ],
    ids=["unknown", "another family", "without latents", "share", "second pass", "img2img"],
)
def test_refiner_is_refused(sd: Served, path: str, fields: dict[str, Any], words: str) -> None:
    refusal = sd.refused(path, init_images=[PICTURE], **fields, **SMALL)
    assert refusal.status_code == 400
    assert words in refusal.json()["detail"]
