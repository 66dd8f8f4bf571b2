"""ComfyUI's samplers and schedulers, by name, and what they are here.

Every name of ComfyUI is offered, as its clients expect. What a name becomes is decided here:

- Samplers that have no equal here become their nearest relative that solves the same equation, so
  that with enough steps the picture is the same: HeunPP2 is built on Heun's step; DPM fast and
  2S ancestral are of single DPM++ steps (the latter without its ancestral noise); DPM adaptive
  chooses the steps of DPM2; IPNDM is a linear multistep; RES multistep and exponential Heun are
  exponential integrators as DPM++ is; gradient estimation corrects Euler's step; SEEDS, ER SDE and
  SA-Solver integrate the stochastic equation of DPM++ SDE.
- Samplers of first order fall back to Euler's step on models that have nothing nearer: on those of
  flow matching DDIM's step and Euler's are the same.
- The CFG++ samplers are refused: theirs is another guidance, of another scale.
- Of the schedulers, ``ddim_uniform`` is ``normal``; ``linear_quadratic`` and ``kl_optimal`` are
  refused, for nothing here spaces steps like them.
- Euler ancestral, DDIM and DDPM keep to the training's timesteps and LCM to its distillation's:
  spacings that they cannot follow are ``normal`` for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from deployments.errors import InvalidRequest
from deployments.types import ModelCard

_TWO_STEPS: Final = ("DPM++ 2M",)
_STOCHASTIC: Final = ("DPM++ SDE",)

#: Name -> our schedulers, the best first; in ComfyUI's order. Empty ones are refused.
SAMPLERS: Final[Mapping[str, tuple[str, ...]]] = {
    "euler": ("Euler",),
    "euler_cfg_pp": (),
    "euler_ancestral": ("Euler a", "Euler"),
    "euler_ancestral_cfg_pp": (),
    "heun": ("Heun",),
    "heunpp2": ("Heun",),
    "exp_heun_2_x0": ("DPM++ 2S", "Heun"),
    "exp_heun_2_x0_sde": _STOCHASTIC,
    "dpm_2": ("DPM2",),
    "dpm_2_ancestral": ("DPM2 a",),
    "lms": ("LMS",),
    "dpm_fast": ("DPM++ 2S",),
    "dpm_adaptive": ("DPM2",),
    "dpmpp_2s_ancestral": ("DPM++ 2S",),
    "dpmpp_2s_ancestral_cfg_pp": (),
    "dpmpp_sde": _STOCHASTIC,
    "dpmpp_sde_gpu": _STOCHASTIC,
    "dpmpp_2m": _TWO_STEPS,
    "dpmpp_2m_cfg_pp": (),
    "dpmpp_2m_sde": ("DPM++ 2M SDE",),
    "dpmpp_2m_sde_gpu": ("DPM++ 2M SDE",),
    "dpmpp_2m_sde_heun": ("DPM++ 2M SDE Heun",),
    "dpmpp_2m_sde_heun_gpu": ("DPM++ 2M SDE Heun",),
    "dpmpp_3m_sde": ("DPM++ 3M SDE",),
    "dpmpp_3m_sde_gpu": ("DPM++ 3M SDE",),
    "ddpm": ("DDPM",),
    "lcm": ("LCM",),
    "ipndm": ("LMS",),
    "ipndm_v": ("LMS",),
    "deis": ("DEIS",),
    "res_multistep": _TWO_STEPS,
    "res_multistep_cfg_pp": (),
    "res_multistep_ancestral": ("DPM++ 2M SDE",),
    "res_multistep_ancestral_cfg_pp": (),
    "gradient_estimation": ("Euler",),
    "gradient_estimation_cfg_pp": (),
    "er_sde": ("DPM++ 3M SDE", *_STOCHASTIC),
    "seeds_2": _STOCHASTIC,
    "seeds_3": _STOCHASTIC,
    "sa_solver": ("DPM++ 3M SDE", *_STOCHASTIC),
    "sa_solver_pece": ("DPM++ 3M SDE", *_STOCHASTIC),
    "ddim": ("DDIM", "Euler"),
    "uni_pc": ("UniPC",),
    "uni_pc_bh2": ("UniPC",),
}

#: Name -> our spacings, the best first; in ComfyUI's order. Empty ones are refused.
SCHEDULERS: Final[Mapping[str, tuple[str, ...]]] = {
    "simple": ("simple", "trailing", "normal"),
    "sgm_uniform": ("sgm_uniform", "trailing", "normal"),
    "karras": ("karras",),
    "exponential": ("exponential",),
    "ddim_uniform": ("normal", "simple"),
    "beta": ("beta",),
    "normal": ("normal", "simple"),
    "linear_quadratic": (),
    "kl_optimal": (),
}

#: Our schedulers whose timesteps are fixed, and the spacings that each can follow nevertheless.
_FIXED: Final[Mapping[str, tuple[str, ...]]] = {
    "Euler a": ("normal", "simple", "sgm_uniform", "trailing"),
    "DDIM": ("normal", "simple", "sgm_uniform", "trailing"),
    "DDPM": ("normal", "simple", "sgm_uniform", "trailing"),
    "LCM": ("normal",),
}


def find_sampling(sampler: str, scheduler: str, card: ModelCard) -> tuple[str | None, str | None]:
    """Our scheduler and spacing on a model; None where the model does not tell what it has.

    Raises ``InvalidRequest``, which names what the model accepts.
    """
    ours = _first(SAMPLERS[sampler], card.schedulers)
    if ours is None and card.schedulers:
        raise _refused("sampler", sampler, card, _accepted(SAMPLERS, card.schedulers))
    spacing = _first(SCHEDULERS[scheduler], card.sigmas)
    if spacing is None and card.sigmas:
        raise _refused("scheduler", scheduler, card, _accepted(SCHEDULERS, card.sigmas))
    if ours in _FIXED and spacing not in _FIXED.get(ours or "", ()):
        spacing = "normal"
    return ours, spacing


def _first(wanted: Sequence[str], known: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in known), None)


def _accepted(names: Mapping[str, tuple[str, ...]], known: Sequence[str]) -> list[str]:
    return [name for name, ours in names.items() if _first(ours, known)]


def _refused(what: str, name: str, card: ModelCard, accepted: Sequence[str]) -> InvalidRequest:
    return InvalidRequest(
        f"model {card.id!r} has no {what} {name!r}; it accepts: {', '.join(accepted)}"
    )
