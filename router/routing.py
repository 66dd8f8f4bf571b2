"""Routing: which model serves a request, and what its card makes of it. Pure functions."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

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

#: Steps of a schedule of which only a part is walked.
MAX_SCHEDULE_STEPS: Final = 10_000

#: How strongly a LoRA may act, and against its sense.
MAX_LORA_WEIGHT: Final = 10

#: Different LoRAs of one request, all of which are in memory while it is drawn.
MAX_LORAS: Final = 16

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
    has_prompt = request.prompt.strip() or request.parts or request.is_weighted
    if request.task == "generate" and not (has_prompt or request.images):
        raise InvalidRequest("prompt must not be empty", param="prompt")
    request = _with_latents(card, request)
    if len(request.images) > card.max_input_images and request.task != "encode":
        raise InvalidRequest(
            f"{len(request.images)} input images are too many for {card.id!r}; "
            f"accepted: at most {card.max_input_images}",
            param="image",
        )
    is_own = request.weights_source is not None
    if request.weights is not None and not is_own and request.weights not in card.weights:
        raise InvalidRequest(
            f"unknown weights {request.weights!r}; known: {', '.join(card.weights) or 'none'}",
            param="weights",
        )
    _check_loras(card, request)
    return replace(request, model=card.id, params=_fill(card, request.params))


def _check_loras(card: ModelCard, request: GenerationRequest) -> None:
    """Raise ``InvalidRequest`` for a LoRA that the model has not, or that acts too strongly."""
    uses = request.all_loras
    if (num_loras := len({use.name for use in uses})) > MAX_LORAS:
        message = f"{num_loras} LoRAs are too many; accepted: at most {MAX_LORAS}"
        raise InvalidRequest(message, param="loras")
    for use in uses:
        if use.source is None and use.name not in card.loras:
            known = ", ".join(card.loras) or "none"
            raise InvalidRequest(
                f"unknown LoRA {use.name!r:.200} for {card.id!r}; known: {known}", param="loras"
            )
        for weight in (use.weight, use.text_encoder_weight):
            if not -MAX_LORA_WEIGHT <= weight <= MAX_LORA_WEIGHT:
                message = f"weight {weight} of LoRA {use.name!r} is out of range; "
                raise InvalidRequest(
                    f"{message}accepted: {-MAX_LORA_WEIGHT} to {MAX_LORA_WEIGHT}", param="loras"
                )


def _with_latents(card: ModelCard, request: GenerationRequest) -> GenerationRequest:
    """The request with the size and the number of its latents, or of those that it asks for."""
    latents, params = request.latents, request.params
    if latents is None and (params.first_step or params.last_step is not None):
        raise InvalidRequest("only latents are drawn in part of the steps", param="first_step")
    is_plain = request.task in ("generate", "describe") and not request.gives_latents
    if latents is None and is_plain:
        return request
    if not card.has_latents:
        raise InvalidRequest(f"model {card.id!r} neither takes nor gives latents", param="model")
    if request.task == "encode":
        if not request.images or latents is not None:
            raise InvalidRequest("what is encoded are input images, one or more", param="image")
        params = replace(params, num_images=len(request.images))
        return replace(request, params=params, gives_latents=True)
    if latents is None:
        if request.task == "decode":
            raise InvalidRequest("there are no latents to decode", param="latents")
        return request
    if latents.value is None:
        width = _size(card, "width", latents.width)
        latents = replace(latents, width=width, height=_size(card, "height", latents.height))
    elif latents.family != card.family:
        raise InvalidRequest(
            f"latents of family {latents.family!r} do not fit {card.id!r}, which takes those of "
            f"{card.family!r}",
            param="latents",
        )
    params = replace(
        params, num_images=latents.num_images, width=latents.width, height=latents.height
    )
    return replace(request, latents=latents, params=params)


def _fill(card: ModelCard, params: SamplingParams) -> SamplingParams:
    defaults = card.defaults
    filled = replace(
        params,
        width=_size(card, "width", params.width or defaults.width or 512),
        height=_size(card, "height", params.height or defaults.height or 512),
        num_inference_steps=_or(params.num_inference_steps, defaults.num_inference_steps),
        guidance_scale=_or(params.guidance_scale, defaults.guidance_scale),
        true_cfg_scale=_true_cfg_scale(card, params),
        strength=_or(params.strength, defaults.strength),
        scheduler=_or(params.scheduler, defaults.scheduler),
        sigmas=_or(params.sigmas, _default_sigmas(card, params)),
        seed=params.seed if params.seed is not None else secrets.randbelow(SEED_RANGE),
    )
    _check(card, filled)
    return filled


def _check(card: ModelCard, params: SamplingParams) -> None:
    _check_steps(card, params)
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


def _check_steps(card: ModelCard, params: SamplingParams) -> None:
    """What is walked is bounded by the card; the schedule that it is a part of, by a constant."""
    steps, most = params.num_inference_steps or 0, card.max_num_inference_steps
    is_part = params.first_step != 0 or params.last_step is not None
    if not 1 <= steps <= (MAX_SCHEDULE_STEPS if is_part else most):
        raise _out_of_range(
            "num_inference_steps", steps, 1, MAX_SCHEDULE_STEPS if is_part else most
        )
    if min(params.first_step, params.last_step or 0) < 0:
        raise InvalidRequest("steps count from 0", param="first_step")
    if params.num_walked_steps > most:
        raise _out_of_range("number of steps", params.num_walked_steps, 0, most)


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


def _true_cfg_scale(card: ModelCard, params: SamplingParams) -> float | None:
    """The model's own, unless the caller names a guidance scale and no other: that one is meant."""
    is_named = params.true_cfg_scale is not None or params.guidance_scale is not None
    return params.true_cfg_scale if is_named else card.defaults.true_cfg_scale


def _or(value: T | None, default: T | None) -> T | None:
    return default if value is None else value


def _not_ready(name: str) -> ModelNotReady:
    return ModelNotReady(
        f"model {name} is not ready yet", param="model", retry_after=STARTING_RETRY_SECONDS
    )
