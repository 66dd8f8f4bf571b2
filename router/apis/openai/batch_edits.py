"""The ``images`` dialect of the edits route: ``n`` variants of each input picture, in one job.

Its fields and defaults, its answer with ``usage``, and its errors
``{"detail": {"error": CODE, "message": ...}}``.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from deployments.errors import (
    AtelierError,
    Cancelled,
    ContentRefused,
    InvalidRequest,
    ModelNotReady,
    Overloaded,
    Unauthorized,
)
from deployments.types import SEED_RANGE, GenerationRequest, ModelCard, SamplingParams
from router.apis.loras import LoraBodies, parse_loras
from router.apis.openai.bodies import MAX_IMAGES, MAX_INPUT_IMAGES, validate
from router.apis.openai.forms import Form
from router.apis.openai.parse import parse_model, parse_seed, parse_size, suit_guidance
from router.job import Job
from router.pictures import PictureFacts, inspect

#: The dialect's ``true_cfg_scale``, for models that have the knob.
DEFAULT_TRUE_CFG_SCALE: Final = 4.0
#: A caller may try again after so many seconds when nothing better is known.
RETRY_SECONDS: Final = 5.0


class BatchEditBody(BaseModel):
    """The text fields. Others are ignored, as by the original."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    prompt: str
    negative_prompt: str | None = None
    size: str = Field("1024x1024", description="WIDTHxHEIGHT, or auto for each input's shape.")
    n: int = Field(1, ge=1, le=MAX_IMAGES, description="Variants of each input picture.")
    num_inference_steps: int = Field(50, ge=1)
    guidance_scale: float | None = Field(None, ge=0, le=100)
    true_cfg_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="4.0 by default. On a model without this knob a given one stands in for an "
        "absent guidance_scale.",
    )
    output_type: Literal["pil", "pt"] = Field(
        "pil",
        description="pil: PNG. pt: a safetensors file with the tensor image (3, H, W), float32.",
    )
    max_sequence_length: int = Field(512, ge=1, le=1024)
    seed: int | None = Field(
        None, ge=-1, lt=SEED_RANGE, description="Picture k of the whole answer uses seed + k."
    )
    model: str | None = None
    strength: float | None = Field(None, ge=0, le=1)
    scheduler: str | None = None
    loras: LoraBodies = Field(None, description="The model's LoRAs to use, as JSON.")


def parse_body(form: Form) -> BatchEditBody:
    """The text fields. Raises ``InvalidRequest``."""
    if not form.texts.get("prompt", "").strip():
        raise InvalidRequest("Prompt cannot be empty", param="prompt")
    if form.named("mask") or "mask" in form.texts:
        raise InvalidRequest("mask goes with a file named image, not images", param="mask")
    return validate(BatchEditBody, form.texts, is_text=True)


def parse_files(form: Form) -> tuple[bytes, ...]:
    """The input pictures, 1 to ``MAX_INPUT_IMAGES``. Raises ``InvalidRequest``."""
    files = form.named("images", "images[]")
    if not 1 <= len(files) <= MAX_INPUT_IMAGES:
        raise InvalidRequest(
            f"{len(files)} files came as images; accepted: 1 to {MAX_INPUT_IMAGES}", param="images"
        )
    return files


def inspect_files(files: Sequence[bytes]) -> list[PictureFacts]:
    """The facts of each input. Raises ``InvalidImage``."""
    return [inspect(data, param="images") for data in files]


def parse_draft(body: BatchEditBody, image: bytes) -> GenerationRequest:
    """One input's request, as far as it stands before a model is chosen."""
    params = SamplingParams(
        num_images=body.n,
        num_inference_steps=body.num_inference_steps,
        guidance_scale=body.guidance_scale,
        true_cfg_scale=body.true_cfg_scale,
        strength=body.strength,
        scheduler=body.scheduler,
        max_sequence_length=body.max_sequence_length,
    )
    return GenerationRequest(
        prompt=body.prompt,
        negative_prompt=body.negative_prompt or "",
        model=parse_model(body.model),
        images=(image,),
        params=params,
        output_format="safetensors" if body.output_type == "pt" else "png",
        loras=parse_loras(body.loras),
    )


def finish(
    body: BatchEditBody,
    images: Sequence[bytes],
    facts: Sequence[PictureFacts],
    card: ModelCard,
    weights: str | None = None,
) -> list[GenerationRequest]:
    """One request per input picture, its seeds following on those of the input before."""
    seed = parse_seed(body.seed)
    first_seed = secrets.randbelow(SEED_RANGE) if seed is None else seed
    requests = []
    for index, (image, shape) in enumerate(zip(images, facts, strict=True)):
        draft = parse_draft(body, image)
        width, height = parse_size(body.size, card, shape)
        params = replace(
            _suit_guidance(draft.params, card),
            width=width,
            height=height,
            seed=(first_seed + index * body.n) % SEED_RANGE,
        )
        requests.append(replace(draft, model=card.id, weights=weights, params=params))
    return requests


def render(job: Job, pictures: Sequence[bytes], seconds: float) -> dict[str, Any]:
    """The answer: pictures input by input, and what the work took."""
    return {
        "created": int(job.created_at),
        "data": [
            {"b64_json": base64.b64encode(data).decode(), "seed": image.seed}
            for image, data in zip(job.images, pictures, strict=True)
        ],
        "usage": {
            "processing_time_seconds": round(seconds, 3),
            "input_images": len(job.requests),
            "generated_images": len(pictures),
        },
    }


def render_error(error: AtelierError) -> Response:
    """``{"detail": {"error": CODE, "message": ...}}`` with one of the dialect's four codes."""
    status, code, message = _describe(error)
    headers = {}
    if status == 503:
        headers["Retry-After"] = str(max(1, round(error.retry_after or RETRY_SECONDS)))
    if status == 401:
        headers["WWW-Authenticate"] = "Basic"
    detail = {"error": code, "message": message}
    return JSONResponse({"detail": detail}, status_code=status, headers=headers)


def _describe(error: AtelierError) -> tuple[int, str, str]:
    match error:
        case Unauthorized():
            return 401, "UNAUTHORIZED", "Invalid username or password"
        case ModelNotReady():
            return 503, "MODEL_NOT_READY", "Model is not ready yet"
        case Overloaded():
            return 503, "MODEL_NOT_READY", error.message
        case Cancelled() | ContentRefused():
            return 400, "INVALID_INPUT", error.message
    if error.status >= 500:
        return 500, "GENERATION_ERROR", f"Image generation failed: {error.message}"
    status = error.status if error.status in (409, 413) else 400
    return status, "INVALID_INPUT", error.message


def _suit_guidance(params: SamplingParams, card: ModelCard) -> SamplingParams:
    if params.true_cfg_scale is None and card.defaults.true_cfg_scale is not None:
        return replace(params, true_cfg_scale=DEFAULT_TRUE_CFG_SCALE)
    return suit_guidance(params, card)
