"""Routing: which model serves a request, and what its card makes of it. Pure functions."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from deployments.errors import GenerationFailed, InvalidRequest, ModelNotReady, UnknownModel
from deployments.types import (
    SEED_RANGE,
    GenerationRequest,
    Load,
    Mode,
    ModelCard,
    SamplingParams,
)
from router.models import ModelStatus

T = TypeVar("T")

#: Seconds after which a caller may ask again for a model that is starting.
STARTING_RETRY_SECONDS = 5.0


def resolve(statuses: Sequence[ModelStatus], name: str) -> ModelCard:
    """The card of the model with this id or alias.

    Raises ``ModelNotReady`` for a configured model that has not started, and ``UnknownModel``,
    which lists the known ones.
    """
    for status in statuses:
        if status.card is not None and status.card.has_name(name):
            return status.card
    if not statuses or any(status.is_starting for status in statuses):
        raise _not_ready(repr(name))
    known = sorted(status.id for status in statuses)
    raise UnknownModel(f"unknown model {name!r}; known: {', '.join(known)}", param="model")


def choose(
    statuses: Sequence[ModelStatus],
    *,
    name: str | None,
    mode: Mode,
    prefer: Sequence[str] = (),
    loads: Mapping[str, Load] | None = None,
) -> ModelCard:
    """The model for a request: the one it names, else the first preferred one that can do the
    work, else the capable one with the least expected work."""
    if name is not None:
        card = resolve(statuses, name)
        if card.unavailable:
            raise GenerationFailed(card.unavailable, param="model")
        is_upscaling = mode == "image-to-image" and "upscale" in card.modes
        if not can_do(card, mode) and not is_upscaling:
            raise InvalidRequest(
                f"model {card.id!r} cannot do {mode}; it can do: {', '.join(card.modes)}",
                param="model",
            )
        return card
    for preferred in prefer:
        for status in statuses:
            card_or_none = status.card
            if status.id == preferred and status.is_starting:
                raise _not_ready(repr(preferred))
            if card_or_none and card_or_none.id == preferred and can_do(card_or_none, mode):
                return card_or_none
    capable = [s for s in statuses if s.card is not None and can_do(s.card, mode)]
    if not capable:
        raise (
            _not_ready("every model that could do it")
            if any(status.is_starting for status in statuses)
            else UnknownModel(f"no hosted model can do {mode}", param="model")
        )
    return min(capable, key=lambda status: _expected_work(status, loads or {})).card  # type: ignore[return-value]


def can_do(card: ModelCard, mode: Mode) -> bool:
    """Whether a model serves a mode; a model that edits takes input pictures, too."""
    return mode in card.modes or (mode == "image-to-image" and "edit" in card.modes)


def admit(card: ModelCard, request: GenerationRequest) -> GenerationRequest:
    """The request as the model will run it: every knob filled in, sizes rounded, the seed drawn.

    Raises ``InvalidRequest`` naming the field, the value and what is accepted.
    """
    if not (request.prompt.strip() or request.images or request.is_weighted):
        raise InvalidRequest("prompt must not be empty", param="prompt")
    if len(request.images) > card.max_input_images:
        raise InvalidRequest(
            f"{len(request.images)} input images are too many for {card.id!r}; "
            f"accepted: at most {card.max_input_images}",
            param="image",
        )
    if request.weights is not None and request.weights not in card.weights:
        raise InvalidRequest(
            f"unknown weights {request.weights!r}; known: {', '.join(card.weights) or 'none'}",
            param="weights",
        )
    return replace(request, model=card.id, params=_fill(card, request.params))


def _fill(card: ModelCard, params: SamplingParams) -> SamplingParams:
    defaults = card.defaults
    filled = replace(
        params,
        width=_size(card, "width", params.width or defaults.width or 512),
        height=_size(card, "height", params.height or defaults.height or 512),
        num_inference_steps=_or(params.num_inference_steps, defaults.num_inference_steps),
        guidance_scale=_or(params.guidance_scale, defaults.guidance_scale),
        strength=_or(params.strength, defaults.strength),
        scheduler=_or(params.scheduler, defaults.scheduler),
        sigmas=_or(params.sigmas, _default_sigmas(card, params)),
        seed=params.seed if params.seed is not None else secrets.randbelow(SEED_RANGE),
    )
    _check(card, filled)
    return filled


def _check(card: ModelCard, params: SamplingParams) -> None:
    steps = params.num_inference_steps or 0
    if not 1 <= steps <= card.max_num_inference_steps:
        raise _out_of_range("num_inference_steps", steps, 1, card.max_num_inference_steps)
    if (params.width or 0) * (params.height or 0) > card.max_pixels:
        raise InvalidRequest(
            f"size {params.width}x{params.height} has too many pixels for {card.id!r}; "
            f"accepted: at most {card.max_pixels}",
            param="size",
        )
    if params.strength is not None and not 0 <= params.strength <= 1:
        raise _out_of_range("strength", params.strength, 0, 1)
    if params.num_images < 1:
        raise _out_of_range("num_images", params.num_images, 1, None)
    if params.seed is not None and not 0 <= params.seed < 2**64:
        raise _out_of_range("seed", params.seed, 0, SEED_RANGE - 1)
    _check_name("scheduler", params.scheduler, card.schedulers)
    _check_name("sigmas", params.sigmas, card.sigmas)


def _size(card: ModelCard, param: str, value: int) -> int:
    if not card.min_size <= value <= card.max_size:
        raise _out_of_range(param, value, card.min_size, card.max_size)
    multiple = card.size_multiple
    return max(multiple, (value + multiple // 2) // multiple * multiple)


def _check_name(param: str, value: str | None, known: Sequence[str]) -> None:
    if known and value not in known:
        raise InvalidRequest(f"unknown {param} {value!r}; known: {', '.join(known)}", param=param)


def _out_of_range(param: str, value: float, low: float, high: float | None) -> InvalidRequest:
    accepted = f"{low} to {high}" if high is not None else f"at least {low}"
    return InvalidRequest(f"{param} {value} is out of range; accepted: {accepted}", param=param)


def _expected_work(status: ModelStatus, loads: Mapping[str, Load]) -> tuple[bool, float]:
    load = loads.get(status.id)
    is_silent = bool(loads) and load is None
    work = load.work if load else 0.0
    return not status.is_ready or is_silent, work / max(1, status.num_replicas)


def _default_sigmas(card: ModelCard, params: SamplingParams) -> str | None:
    """The model's own spacing belongs to its own scheduler; every scheduler has ``normal``."""
    is_own = params.scheduler in (None, card.defaults.scheduler)
    return card.defaults.sigmas if is_own else "normal"


def _or(value: T | None, default: T | None) -> T | None:
    return default if value is None else value


def _not_ready(name: str) -> ModelNotReady:
    return ModelNotReady(
        f"model {name} is not ready yet", param="model", retry_after=STARTING_RETRY_SECONDS
    )
