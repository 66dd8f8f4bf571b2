"""The noise that the embedded models are trained with, and the scheduler settings that say so."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

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

_BETAS: Final = (
    torch.linspace(NOISE["beta_start"] ** 0.5, NOISE["beta_end"] ** 0.5, NUM_TIMESTEPS) ** 2
)
_ALPHAS: Final = torch.cumprod(1 - _BETAS, dim=0)


def noised(clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Latents at these timesteps, and the velocity that a model shall predict there.

    x = sqrt(a) x0 + sqrt(1 - a) e and v = sqrt(a) e - sqrt(1 - a) x0, with a the cumulated alpha
    (Salimans and Ho 2022).
    """
    alphas = _ALPHAS.to(timesteps.device)[timesteps].view(-1, 1, 1, 1)
    signal, spread = alphas.sqrt(), (1 - alphas).sqrt()
    return signal * clean + spread * noise, signal * noise - spread * clean
