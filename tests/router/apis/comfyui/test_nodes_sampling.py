"""What samplers ask of models: steps, guidance, noise, masks, and ComfyUI's names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deployments.errors import InvalidRequest, UnsupportedField
from deployments.types import GenerationRequest, Latents, PromptPart, SamplingParams
from router.apis.comfyui.denoising import Denoising, make_requests, plan_steps
from router.apis.comfyui.nodes.sampling import set_shift
from router.apis.comfyui.samplers import SAMPLERS, SCHEDULERS, find_sampling
from router.apis.comfyui.values import Conditioning, Latent, Masks, Model
from tests.router.apis.comfyui.easel import QWEN, SDXL, Easel, execution, node, text_to_image

ZEROS = Latents(num_images=1, width=64, height=64)


def text(
    *words: str, model: str = "sdxl-turbo", references: tuple[bytes, ...] = ()
) -> Conditioning:
    parts = tuple(PromptPart(text=word) for word in words)
    return Conditioning(model=model, parts=parts, references=references)


def asked(**fields: Any) -> Denoising:
    given: dict[str, Any] = {
        "model": Model(id="sdxl-turbo"),
        "positive": text("a cat"),
        "negative": text("a dog"),
        "latent": Latent(pictures=(ZEROS,)),
        "seed": 7,
        "cfg": 8.0,
        "params": SamplingParams(num_inference_steps=20),
    }
    return Denoising(**{**given, **fields})


async def calls(graph: dict[str, Any]) -> list[GenerationRequest]:
    """What models were asked to denoise."""
    easel = Easel()
    await execution(easel, graph).run()
    return [call for call in easel.models.calls if call.task == "generate"]  # type: ignore[attr-defined]


def advanced(**fields: Any) -> dict[str, Any]:
    graph = text_to_image()
    plain = graph["3"]["inputs"]
    linked = {name: plain[name] for name in ("model", "positive", "negative", "latent_image")}
    given = {
        "add_noise": "enable",
        "noise_seed": 3,
        "steps": 4,
        "cfg": 2.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "start_at_step": 0,
        "end_at_step": 10000,
        "return_with_leftover_noise": "disable",
    }
    graph["3"] = node("KSamplerAdvanced", **linked, **{**given, **fields})
    return graph


# -- steps --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "denoise", "planned"),
    [
        (20, 1.0, (20, 0)),
        (20, 0.99995, (20, 0)),
        (20, 0.5, (40, 20)),
        (20, 0.6, (33, 13)),
        (3, 0.25, (12, 9)),
        (3, 0.8, (3, 0)),
        (2000, 0.5, (1000, 500)),
        (20, 0.1, (200, 180)),
        (20, 0.01, (1000, 990)),
        (1, 0.0001, (1000, 999)),
    ],
)
def test_denoise_walks_the_end_of_a_finer_schedule(
    steps: int, denoise: float, planned: tuple[int, int]
) -> None:
    assert plan_steps(steps, denoise) == planned


async def test_denoise_of_nothing_leaves_the_latents() -> None:
    assert await calls(text_to_image(denoise=0.0)) == []


async def test_small_denoise_is_no_long_schedule_to_walk() -> None:
    (call,) = await calls(text_to_image(steps=100, denoise=0.2))
    assert (call.params.num_inference_steps, call.params.first_step) == (500, 400)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (0, None, True, False)),
        ({"end_at_step": 2}, (0, 2, True, False)),
        ({"end_at_step": 2, "return_with_leftover_noise": "enable"}, (0, 2, True, True)),
        ({"start_at_step": 2, "add_noise": "disable"}, (2, None, False, False)),
        ({"end_at_step": 4, "return_with_leftover_noise": "enable"}, (0, None, True, False)),
    ],
    ids=["all", "first", "leftover", "second", "no-leftover-at-the-end"],
)
async def test_advanced_sampler_walks_a_part(
    fields: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    (call,) = await calls(advanced(**fields))
    params = call.params
    assert (
        params.first_step,
        params.last_step,
        params.adds_noise,
        params.keeps_noise,
    ) == expected
    assert params.seed == 3


async def test_advanced_sampler_without_a_step_leaves_the_latents() -> None:
    assert await calls(advanced(start_at_step=4)) == []
    assert await calls(advanced(start_at_step=3, end_at_step=2)) == []


# -- guidance -----------------------------------------------------------------------------------


def test_guidance_of_one_needs_no_negative_row() -> None:
    (request,) = make_requests(SDXL, asked(cfg=1.0))
    assert request.params.guidance_scale == 1.0
    assert [part.text for part in request.parts] == ["a cat"]
    assert request.negative_parts == ()


def test_guidance_below_one_lies_between_both_texts() -> None:
    (request,) = make_requests(SDXL, asked(cfg=0.25))
    weights = {part.text: part.weight for part in request.parts}
    assert weights == {"a cat": 0.25, "a dog": 0.75}
    assert request.params.guidance_scale == 1.0


def test_guidance_of_zero_is_the_negative_text() -> None:
    (request,) = make_requests(SDXL, asked(cfg=0.0))
    assert [(part.text, part.weight) for part in request.parts] == [("a dog", 1.0)]


def test_several_texts_are_averaged() -> None:
    (request,) = make_requests(SDXL, asked(positive=text("a", "b", "c", "d")))
    assert [part.weight for part in request.parts] == [0.25] * 4


def test_model_with_distilled_guidance_gets_the_other_knob() -> None:
    card = replace(QWEN, defaults=replace(QWEN.defaults, true_cfg_scale=4.0))
    texts = {name: text(name, model=QWEN.id) for name in ("positive", "negative")}
    (request,) = make_requests(card, asked(model=Model(id=QWEN.id), **texts))
    assert request.params.true_cfg_scale == 8.0
    assert request.params.guidance_scale is None


def test_texts_are_in_comfyuis_notation() -> None:
    (request,) = make_requests(SDXL, asked())
    assert (request.is_weighted, request.weighting) == (True, "comfyui")


def test_texts_of_another_models_encoder_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="negative is a text for model 'other'"):
        make_requests(SDXL, asked(negative=text("x", model="other")))


def test_shift_is_the_models() -> None:
    (model,) = set_shift(model=Model(id="sdxl-turbo"), shift=3.1)
    (request,) = make_requests(SDXL, asked(model=model))
    assert request.params.shift == 3.1


# -- pictures -----------------------------------------------------------------------------------


def test_pictures_of_a_batch_have_seeds_in_a_row() -> None:
    requests = make_requests(SDXL, asked(latent=Latent(pictures=(ZEROS,) * 3)))
    assert [request.params.seed for request in requests] == [7, 8, 9]


def test_pictures_taken_from_a_batch_keep_their_noise() -> None:
    latent = Latent(pictures=(ZEROS, ZEROS), noise_indices=(4, 6))
    requests = make_requests(SDXL, asked(latent=latent))
    assert [request.params.seed for request in requests] == [11, 13]


def test_largest_seed_is_followed_by_the_smallest() -> None:
    latent = Latent(pictures=(ZEROS, ZEROS))
    requests = make_requests(SDXL, asked(seed=2**64 - 1, latent=latent))
    assert [request.params.seed for request in requests] == [2**64 - 1, 0]


def test_each_picture_has_its_mask() -> None:
    values = np.stack([np.zeros((8, 8)), np.ones((8, 8))]).astype(np.float32)
    latent = Latent(pictures=(ZEROS,) * 3, mask=Masks(values=values))
    requests = make_requests(SDXL, asked(latent=latent))
    assert requests[0].mask == requests[2].mask != requests[1].mask


def test_pictures_to_look_at_go_to_models_that_edit() -> None:
    texts = {
        "positive": text("a", model=QWEN.id, references=(b"1", b"2")),
        "negative": text("b", model=QWEN.id, references=(b"3",)),
    }
    (request,) = make_requests(QWEN, asked(model=Model(id=QWEN.id), **texts))
    assert request.images == (b"1", b"2")


def test_pictures_to_look_at_are_refused_by_others() -> None:
    with pytest.raises(UnsupportedField, match="cannot look at pictures"):
        make_requests(SDXL, asked(positive=text("a", references=(b"1",))))


# -- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "scheduler", "expected"),
    [
        ("euler", "normal", ("Euler", "normal")),
        ("euler_ancestral", "simple", ("Euler a", "simple")),
        ("euler_ancestral", "karras", ("Euler a", "normal")),
        ("dpmpp_2m", "karras", ("DPM++ 2M", "karras")),
        ("res_multistep", "beta", ("DPM++ 2M", "beta")),
        ("ddim", "ddim_uniform", ("DDIM", "normal")),
        ("lcm", "sgm_uniform", ("LCM", "normal")),
    ],
)
def test_names_become_ours(sampler: str, scheduler: str, expected: tuple[str, str]) -> None:
    assert find_sampling(sampler, scheduler, SDXL) == expected


def test_first_order_falls_back_to_eulers_step_on_flow_models() -> None:
    assert find_sampling("euler_ancestral", "normal", QWEN) == ("Euler", "normal")
    assert find_sampling("ddim", "sgm_uniform", QWEN) == ("Euler", "normal")


@pytest.mark.parametrize("sampler", ["euler_cfg_pp", "heun", "uni_pc"])
def test_sampler_that_a_model_has_not_is_refused_with_those_it_has(sampler: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        find_sampling(sampler, "normal", SDXL)
    assert f"has no sampler {sampler!r}; it accepts: euler, euler_ancestral" in str(caught.value)


@pytest.mark.parametrize("scheduler", ["kl_optimal", "linear_quadratic"])
def test_scheduler_that_nothing_here_is_like_is_refused(scheduler: str) -> None:
    with pytest.raises(InvalidRequest, match="it accepts: simple, sgm_uniform, karras"):
        find_sampling("euler", scheduler, SDXL)


def test_model_that_tells_nothing_keeps_its_own() -> None:
    card = replace(SDXL, schedulers=(), sigmas=())
    assert find_sampling("dpmpp_sde", "beta", card) == (None, None)


def test_every_name_of_comfyuis_is_offered() -> None:
    assert len(SAMPLERS) >= 42
    assert list(SCHEDULERS)[:3] == ["simple", "sgm_uniform", "karras"]
    assert {"euler", "dpmpp_3m_sde_gpu", "uni_pc_bh2", "er_sde"} <= SAMPLERS.keys()
