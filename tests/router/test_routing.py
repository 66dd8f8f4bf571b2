"""Which model serves a request, and what its card makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deployments.errors import InvalidRequest, ModelNotReady, UnknownModel
from deployments.types import (
    GenerationRequest,
    Latents,
    Load,
    LoraUse,
    PromptPart,
    SamplingParams,
    SecondPass,
)
from router.fake_models import fake_card
from router.models import ModelStatus
from router.routing import admit, choose, resolve

SMALL = ModelStatus(id="small", card=fake_card("small", aliases=("tiny",)), num_replicas=1)
LARGE = ModelStatus(id="large", card=fake_card("large"), num_replicas=2)
DRAWS = ModelStatus(id="draws", card=fake_card("draws", modes=("text-to-image",)), num_replicas=1)
STARTING = ModelStatus(id="starting", card=None, num_replicas=0)


def load(work: float) -> Load:
    return Load(num_running=0, num_waiting=0, work=work)


@pytest.mark.parametrize("name", ["small", "tiny"])
def test_resolve_finds_by_id_and_alias(name: str) -> None:
    assert resolve([SMALL, LARGE], name).id == "small"


def test_resolve_lists_the_known_when_the_name_is_unknown() -> None:
    with pytest.raises(UnknownModel, match=r"unknown model 'sdlx'; known: large, small"):
        resolve([SMALL, LARGE], "sdlx")


def test_resolve_says_not_ready_when_the_model_is_starting() -> None:
    with pytest.raises(ModelNotReady, match="starting"):
        resolve([SMALL, STARTING], "starting")


def test_choose_prefers_in_order() -> None:
    chosen = choose([SMALL, LARGE], name=None, mode="edit", prefer=("qwen", "large", "small"))
    assert chosen.id == "large"


def test_choose_skips_a_preferred_model_that_cannot() -> None:
    chosen = choose([DRAWS, SMALL], name=None, mode="inpainting", prefer=("draws",))
    assert chosen.id == "small"


def test_choose_takes_the_least_work_per_replica() -> None:
    loads = {"small": load(10.0), "large": load(16.0)}
    assert choose([SMALL, LARGE], name=None, mode="text-to-image", loads=loads).id == "large"


def test_choose_refuses_a_named_model_that_cannot() -> None:
    with pytest.raises(InvalidRequest, match="'draws' cannot do edit"):
        choose([DRAWS], name="draws", mode="edit")


def test_admit_fills_every_knob_and_draws_a_seed() -> None:
    admitted = admit(fake_card(), GenerationRequest(prompt="a star"))
    params = admitted.params
    assert (params.width, params.height, params.num_inference_steps) == (64, 64, 4)
    assert params.scheduler == "Euler"
    assert params.seed is not None
    assert 0 <= params.seed < 2**32


@pytest.mark.parametrize(("asked", "made"), [(513, 512), (516, 520), (64, 64), (2048, 2048)])
def test_admit_rounds_sizes(asked: int, made: int) -> None:
    request = GenerationRequest(prompt="a star", params=SamplingParams(width=asked))
    assert admit(fake_card(), request).params.width == made


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (SamplingParams(width=32), "width 32 is out of range; accepted: 64 to 2048"),
        (SamplingParams(height=4096), "height 4096 is out of range; accepted: 64 to 2048"),
        (SamplingParams(num_inference_steps=151), "num_inference_steps 151 is out of range"),
        (SamplingParams(strength=1.5), "strength 1.5 is out of range"),
        (SamplingParams(scheduler="Euler z"), "unknown scheduler 'Euler z'; known: Euler, DDIM"),
        (SamplingParams(sigmas="loose"), "unknown sigmas 'loose'"),
        (SamplingParams(seed=-2), "seed -2 is out of range"),
    ],
    ids=["narrow", "tall", "steps", "strength", "scheduler", "sigmas", "seed"],
)
def test_admit_refuses_what_the_card_does_not_allow(params: SamplingParams, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        admit(fake_card(), GenerationRequest(prompt="a star", params=params))


def test_admit_refuses_unknown_weights_naming_the_known() -> None:
    card = fake_card(weights=("ann", "default"))
    with pytest.raises(InvalidRequest, match="unknown weights 'bob'; known: ann, default"):
        admit(card, GenerationRequest(prompt="a star", weights="bob"))


ZEROS = Latents(num_images=3, width=96, height=128)
SOME = Latents(num_images=2, width=96, height=128, value=object(), family="fake")


@pytest.mark.parametrize("latents", [ZEROS, SOME], ids=["zeros", "some"])
def test_admit_takes_size_and_number_from_latents(latents: Latents) -> None:
    asked = GenerationRequest(prompt="a star", latents=latents, params=SamplingParams(width=512))
    params = admit(fake_card(), asked).params
    assert (params.width, params.height, params.num_images) == (96, 128, latents.num_images)


def test_admit_rounds_zeros() -> None:
    latents = Latents(num_images=1, width=97, height=131)
    admitted = admit(fake_card(), GenerationRequest(prompt="a star", latents=latents))
    assert admitted.latents is not None
    assert (admitted.latents.width, admitted.latents.height) == (96, 128)
    assert (admitted.params.width, admitted.params.height) == (96, 128)


def test_admit_counts_the_pictures_to_encode() -> None:
    asked = GenerationRequest(prompt="", task="encode", images=(b"x",) * 20)
    admitted = admit(fake_card(), asked)
    assert admitted.params.num_images == 20
    assert admitted.gives_latents


@pytest.mark.parametrize(
    "asked",
    [
        GenerationRequest(prompt="", task="decode", latents=SOME),
        GenerationRequest(prompt="", parts=(PromptPart(text=""),)),
    ],
    ids=["decode", "parts"],
)
def test_admit_wants_no_prompt_where_none_is_needed(asked: GenerationRequest) -> None:
    assert admit(fake_card(), asked).prompt == ""


def test_admit_bounds_the_steps_walked_and_the_schedule() -> None:
    part = SamplingParams(num_inference_steps=2000, first_step=1900)
    assert admit(
        fake_card(),
        GenerationRequest(prompt="", parts=(PromptPart(text="a"),), params=part, latents=SOME),
    )
    for params, message in (
        (replace(part, first_step=1800), "number of steps 200 is out of range"),
        (replace(part, num_inference_steps=10_001), "10001 is out of range; accepted: 1 to 10000"),
        (replace(part, first_step=-1), "count from 0"),
        (replace(part, last_step=-1), "count from 0"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            admit(fake_card(), GenerationRequest(prompt="a", params=params, latents=SOME))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latents": replace(SOME, family="sdxl")}, "of family 'sdxl' do not fit 'sdxl-turbo'"),
        ({"task": "encode"}, "input images, one or more"),
        ({"task": "encode", "images": (b"x",), "latents": SOME}, "input images"),
        ({"task": "decode"}, "no latents to decode"),
        ({"params": SamplingParams(first_step=1)}, "only latents are drawn in part"),
        ({"params": SamplingParams(last_step=1)}, "only latents are drawn in part"),
        ({"latents": Latents(num_images=0, width=64, height=64)}, "num_images 0 is out of range"),
        ({"latents": replace(SOME, width=4096)}, "width 4096 is out of range"),
    ],
    ids=["family", "nothing", "both", "decode", "first", "last", "number", "size"],
)
def test_admit_refuses_latents_that_make_no_sense(fields: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        admit(fake_card(), GenerationRequest(prompt="a star", **fields))


def test_admit_refuses_latents_where_a_model_has_none() -> None:
    with pytest.raises(InvalidRequest, match="neither takes nor gives latents"):
        admit(fake_card(has_latents=False), GenerationRequest(prompt="a", gives_latents=True))


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        pytest.param({}, 4.0, id="the model's"),
        pytest.param({"true_cfg_scale": 2.0}, 2.0, id="the caller's"),
        pytest.param({"guidance_scale": 7.0}, None, id="another one is meant"),
        pytest.param({"guidance_scale": 7.0, "true_cfg_scale": 2.0}, 2.0, id="both"),
    ],
)
def test_admit_fills_in_true_cfg_scale(params: dict[str, float], expected: float | None) -> None:
    card = fake_card("small")
    card = replace(card, defaults=replace(card.defaults, true_cfg_scale=4.0))
    asked = GenerationRequest(prompt="a lake", params=SamplingParams(**params))
    assert admit(card, asked).params.true_cfg_scale == expected


def test_admit_takes_the_model_s_loras_and_names_them_where_one_is_unknown() -> None:
    card = replace(SMALL.card, loras=("ink", "wool"))  # type: ignore[type-var]
    uses = LoraUse(name="ink", weight=-10), LoraUse(name="wool", weight=0, text_weight=10)
    assert admit(card, GenerationRequest(prompt="a", loras=uses)).loras == uses
    part = PromptPart(text="a", loras=(LoraUse(name="pen"),))
    for request in (
        GenerationRequest(prompt="a", loras=part.loras or ()),
        GenerationRequest(prompt="a", parts=(part,)),
        GenerationRequest(prompt="a", negative_parts=(part,)),
        GenerationRequest(
            prompt="a", second_pass=SecondPass(width=64, height=64, loras=part.loras)
        ),
    ):
        with pytest.raises(
            InvalidRequest, match="unknown LoRA 'pen' for 'small'; known: ink, wool"
        ):
            admit(card, request)


@pytest.mark.parametrize(
    "weights", [{"weight": 10.01}, {"weight": float("nan")}, {"weight": 1, "text_weight": -11}]
)
def test_admit_refuses_loras_that_act_too_strongly(weights: dict[str, float]) -> None:
    card = replace(SMALL.card, loras=("ink",))  # type: ignore[type-var]
    with pytest.raises(InvalidRequest, match="of LoRA 'ink' is out of range; accepted: -10 to 10"):
        admit(card, GenerationRequest(prompt="a", loras=(LoraUse(name="ink", **weights),)))


def test_admit_refuses_very_many_loras() -> None:
    names = tuple(str(n) for n in range(17))
    card = replace(SMALL.card, loras=names)  # type: ignore[type-var]
    many = tuple(LoraUse(name=name) for name in names)
    admit(card, GenerationRequest(prompt="a", loras=many[:16] * 2))
    with pytest.raises(InvalidRequest, match="17 LoRAs are too many; accepted: at most 16"):
        admit(card, GenerationRequest(prompt="a", loras=many))
