"""Guidance: what steers a step of a picture, and how its rows and its mask become one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deployments.families.walk import asked_step, sigma

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from deployments.engine.state import RequestState, Row
    from deployments.families.text_encoder import Conditioning


def conditioning_of(row: Row) -> Conditioning:
    """What steers a row at its picture's present step of the schedule.

    Image-to-image, which walks a schedule's end alone, counts from there, as the web UI does.
    """
    state = row.state
    branch: Conditioning = state.branches[row.branch]
    return branch.at(state.request.params.first_step + asked_step(state.scheduler, state.step))


def guided(state: RequestState, predictions: Sequence[Tensor]) -> Tensor:
    """``n + scale * sum(w * (c - n))`` over the parts' predictions c, one per branch.

    n is the weighted sum of the negative parts' predictions; without any, it is the parts'
    weighted mean (Liu et al. 2022, "Compositional Visual Generation with Composable Diffusion").
    """
    branches = state.branches[: len(predictions)]
    rows = list(zip(branches, predictions, strict=True))
    positive = [(branch.weight, p) for branch, p in rows if not branch.is_negative]
    negative = [(branch.weight, p) for branch, p in rows if branch.is_negative]
    if not negative:
        whole = sum(weight for weight, _ in positive)
        return _sum([(weight / whole, prediction) for weight, prediction in positive])
    scale = state.request.params.guidance_scale
    assert scale is not None
    away = _sum(negative)
    return away + scale * _sum([(weight, prediction - away) for weight, prediction in positive])


def leave_out_negative(state: RequestState) -> None:
    """Let the visit that follows go without guidance if it is one of every second ones and its
    noise is below ``min_uncond_sigma``. To be called when the scheduler has stepped.

    Never where the other parts' weights are no shares of a whole that could stand alone.
    """
    following, least = state.step + 1, state.request.params.min_uncond_sigma
    state.num_left_out = 0
    if least <= 0 or following % 2 == 0 or following >= state.num_timesteps:
        return
    if sum(branch.weight for branch in state.branches if not branch.is_negative) <= 0:
        return
    if sigma(state.scheduler, state.timesteps[following : following + 1]) < least:
        state.num_left_out = sum(branch.is_negative for branch in state.branches)


def settle(state: RequestState, drawn: Tensor, aim: Callable[[], Tensor]) -> None:
    """End a visit with the latents that its scheduler drew.

    Args:
        aim: gives the clean latents that the visit aimed at; asked only where they are shown, or
            are the picture because its walk is cut here.
    """
    state.latents = drawn
    is_cut_here = state.extra["walk"].is_cut and state.step + 1 == state.num_timesteps
    if state.request.num_previews or is_cut_here:
        state.extra["preview"] = aimed = aim()
        state.latents = aimed if is_cut_here else drawn
    if "kept" in state.extra:
        state.latents = blended(state)
    leave_out_negative(state)


def blended(state: RequestState) -> Tensor:
    """Drawn latents where the mask is white; elsewhere the input's, noised for what follows."""
    kept: Tensor = state.extra["kept"]
    redrawn: Tensor = state.extra["redrawn"]
    timestep: Tensor | None = state.extra["walk"].end
    if (following := state.step + 1) < state.num_timesteps:
        timestep = state.timesteps[following : following + 1]
    if timestep is not None:
        kept = state.scheduler.add_noise(kept, state.extra["noise"], timestep)
    return (1 - redrawn) * kept + redrawn * state.latents


def _sum(weighted: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Of tensors times their weights."""
    first, *others = (p if weight == 1 else weight * p for weight, p in weighted)
    return sum(others, start=first)
