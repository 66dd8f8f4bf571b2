"""What noise shows while the editor learns: the picture, or what a sampler may have made of it."""

from __future__ import annotations

import pytest
import torch

from deployments.sketch.flow_noising import flow_noise, random_sigmas, wrong_drift

ROWS, HEIGHT, WIDTH = 200, 24, 16
#: Each latent tells its own place.
PLACES = torch.stack(
    torch.meshgrid(torch.arange(HEIGHT).float(), torch.arange(WIDTH).float(), indexing="ij")
)
CLEAN = PLACES.expand(ROWS, 2, HEIGHT, WIDTH)
OTHER = torch.full_like(CLEAN, -100)
TOLD = torch.ones(ROWS, dtype=torch.bool)


def levels(sigma: float) -> torch.Tensor:
    return torch.full((ROWS,), sigma)


@pytest.mark.parametrize("sigma", [0.4, 0.9])
def test_wrong_pictures_are_ragged_and_partly_of_another(sigma: float) -> None:
    torch.manual_seed(0)
    shown = CLEAN + sigma / (1 - sigma) * wrong_drift(CLEAN, OTHER, levels(sigma))
    is_foreign = (shown - OTHER).abs().amax(dim=1, keepdim=True) < 0.01
    shares = is_foreign.float().mean(dim=(1, 2, 3))
    assert 0.3 < shares.max() < 0.41
    assert shares.min() < 0.1
    moves = ((shown - CLEAN).abs() * ~is_foreign).amax(dim=1)
    assert moves.max() == pytest.approx(2, abs=0.01)
    assert 0.3 < (moves > 0.5).float().mean() < 0.8


def test_nothing_is_wrong_yet_where_a_picture_begins() -> None:
    assert not wrong_drift(CLEAN, OTHER, levels(1.0)).any()


def test_what_is_wrong_fades_where_little_noise_is_left() -> None:
    torch.manual_seed(0)
    sigma = 0.1
    shown = CLEAN + sigma / (1 - sigma) * wrong_drift(CLEAN, OTHER, levels(sigma))
    share = 2 / 9  # twice, not nine times, what is wrong
    assert (shown - CLEAN).min() == pytest.approx(share * (-100 - 23), rel=0.05)


def test_noise_without_drift_is_noise() -> None:
    torch.manual_seed(0)
    noise = flow_noise(CLEAN, OTHER, levels(1.0), TOLD)
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("told", "share"), [(True, 0.5), (False, 0.0)])
def test_half_of_what_words_tell_is_wrong(told: bool, share: float) -> None:
    """Of one colour, that neither raggedness nor another clean picture changes."""
    torch.manual_seed(0)
    clean = torch.zeros_like(CLEAN)
    noise = flow_noise(clean, OTHER, levels(0.5), TOLD & told)
    is_wrong = (noise < -50).flatten(1).any(dim=1)
    assert is_wrong.float().mean() == pytest.approx(share, abs=0.1)


def test_larger_pictures_are_noisier() -> None:
    torch.manual_seed(0)
    small, large = random_sigmas(4000, 64), random_sigmas(4000, 8192)
    for sigmas in (small, large):
        assert (sigmas == 1).float().mean() == pytest.approx(0.3, abs=0.03)
        assert 0 < sigmas.min() < 0.05
    assert large[large < 1].mean() > small[small < 1].mean() + 0.03
