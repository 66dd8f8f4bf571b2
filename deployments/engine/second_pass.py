"""Second pass: what it is asked for, as a request of its own, and the steps of both."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from deployments.errors import InvalidRequest
from deployments.types import UPSCALERS, GenerationRequest

T = TypeVar("T")


def second_request(request: GenerationRequest) -> GenerationRequest | None:
    """What a request's second pass is asked for, as a request of its own; None without one."""
    second, first = request.second_pass, request.params
    if second is None:
        return None
    params = replace(
        first,
        width=second.width,
        height=second.height,
        strength=second.strength,
        num_inference_steps=second.num_inference_steps or first.num_inference_steps,
        guidance_scale=_own(second.guidance_scale, first.guidance_scale),
        true_cfg_scale=first.true_cfg_scale and _own(second.guidance_scale, first.true_cfg_scale),
        scheduler=_own(second.scheduler, first.scheduler),
        sigmas=_own(second.sigmas, first.sigmas),
    )
    return replace(
        request,
        prompt=_own(second.prompt, request.prompt),
        negative_prompt=_own(second.negative_prompt, request.negative_prompt),
        loras=_own(second.loras, request.loras),
        params=params,
        second_pass=None,
    )


def check_second_pass(request: GenerationRequest) -> None:
    """Raise ``InvalidRequest`` for an unknown upscaler, and beside an input picture or latents."""
    if request.second_pass is None:
        return
    if request.images or request.latents is not None:
        message = "a second pass follows text-to-image only"
        raise InvalidRequest(message, param="second_pass")
    if (upscaler := request.second_pass.upscaler) not in UPSCALERS:
        message = f"unknown upscaler {upscaler!r}; known: {', '.join(UPSCALERS)}"
        raise InvalidRequest(message, param="second_pass")


def num_steps(request: GenerationRequest) -> int | None:
    """Denoising steps asked for, in all passes: the second counts those that its strength leaves.

    None when the request does not say.
    """
    steps = request.params.num_inference_steps
    if steps is not None and request.latents is not None:
        return request.params.num_walked_steps
    if steps is None or (second := second_request(request)) is None:
        return steps
    later, strength = second.params.num_inference_steps or 1, second.params.strength or 0
    return steps + max(1, min(int(later * strength), later))


def _own(value: T | None, otherwise: T) -> T:
    return otherwise if value is None else value
