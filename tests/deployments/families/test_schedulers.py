"""The table of schedulers: what pairs with what, and every pair against the stock pipeline."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)

from deployments import pictures
from deployments.errors import InvalidRequest
from deployments.families import schedulers
from deployments.families.base import Family
from router.apis.sdapi.samplers import SAMPLERS, Sampler
from tests.deployments.families.driver import ask, draw, inpainted, stock

#: torchsde rounds the ends of the Brownian path apart in the last digit and says so.
pytestmark = pytest.mark.filterwarnings("ignore:Should have t:UserWarning")

PAIRS = [(name, s) for name in schedulers.SCHEDULERS for s in schedulers.sigmas_of(name)]
CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def test_build_names_the_known_when_the_scheduler_is_unknown() -> None:
    with pytest.raises(InvalidRequest, match=r"unknown scheduler 'Eular'; known: Euler, Euler a"):
        schedulers.build("Eular", "normal", CONFIG, 0)


def test_build_names_the_supported_when_the_spacing_is_not() -> None:
    with pytest.raises(InvalidRequest, match=r"'Euler a' has no sigmas 'karras'.*sgm_uniform"):
        schedulers.build("Euler a", "karras", CONFIG, 0)


def test_sigmas_of_distilled_schedulers_is_their_own_only() -> None:
    assert schedulers.sigmas_of("LCM") == schedulers.sigmas_of("TCD") == ("normal",)


def test_build_maps_spacings_to_diffusers_options() -> None:
    karras = schedulers.build("DPM++ 2M", "karras", CONFIG, 0)
    assert isinstance(karras, DPMSolverMultistepScheduler)
    assert karras.config.use_karras_sigmas
    beta = schedulers.build("Euler", "beta", {**CONFIG, "use_karras_sigmas": True}, 0)
    assert isinstance(beta, EulerDiscreteScheduler)
    assert (beta.config.use_beta_sigmas, beta.config.use_karras_sigmas) == (True, False)
    assert beta.config.timestep_spacing == "linspace"
    simple = schedulers.build("Euler", "simple", CONFIG, 0)
    assert simple.config.timestep_spacing == "trailing"


def test_build_makes_the_higher_orders() -> None:
    third = schedulers.build("DPM++ 3M SDE", "exponential", CONFIG, 0)
    assert (third.config.algorithm_type, third.config.solver_order) == ("sde-dpmsolver++", 3)
    heun = schedulers.build("DPM++ 2M SDE Heun", "normal", CONFIG, 0)
    assert (heun.config.algorithm_type, heun.config.solver_type) == ("sde-dpmsolver++", "heun")


@pytest.mark.parametrize("name", ["Heun", "DPM2", "DPM2 a"])
def test_walk_visits_two_timesteps_for_a_step_of_second_order(name: str) -> None:
    scheduler = schedulers.build(name, "karras", CONFIG, 0)
    assert len(schedulers.walk(scheduler, 4)) == 7
    assert len(schedulers.walk(scheduler, 4, 0.5)) == 3


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
def test_a1111_samplers_ask_for_what_their_scheduler_has(sampler: Sampler) -> None:
    assert set(sampler.sigmas) <= set(schedulers.sigmas_of(sampler.scheduler))
    assert sampler.automatic in (None, *sampler.sigmas)


def test_every_scheduler_has_a_name_in_a1111() -> None:
    assert {sampler.scheduler for sampler in SAMPLERS} == set(schedulers.SCHEDULERS)


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
@pytest.mark.parametrize("strength", [0.0, 0.05, 1.0])
def test_walk_leaves_a_step_whatever_the_strength(name: str, strength: float) -> None:
    scheduler = schedulers.build(name, "normal", CONFIG, 0)
    timesteps = schedulers.walk(scheduler, 4, strength)
    assert len(timesteps) >= (4 if strength == 1 else 1)
    if strength < 1:
        assert timesteps.max() < 80


def test_walk_refuses_more_steps_than_the_distillation_had() -> None:
    scheduler = schedulers.build("LCM", "normal", CONFIG, 0)
    with pytest.raises(InvalidRequest, match="at most 50 steps, not 51"):
        schedulers.walk(scheduler, 51)


def test_clean_latents_inverts_the_noising() -> None:
    scheduler = schedulers.build("PNDM", "normal", CONFIG, 0)
    clean, noise = torch.randn(2, 1, 4, 8, 8)
    timestep = torch.tensor(400)
    noisy = scheduler.add_noise(clean, noise, timestep[None])
    told = schedulers.clean_latents(scheduler, None, noise, timestep, noisy)
    assert torch.allclose(told, clean, atol=1e-5)
    scheduler.register_to_config(prediction_type="v_prediction")
    alpha = scheduler.alphas_cumprod[400]
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
    told = schedulers.clean_latents(scheduler, None, velocity, timestep, noisy)
    assert torch.allclose(told, clean, atol=1e-5)
    scheduler.register_to_config(prediction_type="sample")
    assert schedulers.clean_latents(scheduler, None, clean, timestep, noisy) is clean


@pytest.mark.parametrize(("name", "sigmas"), PAIRS, ids=[f"{n}-{s}" for n, s in PAIRS])
def test_every_pair_draws_what_the_stock_pipeline_draws(
    load: Callable[[str], Family], name: str, sigmas: str
) -> None:
    family = load("sd")
    request = ask(scheduler=name, sigmas=sigmas, num_inference_steps=3, eta=0.3)
    expected = stock(family, StableDiffusionPipeline, request)
    assert np.abs(draw(family, request)[0] - expected).max() <= 1


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_every_scheduler_re_draws_what_the_stock_pipeline_re_draws(
    load: Callable[[str], Family], photo: bytes, name: str
) -> None:
    family = load("sd")
    request = ask(scheduler=name, images=(photo,))
    image = pictures.decode_image(photo)
    expected = stock(family, StableDiffusionImg2ImgPipeline, request, image=image, strength=0.6)
    assert np.abs(draw(family, request)[0] - expected).max() <= 1


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_every_scheduler_inpaints_what_the_stock_pipeline_inpaints(
    load: Callable[[str], Family], photo: bytes, mask: bytes, name: str
) -> None:
    family = load("sd")
    request = ask(scheduler=name, images=(photo,), mask=mask)
    image = pictures.decode_image(photo)
    gray = pictures.decode_mask(mask, image.size)
    drawn = stock(
        family,
        StableDiffusionInpaintPipeline,
        request,
        image=image,
        mask_image=gray,
        strength=0.6,
    )
    expected = inpainted(drawn, image, gray)
    assert np.abs(draw(family, request)[0] - expected).max() <= 1
