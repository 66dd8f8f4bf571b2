"""The noise of the embedded models: every scheduler can walk it with velocities."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deployments.families import schedulers
from deployments.sketch.noising import NOISE, NUM_TIMESTEPS, noised, strayed
from deployments.types import SamplingParams

#: torchsde rounds the ends of the Brownian path apart in the last digit and says so.
pytestmark = pytest.mark.filterwarnings("ignore:Should have t:UserWarning")

PAIRS = [(name, s) for name in schedulers.SCHEDULERS for s in schedulers.sigmas_of(name)]
CLEAN = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))


def test_noised_keeps_next_to_nothing_at_the_end_and_all_at_the_start() -> None:
    noise = torch.randn(1, 4, 8, 8)
    last, velocity = noised(CLEAN, noise, torch.tensor([NUM_TIMESTEPS - 1]))
    assert (last - noise).abs().mean() < 0.03
    assert (velocity + CLEAN).abs().mean() < 0.03
    first, _ = noised(CLEAN, noise, torch.tensor([0]))
    assert (first - CLEAN).abs().mean() < 0.05


def test_strayed_noise_has_a_smooth_part_in_half_of_the_rows() -> None:
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 400, 4, 16, 16)
    drift = strayed(clean, noise) - noise
    is_plain = (drift == 0).all(dim=(1, 2, 3))
    assert 0.4 < is_plain.float().mean() < 0.6
    assert drift.abs().max() < 4
    assert 0.05 < drift[~is_plain].std() < 0.4


def test_noised_is_what_schedulers_noise_with() -> None:
    scheduler = schedulers.build("DDPM", "normal", NOISE, 0)
    noise, timesteps = torch.randn(1, 4, 8, 8), torch.tensor([400])
    noisy, velocity = noised(CLEAN, noise, timesteps)
    assert torch.allclose(noisy, scheduler.add_noise(CLEAN, noise, timesteps), atol=1e-5)
    assert torch.allclose(velocity, scheduler.get_velocity(CLEAN, noise, timesteps), atol=1e-5)


@pytest.mark.parametrize(("name", "sigmas"), PAIRS, ids=[f"{n}-{s}" for n, s in PAIRS])
@pytest.mark.parametrize("steps", [4, 20])
def test_every_scheduler_finds_the_picture_that_velocities_point_to(
    name: str, sigmas: str, steps: int
) -> None:
    scheduler = schedulers.build(name, sigmas, NOISE, 0)
    assert scheduler.config.prediction_type == "v_prediction"
    generator = torch.Generator().manual_seed(1)
    timesteps = schedulers.walk(scheduler, steps)
    latents = torch.randn(CLEAN.shape, generator=generator) * scheduler.init_noise_sigma
    for timestep in timesteps:
        velocity = true_velocity(scheduler.scale_model_input(latents, timestep), timestep)
        latents = schedulers.step(
            scheduler, velocity, timestep, latents, params=SamplingParams(), generator=generator
        ).prev_sample
    # PNDM's few steps are coarse, and the last step of some leaves what noise timestep 0 has.
    assert (latents - CLEAN).abs().mean() < (0.25 if name == "PNDM" else 0.05)


def true_velocity(latents: Tensor, timestep: Tensor) -> Tensor:
    """That of the one clean picture, also between two timesteps."""
    betas = torch.linspace(0.00085**0.5, 0.02**0.5, NUM_TIMESTEPS, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, dim=0)
    logs = ((1 - alphas) / alphas).sqrt().log()
    low = math.floor(timestep)
    share = float(timestep) - low
    sigma = math.exp(float(logs[low].lerp(logs[min(low + 1, NUM_TIMESTEPS - 1)], share)))
    signal, spread = 1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma)
    noise = (latents - signal * CLEAN) / spread
    return signal * noise - spread * CLEAN
