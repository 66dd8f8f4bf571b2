"""Which model serves a request, and what its card makes of it."""

from __future__ import annotations

import pytest

from deployments.errors import InvalidRequest, ModelNotReady, UnknownModel
from deployments.types import GenerationRequest, Load, SamplingParams
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
