"""The body of an image job: what it accepts, and the request that it asks for. Pure functions.

``style`` adds words to the prompt. ``quality`` adds words and scales the model's own number of
steps: ``standard`` half of them, ``high`` all, ``ultra`` twice as many (never more than the model
allows); a ``num_inference_steps`` of the request wins. Gemini has no steps: there both are words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.errors import InvalidRequest, UnsupportedField
from deployments.types import (
    SEED_RANGE,
    GenerationRequest,
    ModelCard,
    OutputFormat,
    SamplingParams,
)
from router.apis.image_jobs_wire import STATUSES
from router.apis.loras import LoraBodies, parse_loras
from router.job import JobStatus
from router.service import MAX_PROMPT_LENGTH

#: Gemini's names, known even where it is not hosted.
GEMINI: Final = ("gemini-flash-image", "gemini-2.0-flash-exp")

#: Words that a style adds to the prompt.
STYLES: Final[Mapping[str, str]] = {
    "photorealistic": "photorealistic",
    "artistic": "artistic painting",
    "illustration": "illustration",
    "3d-render": "3D render",
}
#: Words that a quality adds, and what it multiplies the model's own steps by.
QUALITIES: Final[Mapping[str, tuple[str, float]]] = {
    "standard": ("", 0.5),
    "high": ("high quality", 1.0),
    "ultra": ("highest quality, fine detail", 2.0),
}
_OUTPUT_FORMATS: Final[Mapping[str, OutputFormat]] = {
    "PNG": "png",
    "JPEG": "jpeg",
    "WEBP": "webp",
    "WebP": "webp",
}


class ImageJobBody(BaseModel):
    """Body of a submission. A field's description says, in French, what it accepts."""

    model_config = ConfigDict(strict=True, extra="ignore")

    prompt: str = Field(min_length=1, description="un texte non vide", examples=["un cercle rouge"])
    input_image_url: str | None = Field(None, description="une URL http, https ou data")
    num_images: int = Field(1, ge=1, le=4, description="entre 1 et 4")
    size: Literal["512x512", "1024x1024", "1792x1024"] = Field(
        "1024x1024", description="512x512, 1024x1024, 1792x1024"
    )
    format: Literal["PNG", "JPEG", "WEBP", "WebP"] = Field("PNG", description="PNG, JPEG, WEBP")
    style: Literal["photorealistic", "artistic", "illustration", "3d-render"] = Field(
        "photorealistic", description="photorealistic, artistic, illustration, 3d-render"
    )
    quality: Literal["standard", "high", "ultra"] = Field(
        "high", description="standard, high, ultra"
    )
    model: str | None = Field(None, description="l'id, l'alias ou le nom personnel d'un modèle")
    negative_prompt: str = Field("", description="un texte")
    seed: int | None = Field(
        None, ge=-1, lt=SEED_RANGE, description=f"entre 0 et {SEED_RANGE - 1}, ou -1"
    )
    num_inference_steps: int | None = Field(None, ge=1, description="un entier d'au moins 1")
    guidance_scale: float | None = Field(None, ge=0, le=50, description="entre 0 et 50")
    strength: float | None = Field(None, ge=0, le=1, description="entre 0 et 1")
    loras: LoraBodies = Field(None, description="une liste de {name, weight}, weight de -10 à 10")
    webhook_url: str | None = Field(None, description="une URL http ou https")


def parse(value: Any) -> ImageJobBody:
    """The body; null is the same as absent. Raises ``InvalidRequest`` with the document's texts."""
    if not isinstance(value, dict):
        raise InvalidRequest("le corps doit être un objet JSON")
    given = {name: item for name, item in value.items() if item is not None}
    try:
        body = ImageJobBody.model_validate(given)
    except ValidationError as error:
        raise _refusal(error) from None
    if not body.prompt.strip():
        raise InvalidRequest("Prompt requis", param="prompt")
    if len(body.prompt) > MAX_PROMPT_LENGTH:
        raise InvalidRequest(
            f"prompt trop long : {len(body.prompt)} caractères ; accepté : {MAX_PROMPT_LENGTH}",
            param="prompt",
        )
    return body


def parse_statuses(text: str | None) -> frozenset[JobStatus]:
    """The jobs' statuses that a comma-separated filter of wire statuses asks for."""
    names = [name.strip().upper() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if name not in STATUSES:
            raise InvalidRequest(
                f"status invalide : {name!r:.100} ; accepté : {', '.join(STATUSES)}",
                param="status",
            )
    return frozenset(STATUSES[name] for name in names)


def to_request(body: ImageJobBody, images: tuple[bytes, ...]) -> GenerationRequest:
    """The request, before the model is known that tells the steps."""
    width, _, height = body.size.partition("x")
    params = SamplingParams(
        width=int(width),
        height=int(height),
        num_images=body.num_images,
        num_inference_steps=body.num_inference_steps,
        guidance_scale=body.guidance_scale,
        strength=body.strength,
        seed=None if body.seed == -1 else body.seed,
    )
    return GenerationRequest(
        prompt=styled(body.prompt, body.style, body.quality),
        negative_prompt=body.negative_prompt,
        model=body.model,
        images=images,
        params=params,
        output_format=_OUTPUT_FORMATS[body.format],
        loras=parse_loras(body.loras),
    )


def styled(prompt: str, style: str, quality: str) -> str:
    """The prompt with the words of its style and quality, where the limit leaves them room."""
    text = ", ".join(part for part in (prompt, STYLES[style], QUALITIES[quality][0]) if part)
    return text if len(text) <= MAX_PROMPT_LENGTH else prompt


def fit(request: GenerationRequest, body: ImageJobBody, card: ModelCard) -> GenerationRequest:
    """The request for the chosen model, its steps scaled by the quality.

    Raises ``UnsupportedField`` for knobs that a remote model does not have.
    """
    params = request.params
    if card.family == "gemini":
        for name in _knobs(body):
            raise UnsupportedField(f"{name} n'existe pas pour le modèle {card.id}", param=name)
    if params.num_inference_steps is None:
        steps = math.ceil((card.defaults.num_inference_steps or 1) * QUALITIES[body.quality][1])
        steps = min(steps, card.max_num_inference_steps)
        params = replace(params, num_inference_steps=steps)
    return replace(request, model=card.id, params=params)


def preferred(body: ImageJobBody) -> tuple[str, ...]:
    """Models to try when none is named. Gemini comes first unless the request has knobs that it
    lacks; without its key it can do nothing, and the next one serves."""
    local = ("qwen-image-edit", "sdxl-turbo") if body.input_image_url else ("sdxl-turbo",)
    return local if _knobs(body) else (GEMINI[0], *local)


def _knobs(body: ImageJobBody) -> list[str]:
    """Names of the given fields that only diffusion models have."""
    names = ("num_inference_steps", "guidance_scale", "strength", "loras")
    return [name for name in names if getattr(body, name) is not None]


def _refusal(error: ValidationError) -> InvalidRequest:
    """The first complaint in the document's words, else naming the field and what it accepts."""
    first = error.errors()[0]
    name = str(first["loc"][0])
    if name == "prompt":
        return InvalidRequest("Prompt requis", param=name)
    accepted = ImageJobBody.model_fields[name].description
    if name == "num_images":
        return InvalidRequest(f"num_images doit être {accepted}", param=name)
    return InvalidRequest(
        f"{name} invalide : {first['input']!r:.100} ; accepté : {accepted}", param=name
    )
