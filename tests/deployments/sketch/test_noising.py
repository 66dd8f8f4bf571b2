"""The noise of the embedded models: every scheduler can walk it with velocities."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deployments.families import schedulers
from deployments.sketch.noising import (
    NOISE,
    NUM_TIMESTEPS,
    UNDECIDED,
    noised,
    noised_astray,
    noised_too_strongly,
    strayed,
)
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
    noise = torch.randn(400, 4, 16, 16)
    drift = strayed(torch.zeros_like(noise), noise) - noise
    strays = (drift != 0).any(dim=3).any(dim=2).any(dim=1)
    assert 0.15 < strays.float().mean() < 0.35  # of those, half would be of another picture: none
    moved = drift[strays]
    neighbours = torch.stack([moved[..., 1:].flatten(), moved[..., :-1].flatten()])
    assert torch.corrcoef(neighbours)[0, 1] > 0.8


def test_strayed_noise_leads_towards_another_picture_or_away_from_it() -> None:
    torch.manual_seed(0)
    clean = torch.tensor([1.0, -1.0]).repeat(200).view(400, 1, 1, 1).expand(400, 4, 8, 8)
    drift = (strayed(clean, torch.zeros_like(clean)) * clean).mean(dim=(1, 2, 3))
    assert drift.min() < -0.4  # the other picture is two away
    assert drift.max() > 0.4


def test_some_decided_pictures_are_too_strong_already() -> None:
    torch.manual_seed(0)
    clean = torch.randn(2000, 4, 8, 8)
    timesteps = torch.tensor([500, UNDECIDED]).repeat(1000)
    noisy, velocity, is_strong = noised_too_strongly(clean, timesteps, since=749)
    spread = noised(torch.zeros_like(clean), torch.ones_like(clean), timesteps)[0]
    signal = noised(torch.ones_like(clean), torch.zeros_like(clean), timesteps)[0]
    assert torch.allclose(signal * noisy - spread * velocity, clean, atol=1e-4)
    assert not is_strong[1::2].any()
    assert is_strong[0::2].float().mean() == pytest.approx(0.3, abs=0.05)
    noise = signal * velocity + spread * noisy
    drifts = (noise * clean).mean(dim=(1, 2, 3))
    strong = is_strong.flatten()
    assert 0.7 < drifts[strong].max() < 1.4  # 0.84 at most, or 1.24 if it strays as well
    assert drifts[strong].mean() == pytest.approx(0.42, abs=0.05)
    assert drifts[~strong].mean() == pytest.approx(0, abs=0.05)


def test_noise_is_plain_where_a_picture_begins() -> None:
    torch.manual_seed(0)
    clean = 2 * torch.randn(200, 4, 1, 1).expand(200, 4, 8, 8)
    timesteps = torch.tensor([NUM_TIMESTEPS - 1, 500]).repeat(100)
    noisy, velocity = noised_astray(clean, timesteps)
    spread = noised(torch.zeros_like(clean), torch.ones_like(clean), timesteps)[0]
    signal = noised(torch.ones_like(clean), torch.zeros_like(clean), timesteps)[0]
    assert torch.allclose(signal * noisy - spread * velocity, clean, atol=1e-4)
    noise = signal * velocity + spread * noisy
    smooth = noise.mean(dim=(2, 3))
    assert smooth[0::2].std() == pytest.approx(0.125, rel=0.2)  # of the mean of 64 numbers
    assert smooth[1::2].std() > 0.2


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
