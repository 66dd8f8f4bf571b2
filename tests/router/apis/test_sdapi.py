"""txt2img, img2img and what goes with them, over HTTP."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from tests.router.apis.conftest import hang_up, wait_until
from tests.router.apis.drawing import giant_png, opened
from tests.router.apis.sdapi_gateway import PICTURE, SDXL, Served, sdapi_gateway

T2I = "/sdapi/v1/txt2img"
I2I = "/sdapi/v1/img2img"
SMALL = {"width": 64, "height": 64, "steps": 2}


@pytest.fixture(scope="module")
def sd() -> Iterator[Served]:
    styles = {
        "ink": {"prompt": "ink drawing of {prompt}", "negative_prompt": "photo"},
        "fine": {"prompt": "masterpiece"},
    }
    with sdapi_gateway(prompt_styles=styles) as running:
        yield running


def asked(sd: Served) -> Any:
    return sd.models.calls[-1]


def info_of(answer: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(answer["info"])
    return told


# -- txt2img ------------------------------------------------------------------------------------


def test_txt2img_when_all_is_left_out_has_a1111s_defaults(sd: Served) -> None:
    answer = sd.post(T2I, prompt="a star")
    request = asked(sd)
    assert set(answer) == {"images", "parameters", "info"}
    assert (request.params.width, request.params.height) == (512, 512)
    assert (request.params.num_inference_steps, request.params.guidance_scale) == (50, 7.0)
    assert (request.params.scheduler, request.params.sigmas) == ("Euler", "trailing")
    assert (request.model, request.is_weighted) == ("sdxl-turbo", True)
    assert opened(answer["images"][0]).size == (512, 512)
    assert answer["parameters"]["seed"] == -1
    assert 0 <= info_of(answer)["seed"] < 2**32 - 1


def test_txt2img_tells_every_field_of_info(sd: Served) -> None:
    info = info_of(sd.post(T2I, prompt="a", negative_prompt="b", seed=5, **SMALL))
    names = "prompt all_prompts negative_prompt all_negative_prompts seed all_seeds subseed "
    names += "all_subseeds subseed_strength width height sampler_name cfg_scale steps batch_size "
    names += "restore_faces face_restoration_model sd_model_name sd_model_hash sd_vae_name "
    names += "sd_vae_hash seed_resize_from_w seed_resize_from_h denoising_strength "
    names += "extra_generation_params index_of_first_image infotexts styles job_timestamp "
    names += "clip_skip is_using_inpainting_conditioning version"
    assert set(info) == set(names.split())
    assert (info["seed"], info["all_seeds"], info["all_prompts"]) == (5, [5], ["a"])


def test_txt2img_makes_batch_size_times_n_iter_pictures_in_order(sd: Served) -> None:
    answer = sd.post(T2I, prompt="many", seed=7, batch_size=2, n_iter=3, **SMALL)
    single = [sd.post(T2I, prompt="many", seed=7 + k, **SMALL)["images"][0] for k in range(6)]
    assert info_of(answer)["all_seeds"] == [7, 8, 9, 10, 11, 12]
    assert len(answer["images"]) == 6
    colours = [opened(image).getpixel((0, 0)) for image in answer["images"]]
    assert colours == [opened(image).getpixel((0, 0)) for image in single]


def test_txt2img_keeps_the_seed_where_subseeds_vary(sd: Served) -> None:
    fields = {"seed": 7, "subseed": 20, "subseed_strength": 0.5}
    info = info_of(sd.post(T2I, prompt="vary", batch_size=2, n_iter=2, **fields, **SMALL))
    assert info["all_seeds"] == [7, 7, 7, 7]
    assert info["all_subseeds"] == [20, 21, 22, 23]
    params = [request.params for request in sd.models.calls[-4:]]
    assert sorted((p.seed, p.variation_seed) for p in params) == [(7, 20 + k) for k in range(4)]
    assert {p.variation_strength for p in params} == {0.5}
    assert "Variation seed: 21, Variation seed strength: 0.5" in info["infotexts"][1]


def test_txt2img_passes_every_knob_on(sd: Served) -> None:
    knobs = {
        "s_churn": 1,
        "s_tmin": 0.1,
        "s_tmax": 0,
        "s_noise": 1.5,
        "s_min_uncond": 2,
        "eta": 0.5,
        "tiling": True,
    }
    sizes = {"seed_resize_from_w": 128, "seed_resize_from_h": 64}
    overrides = {"CLIP_stop_at_last_layers": "2", "nonsense": 1, "samples_format": "webp"}
    answer = sd.post(T2I, prompt="k", override_settings=overrides, **knobs, **sizes, **SMALL)
    params = asked(sd).params
    assert params.min_uncond_sigma == 2
    assert (params.s_churn, params.s_tmin, params.s_tmax, params.s_noise) == (1, 0.1, None, 1.5)
    assert (params.eta, params.tiling, params.clip_skip) == (0.5, True, 2)
    assert (params.seed_width, params.seed_height) == (128, 64)
    assert opened(answer["images"][0]).format == "WEBP"
    assert sd.get("/sdapi/v1/options")["CLIP_stop_at_last_layers"] == 1


@pytest.mark.parametrize(
    ("sampler", "schedule", "scheduler", "sigmas", "label"),
    [
        ("DPM++ 2M Karras", None, "DPM++ 2M", "karras", "Karras"),
        ("DPM++ 2M", None, "DPM++ 2M", "karras", "Automatic"),
        ("DPM++ 2M SDE", "Automatic", "DPM++ 2M SDE", "exponential", "Automatic"),
        ("dpm++ 2m sde karras", "automatic", "DPM++ 2M SDE", "karras", "Karras"),
        ("k_dpmpp_2m_ka", None, "DPM++ 2M", "karras", "Karras"),
        ("Euler", "simple", "Euler", "simple", "Simple"),
        ("Euler SGMUniform", None, "Euler", "sgm_uniform", "SGM Uniform"),
        ("k_euler_ancestral", "no such", "Euler a", "trailing", "Automatic"),
        ("Euler a", "Karras", "Euler a", "trailing", "Automatic"),
        ("PLMS", "Karras", "PNDM", "trailing", "Automatic"),
        ("LCM", None, "LCM", "normal", "Automatic"),
        ("Automatic", None, "Euler", "trailing", "Automatic"),
    ],
)
def test_sampler_by_every_name(
    sd: Served, sampler: str, schedule: str | None, scheduler: str, sigmas: str, label: str
) -> None:
    fields = {"sampler_name": sampler, "scheduler": schedule, **SMALL}
    info = info_of(sd.post(T2I, prompt="s", **fields))
    assert (asked(sd).params.scheduler, asked(sd).params.sigmas) == (scheduler, sigmas)
    assert f"Schedule type: {label}" in info["infotexts"][0]


@pytest.mark.parametrize(
    ("fields", "scheduler", "eta"),
    [
        ({"sampler_name": "Euler a", "eta": 0}, "Euler", "Eta: 0.0"),
        ({"sampler_name": "Euler a", "override_settings": {"eta_ancestral": 0}}, "Euler", "Eta: "),
        ({"sampler_name": "DPM++ 2M SDE Karras", "eta": 0.0}, "DPM++ 2M", "Eta: 0.0"),
        ({"sampler_name": "Euler a", "eta": 1}, "Euler a", "Eta: 1.0"),
        ({"sampler_name": "Heun", "eta": 0}, "Heun", ""),
        ({"sampler_name": "DDIM", "eta": 0}, "DDIM", ""),
    ],
    ids=["ancestral", "by option", "SDE", "one", "without noise", "DDIM"],
)
def test_sampler_at_an_eta_of_zero_adds_no_noise(
    sd: Served, fields: dict[str, Any], scheduler: str, eta: str
) -> None:
    told = info_of(sd.post(T2I, prompt="s", seed=1, **fields, **SMALL))
    assert asked(sd).params.scheduler == scheduler
    text = told["infotexts"][0]
    assert eta in text
    assert ("Eta" in text) == bool(eta)
    assert told["sampler_name"] in fields["sampler_name"]
    sd.post(T2I, infotext=text)
    assert asked(sd).params.scheduler == scheduler


def test_sampler_index_is_a_name_used_when_sampler_name_is_empty(sd: Served) -> None:
    sd.post(T2I, prompt="s", sampler_name="", sampler_index="Heun", **SMALL)
    assert asked(sd).params.scheduler == "Heun"


def test_every_listed_sampler_and_schedule_draws(sd: Served) -> None:
    for sampler in sd.get("/sdapi/v1/samplers"):
        for name in (sampler["name"], *sampler["aliases"]):
            told = sd.post(T2I, prompt="s", sampler_name=name, **SMALL)
            assert info_of(told)["sampler_name"] == sampler["name"]
    without_kin = {"KL Optimal", "Align Your Steps", "Align Your Steps GITS", "Turbo"}
    for schedule in sd.get("/sdapi/v1/schedulers"):
        is_followed = schedule["label"].removesuffix(" 11").removesuffix(" 32") not in without_kin
        used = schedule["label"] if is_followed else "Automatic"
        for name in (schedule["name"], schedule["label"]):
            told = sd.post(T2I, prompt="s", sampler_name="Euler", scheduler=name, **SMALL)
            assert f"Schedule type: {used}" in info_of(told)["infotexts"][0], name


def test_styles_are_laid_over_the_prompts(sd: Served) -> None:
    sd.post(T2I, prompt="a cat", styles=["ink", "fine", "unknown"], **SMALL)
    assert asked(sd).prompt == "ink drawing of a cat, masterpiece"
    assert asked(sd).negative_prompt == "photo"
    assert [style["name"] for style in sd.get("/sdapi/v1/prompt-styles")] == ["ink", "fine"]


def test_styles_are_laid_over_the_second_passs_own_prompt(sd: Served) -> None:
    fields = {"prompt": "a cat", "styles": ["ink"], "enable_hr": True}
    told = sd.post(T2I, **fields, hr_prompt="a fine cat", **SMALL)
    second = asked(sd).second_pass
    assert (second.prompt, second.negative_prompt) == ("ink drawing of a fine cat", None)
    assert "Hires prompt: ink drawing of a fine cat" in info_of(told)["infotexts"][0]


def test_prompt_notation_is_left_to_the_engine(sd: Served) -> None:
    notation = "a (red:1.3) BREAK circle [in:on:0.5] a [box|ball] AND \\(x\\) :0.4"
    told = sd.post(T2I, prompt=f"{notation}<foo:bar>", **SMALL)
    assert asked(sd).prompt == notation
    assert asked(sd).weighting == "a1111"
    assert info_of(told)["infotexts"][0].startswith(f"{notation}<foo:bar>\nSteps: 2")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (128, 128, "latent", None)),
        ({"hr_scale": 1.5, "hr_upscaler": "Lanczos"}, (96, 96, "lanczos", None)),
        ({"hr_resize_x": 128, "hr_second_pass_steps": 3}, (128, 128, "latent", 3)),
        (
            {"hr_resize_x": 128, "hr_resize_y": 96, "hr_upscaler": "Latent (nearest-exact)"},
            (128, 96, "latent-nearest-exact", None),
        ),
        (
            {"firstphase_width": 64, "firstphase_height": 64, "width": 256, "height": 192},
            (256, 192, "latent", None),
        ),
    ],
    ids=["default", "scale", "one side", "both sides", "old"],
)
def test_enable_hr_is_a_second_pass(
    sd: Served, fields: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    sd.post(T2I, **{"prompt": "h", "enable_hr": True, **SMALL, **fields})
    second = asked(sd).second_pass
    assert (second.width, second.height, second.upscaler, second.num_inference_steps) == expected
    assert second.strength == 0.75


def test_enable_hr_takes_its_own_prompt_and_sampler(sd: Served) -> None:
    own = {"hr_prompt": "finer", "hr_negative_prompt": "rough", "hr_sampler_name": "Heun"}
    told = sd.post(T2I, prompt="h", enable_hr=True, denoising_strength=0.4, **own, **SMALL)
    second = asked(sd).second_pass
    assert (second.prompt, second.negative_prompt, second.scheduler) == ("finer", "rough", "Heun")
    assert second.strength == 0.4
    assert "Denoising strength: 0.4" in info_of(told)["infotexts"][0]


def test_save_images_puts_the_grid_first(sd: Served) -> None:
    answer = sd.post(T2I, prompt="grid", seed=1, batch_size=4, save_images=True, **SMALL)
    info = info_of(answer)
    grid, *pictures = [opened(image) for image in answer["images"]]
    assert (len(pictures), grid.size, info["index_of_first_image"]) == (4, (128, 128), 1)
    assert len(info["infotexts"]) == 5
    corners = [(0, 0), (127, 0), (0, 127), (127, 127)]
    assert [grid.getpixel(c) for c in corners] == [p.getpixel((0, 0)) for p in pictures]


@pytest.mark.parametrize(
    "fields",
    [
        {"save_images": False},
        {"save_images": True, "override_settings": {"return_grid": False}},
        {"save_images": True, "batch_size": 1},
    ],
    ids=["not saved", "no grid wanted", "one picture"],
)
def test_without_reason_there_is_no_grid(sd: Served, fields: dict[str, Any]) -> None:
    answer = sd.post(T2I, **{"prompt": "grid", "batch_size": 2, **SMALL, **fields})
    assert len(answer["images"]) == fields.get("batch_size", 2)
    assert info_of(answer)["index_of_first_image"] == 0


def test_send_images_false_sends_none(sd: Served) -> None:
    answer = sd.post(T2I, prompt="none", send_images=False, **SMALL)
    assert answer["images"] == []
    assert len(info_of(answer)["infotexts"]) == 1


def test_numbers_truths_and_nulls_are_read_leniently(sd: Served) -> None:
    body = {"prompt": "l", "steps": "2", "width": 64.0, "height": "64", "tiling": 1, "seed": None}
    sd.post(T2I, **body, styles=None, cfg_scale=None, override_settings=None, script_name=None)
    params = asked(sd).params
    assert (params.num_inference_steps, params.width, params.guidance_scale) == (2, 64, 7.0)


def test_sizes_are_rounded_to_the_models_multiple(sd: Served) -> None:
    answer = sd.post(T2I, prompt="r", width=67, height=77, steps=1)
    assert opened(answer["images"][0]).size == (64, 80)
    assert "Size: 64x80" in info_of(answer)["infotexts"][0]


def test_restore_faces_does_what_it_does_without_the_weights(sd: Served) -> None:
    info = info_of(sd.post(T2I, prompt="f", restore_faces=True, **SMALL))
    assert (info["restore_faces"], info["face_restoration_model"]) == (True, None)


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"sampler_name": "Foo"}, 400, "Sampler not found: 'Foo'"),
        ({"prompt": "<lora:detail:0.8> x"}, 400, "LoRA 'detail' not found"),
        ({"enable_hr": True, "hr_prompt": "<lora:fine:1>"}, 400, "LoRA 'fine' not found"),
        ({"prompt": "<hypernet:old:1> x"}, 400, "hypernetwork 'old' not found"),
        ({"override_settings": {"sd_model_checkpoint": "nope"}}, 400, "'nope' not found"),
        ({"override_settings": {"samples_format": "avif"}}, 400, "avif"),
        ({"script_name": "Foo"}, 422, "Script 'Foo' not found; known: Prompt matrix"),
        ({"script_name": "Loopback"}, 422, "not found"),
        ({"alwayson_scripts": {"ControlNet": {"args": []}}}, 422, "Script 'ControlNet' not found"),
        ({"alwayson_scripts": {"Prompt matrix": {}}}, 422, "selectable script"),
        ({"width": 4096}, 400, "4096"),
        ({"width": 8}, 400, "64"),
        ({"steps": 0}, 400, "steps 0"),
        ({"seed": 2**32}, 400, "seed 4294967296"),
        ({"seed": -2}, 400, "seed -2"),
        ({"batch_size": 0}, 400, "batch_size 0"),
        ({"n_iter": 1000}, 400, "n_iter 1000"),
        ({"s_min_uncond": -1}, 400, "s_min_uncond"),
        ({"refiner_checkpoint": "x", "refiner_switch_at": 0.8}, 400, "model 'x' not found"),
        ({"firstpass_image": PICTURE}, 400, "firstpass_image"),
        ({"enable_hr": True, "hr_upscaler": "R-ESRGAN 4x+"}, 400, "R-ESRGAN 4x+"),
        ({"enable_hr": True, "hr_scale": 100}, 400, "6400"),
        ({"enable_hr": True, "hr_checkpoint_name": "other"}, 400, "hr_checkpoint_name"),
        ({"enable_hr": True, "denoising_strength": 2}, 400, "denoising_strength"),
        ({"seed_resize_from_w": 10**9, "seed_resize_from_h": 8}, 400, "seed_resize_from_w"),
        ({"prompt": "a" * 20_001}, 400, "20001"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_txt2img_refuses(sd: Served, fields: dict[str, Any], status: int, words: str) -> None:
    refusal = sd.refused(T2I, **{"prompt": "x", **SMALL, **fields})
    assert refusal.status_code == status, refusal.text
    assert words in refusal.json()["detail"]


@pytest.mark.parametrize(
    ("fields", "place", "kind"),
    [
        ({"steps": "many"}, ["body", "steps"], "int_parsing"),
        ({"sampler_index": None}, ["body", "sampler_index"], "string_type"),
        ({"prompt": 5}, ["body", "prompt"], "string_type"),
        ({"subseed_strength": 3}, ["body", "subseed_strength"], "less_than_equal"),
    ],
    ids=["text for a number", "null for a plain field", "number for text", "out of range"],
)
def test_body_that_is_no_good_is_a_422_with_places(
    sd: Served, fields: dict[str, Any], place: list[str], kind: str
) -> None:
    refusal = sd.refused(T2I, **fields)
    assert refusal.status_code == 422
    complaint = refusal.json()["detail"][0]
    assert (complaint["loc"], complaint["type"]) == (place, kind)
    assert complaint["msg"]


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{", "application/json", 422),
        (b'{"prompt": "x"}', "text/plain", 422),
        (b"[]", "application/json", 422),
        (b'{"steps": NaN}', "application/json", 400),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "application/json", 400),
        (b"x" * (65 * 1024 * 1024), "application/json", 413),
    ],
    ids=["bad JSON", "plain text", "no object", "NaN", "deep", "large"],
)
def test_hostile_bodies_are_refused(
    sd: Served, content: bytes, content_type: str, status: int
) -> None:
    response = sd.http.post(T2I, content=content, headers={"content-type": content_type})
    assert response.status_code == status
    assert set(response.json()) == {"error", "detail", "body", "errors"}


def test_unknown_routes_and_methods_are_refused_in_shape(sd: Served) -> None:
    assert sd.http.get("/sdapi/v1/nothing").json()["detail"] == "Not Found"
    wrong = sd.http.get(T2I)
    assert (wrong.status_code, wrong.json()["detail"]) == (405, "Method Not Allowed")


# -- img2img ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_img2img_draws_over_the_picture_at_the_size_asked_for(sd: Served, prefix: str) -> None:
    answer = sd.post(I2I, prompt="i", init_images=[prefix + PICTURE], **SMALL)
    request = asked(sd)
    assert (request.params.strength, len(request.images), request.mask) == (0.75, 1, None)
    assert opened(base64.b64encode(request.images[0]).decode()).size == (64, 64)
    assert answer["parameters"]["init_images"] is None
    assert answer["parameters"]["mask"] is None


def test_img2img_hands_inputs_back_when_asked(sd: Served) -> None:
    answer = sd.post(I2I, prompt="i", init_images=[PICTURE], include_init_images=True, **SMALL)
    assert answer["parameters"]["init_images"] == [PICTURE]


def test_img2img_batches_one_picture_for_each_input(sd: Served) -> None:
    other = base64.b64encode(_flat((64, 64), (0, 0, 255))).decode()
    answer = sd.post(I2I, prompt="i", seed=3, init_images=[PICTURE, other], batch_size=2, **SMALL)
    assert len(answer["images"]) == 2
    first, second = sorted(sd.models.calls[-2:], key=lambda request: request.params.seed or 0)
    assert _pixel(first.images[0]) == (200, 30, 30)
    assert _pixel(second.images[0]) == (0, 0, 255)


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"init_images": None}, 404, "Init image not found"),
        ({"init_images": []}, 404, "Init image not found"),
        ({"init_images": ["!!"]}, 400, "Invalid encoded image"),
        ({"init_images": [base64.b64encode(b"text").decode()]}, 400, "Invalid encoded image"),
        ({"init_images": [PICTURE[: len(PICTURE) // 8 * 4]]}, 400, "Invalid encoded image"),
        ({"init_images": [base64.b64encode(giant_png()).decode()]}, 400, "pixels"),
        ({"init_images": [PICTURE], "mask": "?"}, 400, "Invalid encoded image"),
        ({"init_images": [PICTURE, PICTURE]}, 400, "bad number of images"),
        ({"init_images": [PICTURE], "denoising_strength": 1.5}, 400, "strength 1.5"),
        ({"init_images": ["http://127.0.0.1:1/x.png"]}, 400, ""),
        (
            {
                "init_images": [PICTURE],
                "override_settings": {"img2img_background_color": "#"},
            },
            400,
            "img2img_background_color",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_img2img_refuses(sd: Served, fields: dict[str, Any], status: int, words: str) -> None:
    response = sd.http.post(I2I, json={"prompt": "x", **SMALL, **fields})
    assert response.status_code == status, response.text
    assert words in response.json()["detail"]


def test_progress_and_interrupt_of_nothing(sd: Served) -> None:
    assert sd.post("/sdapi/v1/interrupt") == {}
    assert sd.post("/sdapi/v1/skip") is None
    assert sd.get("/sdapi/v1/progress") == {
        "progress": 0,
        "eta_relative": 0,
        "state": {
            "skipped": False,
            "interrupted": False,
            "stopping_generation": False,
            "job": "",
            "job_count": 0,
            "job_timestamp": "0",
            "job_no": 0,
            "sampling_step": 0,
            "sampling_steps": 0,
        },
        "current_image": None,
        "textinfo": None,
    }


# -- while it runs ------------------------------------------------------------------------------


def in_background(sd: Served, path: str, **body: Any) -> tuple[threading.Thread, list[Any]]:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(sd.http.post(path, json=body)))
    thread.start()
    return thread, answers


def test_progress_while_a_call_runs_and_interrupt_which_ends_it() -> None:
    with sdapi_gateway(step_seconds=0.05) as sd:
        body = {"prompt": "slow", "steps": 100, "width": 64, "height": 64}
        thread, answers = in_background(sd, T2I, **body, force_task_id="task(one)")
        wait_until(lambda: sd.get("/sdapi/v1/progress")["current_image"] is not None)
        told = sd.get("/sdapi/v1/progress")
        assert 0 < told["progress"] < 1
        assert told["eta_relative"] > 0
        assert (told["state"]["job_count"], told["state"]["sampling_steps"]) == (1, 100)
        assert told["state"]["sampling_step"] > 0
        assert opened(told["current_image"]).size == (64, 64)
        hidden = sd.get("/sdapi/v1/progress", skip_current_image=True, id_task="task(one)")
        assert hidden["current_image"] is None
        assert hidden["progress"] > 0
        assert sd.get("/sdapi/v1/progress", id_task="other")["state"]["job_count"] == 0
        task = sd.post("/internal/progress", id_task="task(one)")
        assert (task["active"], task["queued"], task["completed"]) == (True, False, False)
        assert task["live_preview"].startswith("data:image/jpeg;base64,")
        assert sd.get("/queue/status")["queue_size"] == 1

        began = time.monotonic()
        assert sd.post("/sdapi/v1/interrupt") == {}
        thread.join(5)
        assert time.monotonic() - began < 1
        assert answers[0].status_code == 200
        assert answers[0].json()["images"] == []
        assert json.loads(answers[0].json()["info"])["prompt"] == "slow"
        assert len(sd.models.cancelled) == 1
        assert sd.post("/internal/progress", id_task="task(one)")["completed"] is True
        assert sd.get("/sdapi/v1/progress")["state"]["job_count"] == 0


def test_skip_leaves_out_an_iteration_and_goes_on() -> None:
    with sdapi_gateway(step_seconds=0.02) as sd:
        body = {"prompt": "three", "width": 64, "height": 64, "seed": 4, "steps": 40, "n_iter": 3}
        thread, answers = in_background(sd, T2I, **body)
        wait_until(lambda: sd.get("/sdapi/v1/progress")["progress"] > 0.02)
        assert sd.post("/sdapi/v1/skip") is None
        thread.join(20)
        answer = answers[0].json()
        info = json.loads(answer["info"])
        assert len(answer["images"]) == 2
        assert info["all_seeds"] == [5, 6]


def test_interrupt_keeps_the_pictures_that_are_finished() -> None:
    with sdapi_gateway(step_seconds=0.02) as sd:
        args = [4, "1, 150", [], 0, "", [], 0, "", [], False, True, False, False, 0, 0, 0, 0, True]
        fields = {"prompt": "two", "width": 64, "height": 64, "seed": 4, "script_args": args}
        thread, answers = in_background(sd, T2I, script_name="X/Y/Z plot", **fields)
        wait_until(lambda: sd.get("/sdapi/v1/progress")["progress"] > 0.04)
        sd.post("/sdapi/v1/interrupt")
        thread.join(5)
        assert answers[0].status_code == 200
        grid, only = [opened(image) for image in answers[0].json()["images"]]
        assert grid.size == (128, 64)
        assert grid.getpixel((0, 0)) == only.getpixel((0, 0))
        assert grid.getpixel((127, 0)) == (0, 0, 0)


def test_interrupt_keeps_the_iterations_that_have_ended() -> None:
    with sdapi_gateway(step_seconds=0.02) as sd:
        fields = {"prompt": "four", "seed": 4, "n_iter": 4, "steps": 20, "width": 64, "height": 64}
        thread, answers = in_background(sd, T2I, **fields)
        wait_until(lambda: sd.get("/sdapi/v1/progress")["state"]["job_no"] == 2)
        sd.post("/sdapi/v1/interrupt")
        thread.join(5)
        info = info_of(answers[0].json())
        assert (len(answers[0].json()["images"]), info["all_seeds"]) == (2, [4, 5])


def test_call_whose_client_goes_away_is_cancelled() -> None:
    with sdapi_gateway(step_seconds=0.05) as sd:
        body = {"prompt": "left", "steps": 150, "width": 64, "height": 64}
        hang_up(sd.models, f"{sd.url}{T2I}", json=body)
        wait_until(lambda: len(sd.models.cancelled) == 1)
        wait_until(lambda: sd.get("/sdapi/v1/progress")["state"]["job_count"] == 0)


def test_sixteen_clients_at_once_get_what_they_get_alone(sd: Served) -> None:
    def draw(k: int) -> str:
        fields = {"batch_size": 2, "steps": 3, "width": 64, "height": 64}
        answer = sd.post(T2I, prompt=f"client {k}", seed=k, **fields)
        return json.dumps(answer["images"])

    alone = [draw(k) for k in range(16)]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(draw, range(16))) == alone


# -- owners -------------------------------------------------------------------------------------


def test_owners_do_not_see_each_other() -> None:
    with sdapi_gateway(SDXL, step_seconds=0.05, user="ann", api_key="key") as sd:
        body = {"prompt": "slow", "steps": 40, "width": 64, "height": 64}
        thread, answers = in_background(sd, T2I, **body)
        wait_until(lambda: sd.get("/sdapi/v1/progress")["progress"] > 0)
        bob = ("bob", "key")
        told = sd.http.get("/sdapi/v1/progress", auth=bob).json()
        assert (told["progress"], told["state"]["job_count"]) == (0, 0)
        sd.http.post("/sdapi/v1/interrupt", auth=bob)
        sd.http.post("/sdapi/v1/options", json={"jpeg_quality": 5}, auth=bob)
        assert sd.get("/sdapi/v1/options")["jpeg_quality"] == 80
        assert sd.http.get("/sdapi/v1/options", auth=bob).json()["jpeg_quality"] == 5
        thread.join(10)
        assert len(answers[0].json()["images"]) == 1


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic ISE="}],
    ids=["none", "wrong", "garbled"],
)
def test_without_the_key_everything_is_a_401(headers: dict[str, str]) -> None:
    with sdapi_gateway(api_key="key") as sd:
        for path in ("/sdapi/v1/options", "/sdapi/v1/sd-models", "/internal/ping", "/config"):
            response = sd.http.get(path, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Basic"
            assert isinstance(response.json()["detail"], str)
        good = {"authorization": "Bearer key"}
        assert sd.http.get("/sdapi/v1/options", headers=good).status_code == 200


@pytest.mark.parametrize("header", ["", "Basic Og==", "Bearer junk", "Basic !"])
def test_without_a_key_any_header_is_ignored(sd: Served, header: str) -> None:
    response = sd.http.get("/sdapi/v1/options", headers={"authorization": header})
    assert response.status_code == 200


def _flat(size: tuple[int, int], colour: tuple[int, int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def _pixel(data: bytes) -> Any:
    return opened(base64.b64encode(data).decode()).getpixel((0, 0))
