"""The table of diffusers schedulers: their names, their spacings, and how one picture walks one."""

from __future__ import annotations

import inspect
import math
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import diffusers
from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler

from deployments.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Generator, Tensor

    from deployments.types import SamplingParams

#: Name -> diffusers class and the options that make it that sampler. ``clip_sample`` is off
#: because latents exceed -1..1; PNDM skips its Runge-Kutta warm-up as every SD checkpoint does.
SCHEDULERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "DPM++ 2M SDE Heun": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
    ),
    "DPM++ 3M SDE": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
    ),
    "DPM++ 2S": (
        "DPMSolverSinglestepScheduler",
        {"algorithm_type": "dpmsolver++", "lower_order_final": True},
    ),
    "DPM++ SDE": ("DPMSolverSDEScheduler", {}),
    "DPM2": ("KDPM2DiscreteScheduler", {}),
    "DPM2 a": ("KDPM2AncestralDiscreteScheduler", {}),
    "DDIM": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "DDPM": ("DDPMScheduler", {"clip_sample": False}),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "LCM": ("LCMScheduler", {"clip_sample": False}),
    "DEIS": ("DEISMultistepScheduler", {"algorithm_type": "deis"}),
    "TCD": ("TCDScheduler", {"clip_sample": False}),
}

_TRAILING: Final = {"timestep_spacing": "trailing"}

#: Name -> diffusers options, by the table "Noise schedules and schedule types" of diffusers' page
#: on schedulers, which translates ComfyUI's and A1111's words. ``normal`` spaces the steps as the
#: checkpoint's own configuration says.
SIGMAS: Final[dict[str, dict[str, Any]]] = {
    "normal": {},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"timestep_spacing": "linspace", "use_exponential_sigmas": True},
    "beta": {"timestep_spacing": "linspace", "use_beta_sigmas": True},
    "sgm_uniform": _TRAILING,
    "simple": _TRAILING,
    "trailing": _TRAILING,
}

_CURVES: Final = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


@cache
def options_of(name: str) -> frozenset[str]:
    """The constructor options that scheduler ``name`` takes and heeds."""
    options = frozenset(inspect.signature(_class_of(name).__init__).parameters)
    # NOTE: these two take timestep_spacing but always walk their distillation's own timesteps.
    return options - {"timestep_spacing"} if name in ("LCM", "TCD") else options


def sigmas_of(name: str) -> tuple[str, ...]:
    """The spacings that scheduler ``name`` supports."""
    return tuple(s for s, options in SIGMAS.items() if options.keys() <= options_of(name))


def build(name: str, sigmas: str, config: Any, seed: int) -> Any:
    """A fresh scheduler for one picture.

    Args:
        name, sigmas: keys of ``SCHEDULERS`` and ``SIGMAS``.
        config: the checkpoint's own scheduler configuration (betas, prediction type, offsets).
        seed: the picture's; DPM++ SDE draws from a Brownian tree of its own.
    Raises:
        InvalidRequest: unknown names, or a spacing that the scheduler has not.
    """
    if name not in SCHEDULERS:
        known = ", ".join(SCHEDULERS)
        raise InvalidRequest(f"unknown scheduler {name!r}; known: {known}", param="scheduler")
    if sigmas not in sigmas_of(name):
        known = ", ".join(sigmas_of(name))
        message = f"scheduler {name!r} has no sigmas {sigmas!r}; it supports: {known}"
        raise InvalidRequest(message, param="sigmas")
    curves = dict.fromkeys(options_of(name).intersection(_CURVES), False)
    options = {**curves, **SCHEDULERS[name][1], **SIGMAS[sigmas]}
    if "noise_sampler_seed" in options_of(name):
        options["noise_sampler_seed"] = seed
    return _class_of(name).from_config(config, **options)


def walk(scheduler: Any, num_inference_steps: int, strength: float | None = None) -> Tensor:
    """Set the scheduler's steps; the timesteps to visit, on the CPU.

    With a ``strength`` only the last part is walked, as diffusers' image-to-image pipelines do.
    Where that would be no step at all, the schedule is made finer until one is left, so that a
    small strength stays a small change.
    """
    most = longest(scheduler)
    if num_inference_steps > most:
        message = f"this scheduler takes at most {most} steps, not {num_inference_steps}"
        raise InvalidRequest(message, param="num_inference_steps")
    if strength is None:
        scheduler.set_timesteps(num_inference_steps)
        return begin(scheduler, 0)
    if int(num_inference_steps * strength) < 1:
        num_inference_steps = min(math.ceil(1 / max(strength, 1 / most)), most)
    scheduler.set_timesteps(num_inference_steps)
    num_steps = max(min(int(num_inference_steps * strength), num_inference_steps), 1)
    return begin(scheduler, (num_inference_steps - num_steps) * scheduler.order)


def step(
    scheduler: Any,
    prediction: Tensor,
    timestep: Tensor,
    latents: Tensor,
    *,
    params: SamplingParams,
    generator: Generator,
) -> Any:
    """The scheduler's step output; the generator and the knobs of ``params`` that it takes."""
    if getattr(scheduler, "noise_sampler", ()) is None:
        scheduler.noise_sampler = _brownian_noise(scheduler, latents)
    given = {
        "generator": generator,
        "eta": params.eta,
        "s_churn": params.s_churn,
        "s_tmin": params.s_tmin,
        "s_tmax": math.inf if params.s_tmax is None else params.s_tmax,
        "s_noise": params.s_noise,
    }
    accepted = _step_arguments(scheduler.__class__)
    kwargs = {key: value for key, value in given.items() if key in accepted}
    return scheduler.step(prediction, timestep, latents, **kwargs)


def clean_latents(
    scheduler: Any, output: Any, prediction: Tensor, timestep: Tensor, latents: Tensor
) -> Tensor:
    """The clean latents that a step aimed at, from its output or from the prediction.

    Called after the step. Schedulers that do not tell are the variance-preserving ones:
    x = sqrt(a) x0 + sqrt(1 - a) e, v = sqrt(a) e - sqrt(1 - a) x0, with a the cumulated alpha
    (Ho 2020; Salimans and Ho 2022).
    """
    for field in ("pred_original_sample", "denoised"):
        if (told := getattr(output, field, None)) is not None:
            return told  # type: ignore[no-any-return]
    signal, noise = _shares(scheduler, timestep)
    match scheduler.config.prediction_type:
        case "epsilon":
            return (latents - noise * prediction) / signal
        case "v_prediction":
            return signal * latents - noise * prediction
        case _:
            return prediction


@cache
def _step_arguments(scheduler: type) -> frozenset[str]:
    return frozenset(inspect.signature(scheduler.step).parameters)  # type: ignore[attr-defined]


def _brownian_noise(scheduler: Any, latents: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """DPM++ SDE's noise from a tree on the CPU: on a GPU the same seed would mean other noise."""
    sigmas = scheduler.sigmas
    low, high = sigmas[sigmas > 0].min().item(), sigmas.max().item()
    tree = BrownianTreeNoiseSampler(latents.cpu(), low, high, scheduler.noise_sampler_seed)

    def noise(sigma: Tensor, following: Tensor) -> Tensor:
        drawn: Tensor = tree(sigma.cpu(), following.cpu())
        return drawn.to(latents.device)

    return noise


def _shares(scheduler: Any, timestep: Tensor) -> tuple[float, float]:
    """sqrt(a) and sqrt(1 - a) where the last step began; a curve's are between two timesteps'."""
    index, sigmas = getattr(scheduler, "step_index", None), getattr(scheduler, "sigmas", None)
    if index is not None and sigmas is not None:
        alpha = 1 / (1 + float(sigmas[index - 1]) ** 2)
    else:
        alpha = float(scheduler.alphas_cumprod[int(timestep)])
    return math.sqrt(alpha), math.sqrt(1 - alpha)


def _class_of(name: str) -> Any:
    return getattr(diffusers, SCHEDULERS[name][0])


def longest(scheduler: Any) -> int:
    """The most steps a scheduler can be set to; distilled ones take few."""
    config = scheduler.config
    own = inspect.signature(type(scheduler).__init__).parameters
    distilled = (
        config.get("original_inference_steps") if "original_inference_steps" in own else None
    )
    return int(distilled or config.num_train_timesteps)


def begin(scheduler: Any, index: int) -> Tensor:
    """Let the scheduler's steps count from this index; the timesteps from there on."""
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(index)
    timesteps: Tensor = scheduler.timesteps[index:]
    return timesteps
