"""Real clients of A1111: webuiapi itself, and what Open WebUI and SillyTavern send."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import webuiapi
from PIL import Image

from router.apis.sdapi.options import CHECKPOINT
from tests.router.apis.conftest import wait_until
from tests.router.apis.sdapi_gateway import Served, sdapi_gateway

V1 = "/sdapi/v1"
SMALL: dict[str, Any] = {"width": 64, "height": 64, "steps": 2, "seed": 3}


@pytest.fixture(scope="module")
def sd() -> Iterator[Served]:
    with sdapi_gateway() as running:
        yield running


@pytest.fixture(scope="module")
def api(sd: Served) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(host="127.0.0.1", port=sd.port, steps=2)


@pytest.fixture(scope="module")
def flat() -> Image.Image:
    return Image.new("RGB", (96, 64), (200, 30, 30))


# -- webuiapi -----------------------------------------------------------------------------------


def test_webuiapi_txt2img(api: webuiapi.WebUIApi) -> None:
    result = api.txt2img(prompt="a star", batch_size=2, styles=["anime"], **SMALL)
    assert [image.size for image in result.images] == [(64, 64)] * 2
    assert result.info["all_seeds"] == [3, 4]
    assert result.parameters["steps"] == 2
    assert api.png_info(result.image).info == result.info["infotexts"][0]


def test_webuiapi_txt2img_with_hires(api: webuiapi.WebUIApi) -> None:
    hires = {"hr_upscaler": webuiapi.HiResUpscaler.Lanczos, "hr_scale": 2}
    result = api.txt2img(prompt="a star", enable_hr=True, **hires, **SMALL)
    assert "Hires upscaler: Lanczos" in result.info["infotexts"][0]


async def test_webuiapi_asynchronously(api: webuiapi.WebUIApi) -> None:
    pytest.importorskip("aiohttp")
    result = await api.txt2img(prompt="a star", use_async=True, **SMALL)
    assert len(result.images) == 1


def test_webuiapi_img2img_and_inpainting(api: webuiapi.WebUIApi, flat: Image.Image) -> None:
    assert api.img2img(images=[flat], prompt="a star", **SMALL).image.size == (64, 64)
    mask = Image.new("L", flat.size, 0)
    mask.paste(255, (20, 20, 60, 50))
    result = api.img2img(images=[flat], mask_image=mask, inpainting_fill=1, prompt="x", **SMALL)
    assert "Inpaint area: Only masked" in result.info["infotexts"][0]


def test_webuiapi_scripts(api: webuiapi.WebUIApi, flat: Image.Image) -> None:
    args = ["", 16, "Lanczos", 2.0]
    fields = {"script_name": "SD upscale", "script_args": args, **SMALL}
    assert api.img2img(images=[flat], prompt="x", **fields).image.size == (192, 128)
    with pytest.raises(RuntimeError, match="422"):
        api.txt2img(prompt="x", script_name="Nonsense", **SMALL)


def test_webuiapi_extras(api: webuiapi.WebUIApi, flat: Image.Image) -> None:
    single = api.extra_single_image(image=flat, upscaler_1=webuiapi.Upscaler.Lanczos)
    assert single.image.size == (192, 128)
    batch = api.extra_batch_images(images=[flat, flat], upscaler_1=webuiapi.Upscaler.Nearest)
    assert [image.size for image in batch.images] == [(192, 128)] * 2
    assert "Nearest" in batch.info


def test_webuiapi_interrogate_is_refused(api: webuiapi.WebUIApi, flat: Image.Image) -> None:
    with pytest.raises(RuntimeError, match="Model not found"):
        api.interrogate(flat)


@pytest.mark.parametrize(
    ("extension", "title"),
    [
        ({"controlnet_units": [webuiapi.ControlNetUnit(model="canny")]}, "ControlNet"),
        ({"adetailer": [webuiapi.ADetailer()]}, "ADetailer"),
        ({"animatediff": webuiapi.AnimateDiff()}, "animatediff"),
        ({"alwayson_scripts": {"Soft inpainting": {"args": [True]}}}, "Soft inpainting"),
    ],
    ids=["ControlNet", "ADetailer", "AnimateDiff", "soft inpainting"],
)
def test_webuiapi_extensions_are_refused_by_name(
    api: webuiapi.WebUIApi, extension: dict[str, Any], title: str
) -> None:
    fields = {"alwayson_scripts": {}} | extension  # webuiapi keeps what it adds to its default
    with pytest.raises(RuntimeError) as caught:
        api.txt2img(prompt="x", **fields, **SMALL)
    status, text = caught.value.args
    assert (status, title in json.loads(text)["detail"]) == (422, True)


def test_webuiapi_asks_whatever_it_likes(api: webuiapi.WebUIApi) -> None:
    assert api.custom_get("sd-models", baseurl=True) == api.get_sd_models()
    assert api.custom_post("unload-checkpoint", baseurl=True).json == {}
    for path in ("controlnet/version", "artists"):
        assert api.session.get(f"{api.baseurl}/{path}").status_code == 404


def test_webuiapi_looks_around(api: webuiapi.WebUIApi) -> None:
    assert "Euler a" in api.util_get_sampler_names()
    assert "karras" in api.util_get_scheduler_names()
    assert len(api.util_get_model_names()) == 2
    for look in (
        *(api.get_sd_vae, api.get_upscalers, api.get_latent_upscale_modes, api.get_loras),
        *(api.get_hypernetworks, api.get_face_restorers, api.get_realesrgan_models),
        api.get_prompt_styles,
    ):
        assert isinstance(look(), list)
    assert set(api.get_embeddings()) == {"loaded", "skipped"}
    assert set(api.get_memory()) == {"ram", "cuda"}
    assert api.get_cmd_flags()["api"] is True
    assert set(api.get_scripts()) == {"txt2img", "img2img"}
    assert not api.has_controlnet
    assert not api.has_adetailer
    assert not api.has_animatediff


def test_webuiapi_steers(api: webuiapi.WebUIApi) -> None:
    assert (api.interrupt(), api.skip(), api.refresh_checkpoints()) == ({}, None, None)
    assert api.get_progress()["progress"] == 0
    api.util_wait_for_ready(check_interval=0.01)


def test_webuiapi_sets_the_model(api: webuiapi.WebUIApi) -> None:
    before = api.util_get_current_model()
    api.util_set_model("sd15-dreambooth")
    assert api.util_get_current_model().startswith("sd15-dreambooth")
    assert api.txt2img(prompt="x", **SMALL).info["sd_model_name"] == "sd15-dreambooth"
    assert api.set_options({CHECKPOINT: before}) is None
    assert api.get_options()[CHECKPOINT] == before


def test_webuiapi_signs_in() -> None:
    with sdapi_gateway(api_key="key") as sd:
        api = webuiapi.WebUIApi(host="127.0.0.1", port=sd.port, username="ann", password="key")
        assert len(api.get_sd_models()) == 2
        stranger = webuiapi.WebUIApi(host="127.0.0.1", port=sd.port)
        with pytest.raises(RuntimeError, match="401"):
            stranger.txt2img(prompt="x")


# -- Open WebUI ---------------------------------------------------------------------------------


def test_open_webui_switches_the_model_and_draws(sd: Served) -> None:
    # It always sends Basic of what its user typed, here nothing.
    sd.http.headers["authorization"] = "Basic Og=="
    models = sd.get(f"{V1}/sd-models")
    options = sd.get(f"{V1}/options")
    wanted = next(m for m in models if m["model_name"] == "sd15-dreambooth")["title"]
    before, options[CHECKPOINT] = options[CHECKPOINT], wanted
    assert sd.http.post(f"{V1}/options", json=options).status_code == 200
    answer = sd.post(
        f"{V1}/txt2img",
        prompt="a star",
        batch_size=1,
        width=64,
        height=64,
        steps=2,
        negative_prompt="",
        cfg_scale=7.0,
        sampler_name="Euler a",
        scheduler="Automatic",
    )
    info = json.loads(answer["info"])
    assert info["sd_model_name"] == "sd15-dreambooth"
    assert base64.b64decode(answer["images"][0]).startswith(b"\x89PNG")
    options[CHECKPOINT] = before
    sd.post(f"{V1}/options", **options)
    del sd.http.headers["authorization"]


# -- SillyTavern --------------------------------------------------------------------------------


def test_sillytavern_looks_around_switches_and_draws(sd: Served) -> None:
    assert sd.get(f"{V1}/options")  # its ping
    assert [item["name"] for item in sd.get(f"{V1}/upscalers")]
    assert [item["name"] for item in sd.get(f"{V1}/latent-upscale-modes")]
    vaes = [sd.http.get(f"{V1}/{path}").status_code for path in ("sd-vae", "sd-modules")]
    assert vaes == [200, 200]
    assert [item["name"] for item in sd.get(f"{V1}/samplers")]
    assert [item["name"] for item in sd.get(f"{V1}/schedulers")]
    titles = [item["title"] for item in sd.get(f"{V1}/sd-models")]
    assert "forge_preset" not in sd.get(f"{V1}/options")
    sd.post(f"{V1}/options", sd_model_checkpoint=titles[0])
    for _ in range(20):
        told = sd.get(f"{V1}/progress")
        if told["progress"] == 0 and told["state"]["job_count"] == 0:
            break
    else:
        pytest.fail("the server never became idle")
    answer = sd.post(
        f"{V1}/txt2img",
        prompt="a star",
        negative_prompt="blurry",
        sampler_name="DDIM",
        scheduler="karras",
        steps=2,
        cfg_scale=7,
        width=64,
        height=64,
        restore_faces=False,
        enable_hr=False,
        hr_upscaler="Latent",
        hr_scale=2,
        hr_additional_modules=[],
        denoising_strength=0.7,
        hr_second_pass_steps=0,
        seed=-1,
        override_settings={"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"},
        clip_skip=1,
        save_images=True,
        send_images=True,
        do_not_save_grid=False,
        do_not_save_samples=False,
    )
    assert len(answer["images"]) == 1


def test_sillytavern_when_its_user_stops_interrupts() -> None:
    with sdapi_gateway(step_seconds=0.05) as sd:
        answers: list[Any] = []
        body = {"prompt": "slow", "steps": 100, "width": 64, "height": 64}
        draw = threading.Thread(
            target=lambda: answers.append(sd.http.post(f"{V1}/txt2img", json=body))
        )
        draw.start()
        wait_until(lambda: sd.get(f"{V1}/progress")["state"]["job_count"] == 1)
        sd.http.post(f"{V1}/interrupt")
        draw.join(5)
        assert answers[0].status_code == 200
