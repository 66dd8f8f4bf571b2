"""``interrogate`` over a hosted model that describes, and where such a model does not show."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import webuiapi
from PIL import Image

from tests.router.apis.conftest import wait_until
from tests.router.apis.sdapi_gateway import PICTURE, SDXL, Served, sdapi_gateway

V1 = "/sdapi/v1"
BLIP = replace(
    SDXL,
    id="a-blip",  # before all others
    aliases=("blip",),
    modes=("describe",),
    schedulers=(),
    sigmas=(),
)
UPSCALER = replace(SDXL, id="b-upscaler", aliases=(), modes=("upscale",))


@pytest.fixture(scope="module")
def sd() -> Iterator[Served]:
    with sdapi_gateway(BLIP, UPSCALER, SDXL) as running:
        yield running


@pytest.mark.parametrize("model", ["clip", "blip", "a-blip"])
def test_interrogate_tells_what_is_on_the_picture(sd: Served, model: str) -> None:
    answer = sd.post(f"{V1}/interrogate", image=PICTURE, model=model)
    assert answer == {"caption": "a picture of 96 by 64"}
    asked = sd.models.calls[-1]
    assert (asked.model, asked.task, len(asked.images)) == ("a-blip", "describe", 1)


def test_interrogate_takes_clip_for_its_default(sd: Served) -> None:
    assert "caption" in sd.post(f"{V1}/interrogate", image=f"data:image/png;base64,{PICTURE}")


@pytest.mark.parametrize("model", ["deepdanbooru", "sdxl-turbo", "b-upscaler", ""])
def test_interrogate_by_a_model_that_does_not_describe_is_a_404(sd: Served, model: str) -> None:
    refusal = sd.refused(f"{V1}/interrogate", image=PICTURE, model=model)
    assert (refusal.status_code, refusal.json()["detail"]) == (404, "Model not found")


def test_deepdanbooru_is_a_model_that_has_it_for_an_alias() -> None:
    with sdapi_gateway(SDXL, replace(BLIP, aliases=("deepdanbooru",))) as sd:
        assert sd.post(f"{V1}/interrogate", image=PICTURE, model="deepdanbooru")["caption"]


def test_webuiapi_interrogates(sd: Served) -> None:
    api = webuiapi.WebUIApi(host="127.0.0.1", port=sd.port)
    assert api.interrogate(Image.new("RGB", (32, 16))).info == "a picture of 32 by 16"


def test_interrogation_is_a_job_like_any_other(sd: Served) -> None:
    key = {"Idempotency-Key": "one"}
    body = {"image": PICTURE}
    before = len(sd.models.calls)
    first, again = (sd.http.post(f"{V1}/interrogate", json=body, headers=key) for _ in range(2))
    assert first.json() == again.json() == {"caption": "a picture of 96 by 64"}
    assert len(sd.models.calls) == before + 1
    newest = sd.get("/api/images")["jobs"][0]
    assert newest["status"] == "COMPLETED"


def test_interrogation_is_interrupted() -> None:
    with sdapi_gateway(BLIP, step_seconds=30) as sd:
        answers: list[Any] = []
        body = {"image": PICTURE}
        call = threading.Thread(
            target=lambda: answers.append(sd.http.post(f"{V1}/interrogate", json=body))
        )
        call.start()
        wait_until(lambda: len(sd.models.calls) == 1)
        sd.post(f"{V1}/interrupt")
        call.join(5)
        assert answers[0].json() == {"caption": ""}


def test_models_that_do_not_draw_are_no_checkpoints(sd: Served) -> None:
    assert [model["model_name"] for model in sd.get(f"{V1}/sd-models")] == ["sdxl-turbo"]
    listed = {model["id"] for model in sd.get("/v1/models")["data"]}
    assert listed == {"a-blip", "b-upscaler", "sdxl-turbo"}
    for name in ("a-blip", "b-upscaler"):
        refusal = sd.refused(f"{V1}/options", sd_model_checkpoint=name)
        assert "not found; known: sdxl-turbo.safetensors" in refusal.json()["detail"]
        override = {"sd_model_checkpoint": name}
        assert sd.refused(f"{V1}/txt2img", override_settings=override).status_code == 400


def test_models_that_do_not_draw_are_not_chosen_to(sd: Served) -> None:
    sd.post(f"{V1}/img2img", init_images=[PICTURE], width=64, height=64, steps=1)
    assert sd.models.calls[-1].model == "sdxl-turbo"
    refusal = sd.http.post("/v1/images/generations", json={"prompt": "x", "model": "a-blip"})
    assert refusal.status_code == 400
    assert "cannot do text-to-image; it can do: describe" in refusal.text


def test_without_a_model_that_draws_options_still_answer() -> None:
    with sdapi_gateway(BLIP) as sd:
        assert sd.get(f"{V1}/options")["sd_model_checkpoint"].startswith("sdxl-turbo")
        assert sd.get(f"{V1}/sd-models") == []
        assert sd.get(f"{V1}/samplers")
        assert sd.refused(f"{V1}/txt2img", prompt="x").status_code == 404
