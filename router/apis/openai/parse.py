"""From OpenAI's fields to a ``GenerationRequest``. Pure functions."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from deployments.errors import InvalidRequest
from deployments.types import GenerationRequest, ModelCard, SamplingParams
from router.apis.loras import parse_loras
from router.apis.openai.bodies import Options, Streamed
from router.apis.openai.inputs import Inputs
from router.pictures import PictureFacts, fit_size

#: What OpenAI's clients send by habit: the route's own default model.
HABITUAL_MODELS: Final = frozenset(
    {
        "gpt-image-1",
        "gpt-image-1-mini",
        "gpt-image-1.5",
        "gpt-image-2",
        "dall-e-2",
        "dall-e-3",
    }
)
#: Pixels of a generation that names no size.
DEFAULT_SIZE: Final = (1024, 1024)
#: The longest side of an edit that names no size.
LONGEST_SIDE: Final = 1024
#: ``quality`` as a factor of the model's default steps; the names not here leave them as they are.
QUALITY_STEPS: Final = {"low": 0.5, "high": 1.5, "hd": 1.5, "xhigh": 2.0, "max": 3.0}
#: ``input_fidelity: high`` as a factor of the model's default strength.
FIDELITY_STRENGTH: Final = 0.75
#: Strength of a variation that names none: the composition stays.
VARIATION_STRENGTH: Final = 0.6

_SIZE: Final = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})", re.ASCII)


def parse_draft(
    body: Options, inputs: Inputs, *, prompt: str = "", is_variation: bool = False
) -> GenerationRequest:
    """The request as far as it stands before a model is chosen."""
    if not is_variation and not prompt.strip():
        raise InvalidRequest("prompt must not be empty", param="prompt")
    params = SamplingParams(
        num_images=body.n or 1,
        num_inference_steps=body.num_inference_steps,
        guidance_scale=body.guidance_scale,
        true_cfg_scale=body.true_cfg_scale,
        strength=body.strength,
        seed=parse_seed(body.seed),
        scheduler=body.scheduler,
    )
    return GenerationRequest(
        prompt=prompt,
        negative_prompt=body.negative_prompt or "",
        model=parse_model(body.model),
        images=inputs.images,
        mask=inputs.mask,
        params=params,
        output_format=body.output_format or "png",
        output_quality=_parse_compression(body),
        loras=parse_loras(body.loras),
        weights=body.weights or None,
    )


def finish(
    draft: GenerationRequest,
    body: Options,
    card: ModelCard,
    facts: PictureFacts | None,
    *,
    strength: float | None = None,
) -> GenerationRequest:
    """The request for the chosen model: its size, and the steps that ``quality`` asks for.

    ``strength`` is for callers that name none; None leaves it to the model.
    """
    check_num_inputs(draft, card)
    params = suit_guidance(draft.params, card)
    width, height = parse_size(body.size, card, facts)
    params = replace(params, width=width, height=height)
    steps = card.defaults.num_inference_steps
    if params.num_inference_steps is None and steps and body.quality in QUALITY_STEPS:
        scaled = max(1, round(steps * QUALITY_STEPS[body.quality]))
        params = replace(params, num_inference_steps=min(scaled, card.max_num_inference_steps))
    if params.strength is None:
        params = replace(params, strength=strength)
    return replace(draft, model=card.id, params=params)


def parse_previews(asked: GenerationRequest, body: Streamed) -> GenerationRequest:
    """The request with the previews that a stream shows. Raises ``InvalidRequest``."""
    if body.response_format == "url":
        raise InvalidRequest("a stream holds b64_json, not url", param="response_format")
    return replace(asked, num_previews=body.partial_images or 0)


def parse_model(name: str | None) -> str | None:
    """The model that a request names; None where it means the default."""
    return None if not name or name in HABITUAL_MODELS else name


def parse_seed(seed: int | None) -> int | None:
    """The seed; None, which draws one, for -1."""
    return None if seed == -1 else seed


def parse_size(
    text: str | None, card: ModelCard, facts: PictureFacts | None = None
) -> tuple[int | None, int | None]:
    """Width and height of ``WIDTHxHEIGHT``.

    Without a size, and with ``auto``, an edit keeps the shape of its input (``facts``), its sides
    within the model's limits and at most ``LONGEST_SIDE``. A generation gets ``DEFAULT_SIZE`` if
    the model allows it; the model's own default otherwise, and with ``auto``.
    """
    if text and text != "auto":
        if match := _SIZE.fullmatch(text):
            return int(match[1]), int(match[2])
        raise InvalidRequest(
            f"size {text!r:.100} is not a size; accepted: WIDTHxHEIGHT, auto", param="size"
        )
    if facts is not None:
        longest = min(LONGEST_SIDE, card.max_size)
        width, height = fit_size(facts, longest=longest, multiple=card.size_multiple)
        return max(width, card.min_size), max(height, card.min_size)
    is_default_legal = card.min_size <= max(DEFAULT_SIZE) <= card.max_size
    return DEFAULT_SIZE if text is None and is_default_legal else (None, None)


def suit_guidance(params: SamplingParams, card: ModelCard) -> SamplingParams:
    """On a model without ``true_cfg_scale`` that number is the guidance scale, if that is open."""
    if params.true_cfg_scale is None or card.defaults.true_cfg_scale is not None:
        return params
    guidance = params.guidance_scale if params.guidance_scale is not None else params.true_cfg_scale
    return replace(params, true_cfg_scale=None, guidance_scale=guidance)


def check_num_inputs(request: GenerationRequest, card: ModelCard) -> None:
    """Refuse more input pictures than the model can look at together."""
    if len(request.images) > card.max_input_images:
        raise InvalidRequest(
            f"model {card.id!r} edits at most {card.max_input_images} picture at a time and got "
            f"{len(request.images)}; send one, or name a model that takes several",
            param="image",
        )


def _parse_compression(body: Options) -> int:
    """OpenAI: png is lossless, so that any compression but 100 is refused with it."""
    compression = 100 if body.output_compression is None else body.output_compression
    if compression < 100 and (body.output_format or "png") == "png":
        raise InvalidRequest(
            f"output_compression {compression} is for jpeg and webp; png accepts 100",
            param="output_compression",
        )
    return max(1, compression)
