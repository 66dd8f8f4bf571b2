"""Walk: the part of a schedule that one picture goes, and the noise levels at its two ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers import PNDMScheduler

from deployments.errors import InvalidRequest
from deployments.families.schedulers import begin, longest

if TYPE_CHECKING:
    from torch import Tensor

    from deployments.types import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """A picture's way.

    Attributes:
        scheduler: the picture's own, set to begin there.
        timesteps: the values to visit, on the CPU; none when there is no step to walk.
        end: (1,), the timestep whose noise is left at the end; None when the end is clean.
        is_cut: whether the last visit goes to the clean picture although the schedule goes on.
    """

    scheduler: Any
    timesteps: Tensor
    end: Tensor | None = None
    is_cut: bool = False


def walk_part(scheduler: Any, params: SamplingParams) -> Walk:
    """The steps from ``first_step`` to ``last_step``; see ``SamplingParams``.

    A schedule finer than the scheduler can be set to becomes the finest one, and as large a part
    of that is walked. Second-order schedulers visit a step twice, but the last one before a clean
    end once. Raises ``InvalidRequest`` when more steps are to be walked than the scheduler has.
    """
    steps, first, last = _fitted(scheduler, params)
    if first >= last:
        return Walk(scheduler=scheduler, timesteps=torch.empty(0))
    scheduler.set_timesteps(steps)
    is_cut = last < steps and not params.keeps_noise
    order = scheduler.order
    levels = _levels(scheduler)
    end = levels[last * order][None] if last < steps and params.keeps_noise else None
    begin(scheduler, first * order)
    visits = levels[first * order : last * order - (order - 1 if is_cut else 0)]
    if isinstance(scheduler, PNDMScheduler):
        # It begins with a step that it corrects at the next visit.
        visits = torch.cat([visits[:2], visits[1:]])
    return Walk(scheduler=scheduler, timesteps=visits, end=end, is_cut=is_cut)


def asked_step(scheduler: Any, visit: int) -> int:
    """Which of the walked steps a visit belongs to; both count from 0."""
    if isinstance(scheduler, PNDMScheduler):
        return max(visit - 1, 0)
    return visit // int(scheduler.order)


def signal(scheduler: Any, timestep: Tensor) -> Tensor:
    """(1,), what is left of the clean latents at a noise level, in the scheduler's own scale.

    1 for those that add noise on top, less for those that keep the variance. Divided by it, noised
    latents are ``clean + sigma * noise``, as they travel.
    """
    share: Tensor = scheduler.add_noise(torch.ones(1), torch.zeros(1), timestep)
    return share


def sigma(scheduler: Any, timestep: Tensor) -> float:
    """The noise level at the timestep, of shape (1,), that the scheduler comes to next, beside
    clean latents of scale 1."""
    noise = scheduler.add_noise(torch.zeros(1), torch.ones(1), timestep)
    return float(noise / signal(scheduler, timestep))


def _levels(scheduler: Any) -> Tensor:
    """The timesteps in order, each as often as it stands for a visit of its own."""
    timesteps: Tensor = scheduler.timesteps
    if isinstance(scheduler, PNDMScheduler) and len(timesteps) > 2:
        return torch.cat([timesteps[:1], timesteps[2:]])
    return timesteps


def _fitted(scheduler: Any, params: SamplingParams) -> tuple[int, int, int]:
    """Steps of the schedule, the first and the one after the last to walk."""
    steps, first = params.num_inference_steps or 1, params.first_step
    walked, most = params.num_walked_steps, longest(scheduler)
    if walked > most:
        message = f"this scheduler takes at most {most} steps, not {walked}"
        raise InvalidRequest(message, param="num_inference_steps")
    if steps <= most or walked == 0:
        return steps, first, first + walked
    last = max(round((first + walked) * most / steps), 1)
    return most, min(round(first * most / steps), last - 1), last
