"""The noise that the embedded models are trained with, and the scheduler settings that say so."""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from deployments.sketch.sheets import Format

NUM_TIMESTEPS: Final = 1000

#: Scheduler configuration. The betas are Stable Diffusion's but for their end: at the last step
#: next to nothing of the picture is left (sqrt(alpha) 0.015 instead of 0.07), so that a picture may
#: be all dark or all bright (Lin 2023, "Common diffusion noise schedules and sample steps are
#: flawed"). Unlike an exact zero there, every scheduler of diffusers can walk it.
NOISE: Final[dict[str, Any]] = {
    "beta_start": 0.00085,
    "beta_end": 0.02,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": NUM_TIMESTEPS,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "steps_offset": 1,
}

#: Share of the pictures that are all but noise, as where one begins.
_PURE_NOISE: Final = 0.12

#: Timestep from which on a picture is not yet decided, so that without text none can be told.
UNDECIDED: Final = 880
#: Share of the decided pictures that are too strong already.
_TOO_STRONG: Final = 0.3
#: How many times as strong as they should be, at most.
_MOST_TOO_STRONG: Final = 8.0

_BETAS: Final = (
    torch.linspace(NOISE["beta_start"] ** 0.5, NOISE["beta_end"] ** 0.5, NUM_TIMESTEPS) ** 2
)
_ALPHAS: Final = torch.cumprod(1 - _BETAS, dim=0)


def random_timesteps(count: int, form: Format) -> Tensor:
    """Uniform ones, bent towards noise with the size: noise hides less of what is large."""
    bend = max(form.width * form.height, 1) ** 0.5 / 256
    uniform = torch.rand(count) ** (1 / max(bend, 1) ** 0.7)
    timesteps = (uniform * NUM_TIMESTEPS).long().clamp(0, NUM_TIMESTEPS - 1)
    is_pure = torch.rand(count) < _PURE_NOISE
    return torch.where(is_pure, NUM_TIMESTEPS - 1, timesteps)


def noised(clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Latents at these timesteps, and the velocity that a model shall predict there.

    x = sqrt(a) x0 + sqrt(1 - a) e and v = sqrt(a) e - sqrt(1 - a) x0, with a the cumulated alpha
    (Salimans and Ho 2022).
    """
    alphas = _ALPHAS.to(timesteps.device)[timesteps].view(-1, 1, 1, 1)
    signal, spread = alphas.sqrt(), (1 - alphas).sqrt()
    return signal * clean + spread * noise, signal * noise - spread * clean


def strayed(clean: Tensor, noise: Tensor) -> Tensor:
    """Noise with a drift that a sampler's own mistakes make, in half of the rows.

    Few steps, or much guidance, leave latents that are too bright or too pale, that show too much
    of their picture or a little of another: as if their noise had a smooth part. A model that has
    met it leads back; one that has not keeps it. (Ning 2023, "Input perturbation reduces exposure
    bias in diffusion models", does so with white noise, and keeps it out of the target.)
    """
    rows = len(clean)
    sides = int(torch.randint(1, 7, (1,)))
    smooth = torch.randn(rows, clean.shape[1], sides, sides, device=clean.device)
    smooth = interpolate(smooth, clean.shape[2:], mode="bilinear", align_corners=False)
    other = clean.roll(1, 0) - clean
    drift = torch.where(_tossed(rows, clean.device), smooth, other)
    share = 0.8 * torch.rand(rows, 1, 1, 1, device=clean.device) - 0.4
    return noise + drift * share * _tossed(rows, clean.device)


def fresh_noise(clean: Tensor, begins: Tensor) -> Tensor:
    """New noise for latents (n, ...), strayed but in those rows (n,) where a picture begins."""
    noise = torch.randn_like(clean)
    return torch.where(begins.view(-1, 1, 1, 1), noise, strayed(clean, noise))


def noised_astray(clean: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """``noised`` with ``fresh_noise``: latents at these timesteps, and the velocity there."""
    return noised(clean, fresh_noise(clean, timesteps == NUM_TIMESTEPS - 1), timesteps)


def noised_too_strongly(
    clean: Tensor, timesteps: Tensor, *, since: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``noised_astray``, but guidance has made some pictures below ``UNDECIDED`` too strong.

    While nothing of a picture is decided, guidance makes what the text says many times too strong.
    A sampler takes what is too much of it at timestep ``since``, where that ends, for noise, and
    keeps it.

    Returns:
        Latents, velocity, and which rows are too strong, (n, 1, 1, 1).
    """
    each = len(clean), 1, 1, 1
    noise = fresh_noise(clean, timesteps == NUM_TIMESTEPS - 1)
    is_strong = torch.rand(each, device=clean.device) < _TOO_STRONG
    is_strong &= (timesteps < UNDECIDED).view(each)
    times = 1 + (_MOST_TOO_STRONG - 1) * torch.rand(each, device=clean.device)
    alpha = float(_ALPHAS[since])
    drift = (times - 1) * math.sqrt(alpha / (1 - alpha)) * clean
    return (*noised(clean, torch.where(is_strong, noise + drift, noise), timesteps), is_strong)


def _tossed(rows: int, device: torch.device) -> Tensor:
    """Half of the rows."""
    return torch.rand(rows, 1, 1, 1, device=device) < 0.5
