"""Schedulers of flows: their noise levels, what a strength leaves of them, where they end."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch

from deployments.errors import InvalidRequest
from deployments.families import schedulers
from deployments.families.flow_schedulers import (
    FLOW_SCHEDULERS,
    build,
    clean,
    noised,
    walk,
    walk_part,
)
from deployments.families.schedulers import SIGMAS
from deployments.types import SamplingParams

CONFIG = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "shift_terminal": 0.02,
    "use_dynamic_shifting": True,
}

ALL = [(name, sigmas) for name in FLOW_SCHEDULERS for sigmas in SIGMAS]


def stock_levels(steps: int, tokens: int) -> torch.Tensor:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**CONFIG)
    from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift

    mu = calculate_shift(tokens, 256, 8192, 0.5, 0.9)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    return scheduler.sigmas


@pytest.mark.parametrize("tokens", [16, 1024, 16384])
@pytest.mark.parametrize("sigmas", ["normal", "simple", "sgm_uniform", "trailing"])
def test_levels_are_the_stock_pipelines(tokens: int, sigmas: str) -> None:
    scheduler = build("Euler", sigmas, CONFIG, 7, tokens)
    assert torch.equal(scheduler.sigmas, stock_levels(7, tokens))
    assert torch.equal(walk(scheduler, 7), scheduler.sigmas[:-1] * 1000)


@pytest.mark.parametrize("tokens", [16, 16384])
@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_shift_takes_the_place_of_the_models_own(shift: float, tokens: int) -> None:
    """Esser et al. 2024, equation 23."""
    times = torch.linspace(1.0, 1 / 7, 7)
    expected = shift * times / (1 + (shift - 1) * times)
    levels = build("Euler", "normal", CONFIG, 7, tokens, shift=shift).sigmas
    assert torch.allclose(levels, torch.cat([expected, torch.zeros(1)]))


def test_shift_is_heeded_where_the_checkpoint_has_a_fixed_one() -> None:
    fixed = {"shift": 3.0, "use_dynamic_shifting": False}
    levels = build("Euler", "normal", fixed, 4, 1024, shift=2.0).sigmas
    assert levels[1] == pytest.approx(2 * 0.75 / 1.75)


@pytest.mark.parametrize("shift", [0.0, -1.0, 101.0])
def test_shift_that_leaves_no_schedule_is_refused(shift: float) -> None:
    with pytest.raises(InvalidRequest, match=r"accepted: 0\.01 to 100\.0"):
        build("Euler", "normal", CONFIG, 7, 1024, shift=shift)


@pytest.mark.parametrize(("name", "sigmas"), ALL)
def test_every_solver_follows_a_straight_line_to_its_clean_end(name: str, sigmas: str) -> None:
    """The flow of one known picture is the same everywhere: all solvers must come out at it."""
    picture = torch.linspace(-1, 1, 32).view(1, 2, 4, 4)
    generator = torch.Generator().manual_seed(0)
    scheduler = build(name, sigmas, CONFIG, 6, 1024)
    timesteps = walk(scheduler, 6)
    latents = torch.randn(picture.shape, generator=generator)
    for timestep in timesteps:
        flow = (latents - picture) / (timestep / 1000)
        assert torch.allclose(clean(latents, flow, timestep), picture, atol=1e-4)
        output = schedulers.step(
            scheduler, flow, timestep, latents, params=SamplingParams(), generator=generator
        )
        latents = output.prev_sample
    assert torch.allclose(latents, picture, atol=2e-3)


@pytest.mark.parametrize("name", FLOW_SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2])
def test_few_steps_end_finite(name: str, steps: int) -> None:
    scheduler = build(name, "normal", CONFIG, steps, 1024)
    generator, latents = torch.Generator().manual_seed(0), torch.ones(1, 2, 4, 4)
    for timestep in walk(scheduler, steps):
        flow = latents / 2
        output = schedulers.step(
            scheduler, flow, timestep, latents, params=SamplingParams(), generator=generator
        )
        latents = output.prev_sample
    assert torch.isfinite(latents).all()


@pytest.mark.parametrize(
    ("strength", "num_left"), [(1.0, 10), (0.55, 6), (0.5, 5), (0.05, 1), (0.0, 1)]
)
def test_strength_leaves_the_last_part_of_the_walk(strength: float, num_left: int) -> None:
    scheduler = build("Euler", "normal", CONFIG, 10, 1024)
    every = scheduler.timesteps
    assert torch.equal(walk(scheduler, 10, strength), every[-num_left:])
    assert scheduler.begin_index == 10 - num_left


def test_a_solver_of_order_two_visits_most_levels_twice() -> None:
    scheduler = build("Heun", "normal", CONFIG, 5, 1024)
    assert len(walk(scheduler, 5)) == 9
    timesteps = walk(scheduler, 5, 0.4)
    assert len(timesteps) == 3
    assert timesteps[0] > timesteps[1] == timesteps[2]


@pytest.mark.parametrize("name", FLOW_SCHEDULERS)
def test_a_part_of_a_fine_schedule_is_its_last_steps(name: str) -> None:
    params = SamplingParams(num_inference_steps=2000, first_step=1990)
    scheduler = build(name, "normal", CONFIG, 2000, 1024)
    part = walk_part(scheduler, params)
    assert len(part.timesteps) == 10 * scheduler.order - (scheduler.order - 1)
    assert (part.end, part.is_cut) == (None, False)
    assert part.timesteps[0] < 100


@pytest.mark.parametrize("name", ["Euler", "Heun"])
def test_a_part_ends_where_the_next_one_begins(name: str) -> None:
    scheduler = build(name, "normal", CONFIG, 8, 1024)
    first = walk_part(
        scheduler, SamplingParams(num_inference_steps=8, last_step=3, keeps_noise=True)
    )
    second = walk_part(scheduler, SamplingParams(num_inference_steps=8, first_step=3))
    assert first.end is not None
    assert first.end[0] == second.timesteps[0]
    assert len(first.timesteps) + len(second.timesteps) == len(scheduler.timesteps)
    cut = walk_part(scheduler, SamplingParams(num_inference_steps=8, last_step=3))
    assert (cut.is_cut, len(cut.timesteps)) == (True, 3 * scheduler.order - (scheduler.order - 1))
    nothing = SamplingParams(num_inference_steps=8, first_step=8)
    assert not len(walk_part(scheduler, nothing).timesteps)


def test_noise_and_picture_are_mixed_in_a_straight_line() -> None:
    picture, noise = torch.zeros(1), torch.ones(1)
    assert noised(picture, noise, torch.tensor(250.0)) == 0.25


def test_unknown_names_and_too_many_steps_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="unknown scheduler 'PNDM'; known: Euler, Euler a"):
        build("PNDM", "normal", CONFIG, 5, 1024)
    with pytest.raises(InvalidRequest, match="unknown sigmas 'none'"):
        build("Euler", "none", CONFIG, 5, 1024)
    with pytest.raises(InvalidRequest, match="at most 10000 steps"):
        build("Euler", "normal", CONFIG, 10001, 1024)
