"""The table of schedulers for models that predict a flow, and the noise levels that they walk."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import diffusers
import numpy as np
import torch

from deployments.errors import InvalidRequest
from deployments.families.schedulers import SIGMAS
from deployments.families.walk import Walk
from deployments.types import SHIFTS

if TYPE_CHECKING:
    from torch import Tensor

    from deployments.types import SamplingParams

_FLOW: Final = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}

#: Name -> diffusers class and the options that make it that sampler.
FLOW_SCHEDULERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "Euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "Euler a": ("LTXEulerAncestralRFScheduler", {}),
    "Heun": ("FlowMatchHeunDiscreteScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {**_FLOW, "algorithm_type": "dpmsolver++"}),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", {**_FLOW, "algorithm_type": "sde-dpmsolver++"}),
    "DPM++ 3M SDE": (
        "DPMSolverMultistepScheduler",
        {**_FLOW, "algorithm_type": "sde-dpmsolver++", "solver_order": 3},
    ),
    "UniPC": ("UniPCMultistepScheduler", _FLOW),
    "LCM": ("FlowMatchLCMScheduler", {}),
}

#: The most steps of a schedule; the noise levels of more would hardly differ.
MAX_STEPS: Final = 10_000

#: A flow's time runs from 0 to 1, its timesteps from 0 to this.
NUM_TRAIN_TIMESTEPS: Final = 1000

#: Where a solver takes logarithms of the signal's share, pure noise keeps this much of it.
_LEAST_SIGNAL: Final = 1e-3

_CURVES: Final = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


def build(
    name: str, sigmas: str, config: Any, steps: int, tokens: int, *, shift: float | None = None
) -> Any:
    """A fresh scheduler for one picture, its steps set.

    It has ``add_noise`` and ``init_noise_sigma``, as other schedulers have. Every solver walks the
    noise levels that the stock pipelines give to Euler's: evenly spaced times, shifted by the
    picture's size as the checkpoint's configuration says.

    Args:
        name, sigmas: keys of ``FLOW_SCHEDULERS`` and ``SIGMAS``; all but the three curves are the
            pipelines' own spacing.
        config: the checkpoint's own scheduler configuration.
        steps: to take; solvers of higher order visit more timesteps.
        tokens: of the picture in the denoiser.
        shift: see ``SamplingParams``; the last level before 0 is then where it falls.
    Raises:
        InvalidRequest: unknown names, too many steps, or a shift out of range.
    """
    if name not in FLOW_SCHEDULERS:
        known = ", ".join(FLOW_SCHEDULERS)
        raise InvalidRequest(f"unknown scheduler {name!r}; known: {known}", param="scheduler")
    if sigmas not in SIGMAS:
        known = ", ".join(SIGMAS)
        raise InvalidRequest(f"unknown sigmas {sigmas!r}; known: {known}", param="sigmas")
    if steps > MAX_STEPS:
        message = f"a flow is walked in at most {MAX_STEPS} steps, not {steps}"
        raise InvalidRequest(message, param="num_inference_steps")
    kind, options = FLOW_SCHEDULERS[name]
    if shift is not None:
        config = _shifted(config, shift)
    plain = {**dict.fromkeys(_CURVES, False), "use_dynamic_shifting": False, "shift_terminal": None}
    # NOTE: one dictionary, since options that a class does not know as its own are not overridden.
    scheduler = getattr(diffusers, kind).from_config({**config, **plain, **options})
    scheduler.set_timesteps(steps)
    levels = _levels(config, sigmas, steps, tokens)
    if options.get("use_flow_sigmas"):
        levels = levels.clamp(max=1 - _LEAST_SIGNAL)
    _set(scheduler, levels)
    # Not every one of these classes has them, and those of some look the timestep up.
    scheduler.add_noise, scheduler.init_noise_sigma = noised, 1.0
    return scheduler


def walk(scheduler: Any, steps: int, strength: float | None = None) -> Tensor:
    """The timesteps to visit, on the CPU: with a ``strength`` the last part of them, at least one.

    The count is that of the flow pipelines' ``get_timesteps``.
    """
    skipped = 0 if strength is None else min(int(steps - min(steps * strength, steps)), steps - 1)
    begin = skipped * scheduler.order
    scheduler.set_begin_index(begin)
    timesteps: Tensor = scheduler.timesteps[begin:]
    return timesteps


def walk_part(scheduler: Any, params: SamplingParams) -> Walk:
    """The steps from ``first_step`` to ``last_step``; see ``SamplingParams``."""
    steps, walked = params.num_inference_steps or 1, params.num_walked_steps
    if walked == 0:
        return Walk(scheduler=scheduler, timesteps=torch.empty(0))
    order, first, last = scheduler.order, params.first_step, params.first_step + walked
    is_cut = last < steps and not params.keeps_noise
    levels: Tensor = scheduler.timesteps
    scheduler.set_begin_index(first * order)
    return Walk(
        scheduler=scheduler,
        timesteps=levels[first * order : last * order - (order - 1 if is_cut else 0)],
        end=levels[last * order][None] if last < steps and params.keeps_noise else None,
        is_cut=is_cut,
    )


def noised(clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """The straight line from clean to noise, at ``timestep``, 0..1000 (Lipman et al. 2023)."""
    sigma = float(timestep) / NUM_TRAIN_TIMESTEPS
    return sigma * noise + (1 - sigma) * clean


def clean(latents: Tensor, flow: Tensor, timestep: Tensor) -> Tensor:
    """The clean end of the line that ``flow``, noise minus clean, points along."""
    return latents - float(timestep) / NUM_TRAIN_TIMESTEPS * flow


def _levels(config: Any, sigmas: str, steps: int, tokens: int) -> Tensor:
    """(steps + 1,) noise levels, 1 or a little less down to 0."""
    curve = {key: key in SIGMAS[sigmas] for key in _CURVES}
    # NOTE: one step has no second level to be stretched to the terminal one.
    terminal = config.get("shift_terminal") if steps > 1 else None
    euler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(
        config, **curve, shift_terminal=terminal
    )
    shift = {"mu": shift_exponent(config, tokens)} if config.get("use_dynamic_shifting") else {}
    euler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), **shift)
    levels: Tensor = euler.sigmas
    return levels


def _shifted(config: Any, shift: float) -> dict[str, Any]:
    """The configuration with a shift that is the same for pictures of every size."""
    least, most = SHIFTS
    if not least <= shift <= most:
        message = f"shift {shift} is out of range; accepted: {least} to {most}"
        raise InvalidRequest(message, param="shift")
    mu = math.log(shift)
    fixed = {"base_shift": mu, "max_shift": mu, "use_dynamic_shifting": True}
    return {**config, **fixed, "time_shift_type": "exponential", "shift_terminal": None}


def shift_exponent(config: Any, tokens: int) -> float:
    """Exponent of the shift in time, linear in the tokens (diffusers' ``calculate_shift``)."""
    first, last = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (high - low) / (last - first)
    shift: float = tokens * slope + (low - slope * first)
    assert math.isfinite(shift)
    return shift


def _set(scheduler: Any, levels: Tensor) -> None:
    """Let a scheduler whose steps are set walk these levels; one of order two visits most twice."""
    timesteps = levels[:-1] * NUM_TRAIN_TIMESTEPS
    if scheduler.order == 2:
        levels = torch.cat([levels[:1], levels[1:-1].repeat_interleave(2), levels[-1:]])
        timesteps = torch.cat([timesteps[:1], timesteps[1:].repeat_interleave(2)])
    scheduler.sigmas, scheduler.timesteps = levels, timesteps
