"""First noise: variations of a seed, and a seed's noise at another size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from deployments.families.base import Family
from deployments.families.noise import centred, first_noise, slerp
from tests.deployments.families.driver import ask, draw, states_of

Load = Callable[[str], Family]
SHAPE = (1, 4, 8, 8)


def noise(shape: tuple[int, ...] = SHAPE, index: int = 0, **params: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return first_noise(shape, 8, ask(seed=7, **params), index, generator)


def plain(seed: int, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_noise_is_the_generator_s_first_draw() -> None:
    assert torch.equal(noise(), plain(7))


@pytest.mark.parametrize(("share", "seed"), [(1e-6, 7), (1.0, 99)])
def test_variation_goes_from_the_seed_s_noise_to_the_other_s(share: float, seed: int) -> None:
    varied = noise(variation_seed=99, variation_strength=share)
    assert torch.allclose(varied, plain(seed), atol=1e-4)


def test_variation_half_way_is_noise_of_the_same_spread() -> None:
    half = slerp(plain(1, (1, 4, 64, 64)), plain(2, (1, 4, 64, 64)), 0.5)
    assert abs(float(half.std()) - 1) < 0.02


def test_slerp_of_equal_noises_is_that_noise() -> None:
    assert torch.allclose(slerp(plain(1), plain(1), 0.3), plain(1), atol=1e-6)


def test_variations_count_the_variation_seed_only(load: Load) -> None:
    varied = {"variation_seed": 40, "variation_strength": 0.3}
    first, second = states_of(load("sd"), ask(num_images=2, **varied))
    [alone] = states_of(load("sd"), ask(**varied | {"variation_seed": 41}))
    assert torch.equal(second.latents, alone.latents)
    assert not torch.equal(first.latents, second.latents)


@pytest.mark.parametrize("size", [(4, 6), (12, 12), (4, 12), (5, 7)])
def test_noise_of_another_size_is_centred(size: tuple[int, int]) -> None:
    height, width = size
    drawn = noise(seed_height=8 * height, seed_width=8 * width)
    inner = plain(7, (1, 4, height, width))
    y, x = (8 - height) // 2, (8 - width) // 2
    ours = drawn[:, :, max(y, 0) : y + height, max(x, 0) : x + width]
    theirs = inner[:, :, max(-y, 0) : 8 - y, max(-x, 0) : 8 - x]
    assert torch.equal(ours, theirs)
    assert abs(float(drawn.std()) - 1) < 0.2


def test_centred_leaves_the_outer_around_the_inner() -> None:
    whole = centred(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 4, 4))
    assert whole.sum() == 4
    assert whole[0, 0, 1:3, 1:3].all()


def test_a_larger_picture_keeps_a_small_one_s_seed(load: Load) -> None:
    [small], [large] = (
        states_of(load("sd"), ask(**size))
        for size in ({"width": 64}, {"width": 128, "seed_width": 64, "seed_height": 64})
    )
    assert torch.equal(small.latents, large.latents[:, :, :, 4:12])


def test_noise_multiplier_scales_the_noise_of_an_input_picture(load: Load, photo: bytes) -> None:
    none, one, two = (
        states_of(load("sd"), ask(images=(photo,), noise_multiplier=factor))[0].latents
        for factor in (0.0, 1.0, 2.0)
    )
    assert torch.allclose(two - none, 2 * (one - none), atol=1e-4)


def test_churn_reaches_the_schedulers_that_have_it(load: Load) -> None:
    family = load("sd")
    [plain], [churned], [bounded] = (
        draw(family, ask(**churn))
        for churn in ({}, {"s_churn": 2.0}, {"s_churn": 2.0, "s_tmin": 1.0, "s_tmax": 0.5})
    )
    assert np.abs(plain - churned).mean() > 1
    assert np.array_equal(plain, bounded)
    ignored, as_well = (draw(family, ask(scheduler="DDIM", s_churn=c))[0] for c in (0.0, 2.0))
    assert np.array_equal(ignored, as_well)


def test_slerp_of_single_pixels_is_finite() -> None:
    one, other = torch.randn(1, 4, 1, 8), torch.randn(1, 4, 1, 8)
    assert torch.isfinite(slerp(one, other, 0.5)).all()
