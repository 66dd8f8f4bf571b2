"""Options, lists, infotexts and upscaling, over HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from router.apis.sdapi import parse_styles
from router.apis.sdapi.infotext import fields_of, parse_infotext, write_infotext
from tests.router.apis.drawing import opened, picture
from tests.router.apis.sdapi_gateway import PICTURE, SDXL, Served, sdapi_gateway

V1 = "/sdapi/v1"
SMALL = {"width": 64, "height": 64, "steps": 2}


@pytest.fixture
def sd() -> Iterator[Served]:
    with sdapi_gateway() as running:
        yield running


@pytest.fixture(scope="module")
def lists() -> Iterator[Served]:
    with sdapi_gateway() as running:
        yield running


# -- options ------------------------------------------------------------------------------------


def test_options_round_trip_whole(sd: Served) -> None:
    options = sd.get(f"{V1}/options")
    title = options["sd_model_checkpoint"]
    assert title.startswith("sdxl-turbo.safetensors [")
    for name in ("samples_format", "sd_vae", "CLIP_stop_at_last_layers", "send_seed"):
        assert name in options
    assert isinstance(options["show_progress_every_n_steps"], int)
    assert sd.post(f"{V1}/options", **options) is None
    assert sd.get(f"{V1}/options") == options


def test_options_keep_what_they_do_not_know(sd: Served) -> None:
    sd.post(f"{V1}/options", forge_additional_modules=["a"], send_seed=False)
    options = sd.get(f"{V1}/options")
    assert (options["forge_additional_modules"], options["send_seed"]) == (["a"], False)


@pytest.mark.parametrize("form", ["title", "model_name", "filename", "hash", "sha256"])
def test_checkpoint_by_every_name_becomes_the_default(sd: Served, form: str) -> None:
    model = sd.get(f"{V1}/sd-models")[1]
    sd.post(f"{V1}/options", sd_model_checkpoint=model[form])
    assert sd.get(f"{V1}/options")["sd_model_checkpoint"] == model["title"]
    assert sd.get(f"{V1}/options")["sd_checkpoint_hash"] == model["sha256"]
    info = json.loads(sd.post(f"{V1}/txt2img", prompt="x", **SMALL)["info"])
    assert info["sd_model_name"] == sd.models.calls[-1].model == model["model_name"]


def test_override_of_the_checkpoint_holds_for_one_call(sd: Served) -> None:
    overrides = {"sd_model_checkpoint": "sd15-dreambooth.safetensors"}
    sd.post(f"{V1}/txt2img", prompt="x", override_settings=overrides, **SMALL)
    assert sd.models.calls[-1].model == "sd15-dreambooth"
    sd.post(f"{V1}/txt2img", prompt="x", **SMALL)
    assert sd.models.calls[-1].model == "sdxl-turbo"


@pytest.mark.parametrize(
    "bad",
    [
        {"sd_model_checkpoint": "nope"},
        {"sd_model_checkpoint": 5},
        {"jpeg_quality": "high"},
        {"samples_format": 1},
        {"note": "x" * 70_000},
    ],
    ids=["unknown checkpoint", "no text", "no number", "number for text", "too long"],
)
def test_options_when_one_is_bad_change_nothing(sd: Served, bad: dict[str, Any]) -> None:
    assert sd.refused(f"{V1}/options", send_seed=False, **bad).status_code == 400
    assert sd.get(f"{V1}/options")["send_seed"] is True


# -- lists --------------------------------------------------------------------------------------


def test_sd_models_have_titles_and_hashes(lists: Served) -> None:
    models = lists.get(f"{V1}/sd-models")
    assert [model["model_name"] for model in models] == ["sd15-dreambooth", "sdxl-turbo"] or [
        model["model_name"] for model in models
    ] == ["sdxl-turbo", "sd15-dreambooth"]
    for model in models:
        assert set(model) == {"title", "model_name", "hash", "sha256", "filename", "config"}
        assert model["title"] == f"{model['filename']} [{model['hash']}]"
        assert model["sha256"].startswith(model["hash"])


@pytest.mark.parametrize(
    "path",
    [
        *("sd-vae", "sd-modules", "loras", "hypernetworks", "face-restorers", "prompt-styles"),
        *("realesrgan-models", "extensions"),
    ],
)
def test_lists_of_what_is_not_installed_are_empty(lists: Served, path: str) -> None:
    assert lists.get(f"{V1}/{path}") == []


def test_lists_have_their_shapes(lists: Served) -> None:
    assert set(lists.get(f"{V1}/samplers")[0]) == {"name", "aliases", "options"}
    keys = {"name", "label", "aliases", "default_rho", "need_inner_model"}
    assert all(set(item) == keys for item in lists.get(f"{V1}/schedulers"))
    assert [item["name"] for item in lists.get(f"{V1}/upscalers")] == ["None", "Lanczos", "Nearest"]
    assert lists.get(f"{V1}/latent-upscale-modes")[-1] == {"name": "Latent (nearest-exact)"}
    assert lists.get(f"{V1}/embeddings") == {"loaded": {}, "skipped": {}}
    assert lists.get(f"{V1}/scripts") == {
        "txt2img": ["prompt matrix", "x/y/z plot"],
        "img2img": ["loopback", "prompt matrix", "sd upscale", "x/y/z plot"],
    }
    assert {info["name"] for info in lists.get(f"{V1}/script-info")} >= {"loopback", "x/y/z plot"}
    assert lists.get(f"{V1}/cmd-flags")["api"] is True
    memory = lists.get(f"{V1}/memory")
    assert memory["ram"]["total"] > memory["ram"]["used"] > 0
    assert "error" in memory["cuda"]


def test_void_calls_answer_as_the_original(lists: Served) -> None:
    for name in ("refresh-checkpoints", "refresh-vae", "refresh-loras", "refresh-embeddings"):
        assert lists.post(f"{V1}/{name}") is None
    for name in ("unload-checkpoint", "reload-checkpoint"):
        assert lists.post(f"{V1}/{name}") == {}


def test_probes_beside_the_api(lists: Served) -> None:
    assert lists.get("/internal/ping") == {}
    assert lists.get("/internal/pending-tasks") == {"size": 0, "tasks": []}
    assert lists.get("/queue/status")["queue_size"] == 0
    assert lists.get("/config")["mode"] == "blocks"
    idle = lists.post("/internal/progress", id_task="none")
    assert (idle["active"], idle["queued"], idle["completed"]) == (False, False, False)
    assert lists.get("/internal/progress", id_task="none") == idle
    assert lists.post("/internal/pending-tasks")["size"] == 0


def test_interrogate_has_no_model(lists: Served) -> None:
    refusal = lists.refused(f"{V1}/interrogate", image=PICTURE, model="clip")
    assert (refusal.status_code, refusal.json()["detail"]) == (404, "Model not found")
    assert lists.refused(f"{V1}/interrogate").json()["detail"] == "Image not found"


def test_api_is_documented(lists: Served) -> None:
    paths = lists.get("/openapi.json")["paths"]
    body = paths[f"{V1}/txt2img"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["steps"]["default"] == 50
    assert "$ref" not in json.dumps(paths[f"{V1}/extra-batch-images"])


def test_styles_of_the_settings_name_what_they_do_not_know() -> None:
    with pytest.raises(ValueError, match="'ink': unknown key negative"):
        parse_styles({"ink": {"negative": "x"}})


# -- infotexts ----------------------------------------------------------------------------------


def test_infotext_is_read_as_it_was_written() -> None:
    pairs = [("Steps", 4), ("Odd", 'a, "b": c\nd'), ("None", None), ("Size", "64x128"), ("A b", 1)]
    text = write_infotext("two\nlines", "not this", pairs)
    parsed = parse_infotext(text)
    assert (parsed["Prompt"], parsed["Negative prompt"]) == ("two\nlines", "not this")
    assert parsed["Odd"] == 'a, "b": c\nd'
    assert (parsed["Size-1"], parsed["Size-2"], parsed["Clip skip"]) == ("64", "128", "1")
    assert "None" not in parsed


def test_infotext_with_few_pairs_is_all_prompt() -> None:
    assert parse_infotext("a, b: c")["Prompt"] == "a, b: c"
    assert fields_of("x\nSteps: many, Seed: 1, Size: 8x8")["seed"] == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": 'a (red:1.2) cat, "q": ü 猫\nline', "negative_prompt": "b, c"},
        {"sampler_name": "DPM++ 2M", "scheduler": "Karras", "cfg_scale": 3.5, "seed": 2**32 - 1},
        {"subseed": 9, "subseed_strength": 0.25, "seed_resize_from_w": 128},
        {"tiling": True, "eta": 0.5, "override_settings": {"CLIP_stop_at_last_layers": 2}},
        {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Lanczos", "denoising_strength": 0.5},
        {"enable_hr": True, "hr_resize_x": 128, "hr_resize_y": 96, "hr_second_pass_steps": 3},
        {"override_settings": {"sd_model_checkpoint": "sd15-dreambooth"}},
    ],
    ids=["prompts", "sampler", "variation", "knobs", "hires", "hires size", "model"],
)
def test_pictures_own_text_reproduces_it(lists: Served, fields: dict[str, Any]) -> None:
    answer = lists.post(f"{V1}/txt2img", **{"prompt": "p", **SMALL, **fields})
    first = lists.models.calls[-1]
    told = lists.post(f"{V1}/png-info", image=answer["images"][0])
    assert told["info"] == json.loads(answer["info"])["infotexts"][0] == told["items"]["parameters"]
    assert told["parameters"]["Seed"] == str(first.params.seed)
    again = lists.post(f"{V1}/txt2img", infotext=told["info"])
    second = lists.models.calls[-1]
    assert again["images"] == answer["images"]
    assert first.texts == second.texts
    assert (first.second_pass, first.model) == (second.second_pass, second.model)


def test_fields_win_over_the_infotext(lists: Served) -> None:
    text = "cat\nSteps: 3, Sampler: Heun, Seed: 5, Size: 64x64"
    lists.post(f"{V1}/txt2img", infotext=text, prompt="dog", seed=6)
    request = lists.models.calls[-1]
    assert (request.prompt, request.params.seed, request.params.scheduler) == ("dog", 6, "Heun")


def test_png_info_of_a_picture_without_text(lists: Served) -> None:
    told = lists.post(f"{V1}/png-info", image=PICTURE)
    assert (told["info"], told["items"]) == ("", {})
    assert lists.refused(f"{V1}/png-info", image="?").status_code == 400


@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_upscaled_picture_keeps_its_text_in_other_formats(sd: Served, kind: str) -> None:
    drawn = sd.post(f"{V1}/txt2img", prompt="text ü", **SMALL)["images"][0]
    sd.post(f"{V1}/options", samples_format=kind)
    image = sd.post(f"{V1}/extra-single-image", image=drawn, upscaler_1="Lanczos")["image"]
    assert opened(image).size == (128, 128)
    told = sd.post(f"{V1}/png-info", image=image)
    assert told["parameters"]["Prompt"] == "text ü"


# -- extras -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (96, 64)),
        ({"upscaler_1": "Lanczos"}, (192, 128)),
        ({"upscaler_1": "nearest", "upscaling_resize": 1.5, "model": "x"}, (144, 96)),
        ({"upscaler_1": "Lanczos", "resize_mode": 1}, (512, 512)),
        (
            {
                "upscaler_1": "Lanczos",
                "resize_mode": 1,
                "upscaling_crop": False,
                "upscaling_resize_w": 96,
                "upscaling_resize_h": 128,
            },
            (192, 128),
        ),
        (
            {
                "upscaler_1": "Lanczos",
                "upscaler_2": "Nearest",
                "extras_upscaler_2_visibility": 0.5,
                "gfpgan_visibility": 1,
            },
            (192, 128),
        ),
    ],
    ids=["none", "scale", "other scale", "to size", "to cover", "two"],
)
def test_extra_single_image(lists: Served, fields: dict[str, Any], size: tuple[int, int]) -> None:
    answer = lists.post(f"{V1}/extra-single-image", image=PICTURE, **fields)
    assert set(answer) == {"html_info", "image"}
    assert opened(answer["image"]).size == size


def test_extra_batch_images(lists: Served) -> None:
    images = [{"data": PICTURE, "name": "a"}, {"data": PICTURE}]
    answer = lists.post(f"{V1}/extra-batch-images", imageList=images, upscaler_1="Nearest")
    assert [opened(image).size for image in answer["images"]] == [(192, 128)] * 2
    assert "Nearest" in answer["html_info"]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"upscaler_1": "R-ESRGAN 4x+"}, 400),
        ({"upscaler_1": "Lanczos", "upscaling_resize": 1000}, 400),
        ({"image": ""}, 400),
        ({"resize_mode": 5}, 422),
    ],
    ids=["unknown", "too large", "no picture", "unknown mode"],
)
def test_extras_refuse(lists: Served, fields: dict[str, Any], status: int) -> None:
    body = {"image": base64.b64encode(picture()).decode(), **fields}
    assert lists.refused(f"{V1}/extra-single-image", **body).status_code == status


def test_a_hosted_upscaler_is_listed_and_draws() -> None:
    upscaler = replace(SDXL, id="esrgan", aliases=(), modes=("upscale",))
    with sdapi_gateway(SDXL, upscaler) as sd:
        assert [item["name"] for item in sd.get(f"{V1}/upscalers")][-1] == "esrgan"
        image = sd.post(
            f"{V1}/extra-single-image", image=PICTURE, upscaler_1="esrgan", upscaling_resize=3
        )["image"]
        assert opened(image).size == (288, 192)
        assert [call.model for call in sd.models.calls] == ["esrgan"]
        assert len(sd.models.calls[0].images) == 1
        refused = sd.refused(f"{V1}/extra-single-image", image=PICTURE, upscaler_1="x")
        assert "None, Lanczos, Nearest, esrgan" in refused.text
        sd.post(f"{V1}/txt2img", prompt="a star", **SMALL)
        assert sd.models.calls[-1].model == "sdxl-turbo"
