"""From a job to OpenAI's objects: pictures, usage, models, errors. Pure functions."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from deployments.errors import AtelierError, ModelNotReady
from deployments.types import ModelCard
from router.apis.openai import batch_edits
from router.apis.openai.bodies import Options
from router.apis.openai.forms import DIALECT_KEY
from router.job import Job, JobImage
from router.personal_models import PersonalModel

#: Sides, in pixels, of the patch that counts as one image token in ``usage``.
PATCH: Final = 16
#: Values of ``quality`` that the SDK's strict mode lets stand in an answer.
_TOLD_QUALITIES: Final = frozenset({"low", "medium", "high", "xhigh", "max"})
_CODES: Final = {
    "invalid_request": "invalid_value",
    "unsupported_field": "unknown_parameter",
    "unauthorized": "invalid_api_key",
    "overloaded": "rate_limit_exceeded",
    "internal_error": "server_error",
}
#: Codes of failures that the web framework decided.
_STATUS_CODES: Final = {
    404: "not_found",
    405: "method_not_allowed",
    415: "unsupported_media_type",
}
#: OpenAI's names of fields that have another name inside.
_PARAMS: Final = {"width": "size", "height": "size", "num_images": "n", "images": "image"}


def render_images(
    job: Job, pictures: Sequence[bytes], body: Options, base_url: str
) -> dict[str, Any]:
    """The answer that does not stream. Sizes, formats and seeds are those of the pictures.

    ``quality`` stands there only as the caller named it, where strict clients allow it; pictures
    are always opaque.
    """
    first = job.images[0]
    answer: dict[str, Any] = {
        "created": int(job.created_at),
        "background": "opaque",
        "data": [
            {"seed": image.seed, **_form(job, index, pictures, body, base_url)}
            for index, image in enumerate(job.images)
        ],
        "output_format": first.format,
        "size": f"{first.width}x{first.height}",
        "usage": usage(job, job.images),
    }
    if body.quality in _TOLD_QUALITIES:
        answer["quality"] = body.quality
    return answer


def _form(
    job: Job, index: int, pictures: Sequence[bytes], body: Options, base_url: str
) -> dict[str, str]:
    if body.response_format == "url":
        return {"url": base_url.rstrip("/") + file_path(job, index)}
    return {"b64_json": encode(pictures[index])}


def file_path(job: Job, index: int) -> str:
    """Where a picture, counted from 0, is fetched."""
    return f"/v1/images/files/{job.id}/{index + 1}.{job.images[index].format}"


def usage(job: Job, images: Sequence[JobImage]) -> dict[str, Any]:
    """Tokens: what the text encoder saw, and patches of ``PATCH`` x ``PATCH`` pixels in and out.

    Input pictures count at the size at which they are edited.
    """
    num_inputs = sum(len(stored.image_keys) for stored in job.requests)
    into = num_inputs * _patches(images[0]) if images else 0
    out = sum(_patches(image) for image in images)
    return {
        "total_tokens": job.prompt_tokens + into + out,
        "input_tokens": job.prompt_tokens + into,
        "input_tokens_details": {"text_tokens": job.prompt_tokens, "image_tokens": into},
        "output_tokens": out,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": out},
    }


def _patches(image: JobImage) -> int:
    return -(-image.width // PATCH) * -(-image.height // PATCH)


def render_model(card: ModelCard) -> dict[str, Any]:
    """A hosted model as OpenAI lists it."""
    return {"id": card.id, "object": "model", "created": card.created, "owned_by": "atelier"}


def render_personal(model: PersonalModel) -> dict[str, Any]:
    """Weights of a caller's own, likewise."""
    created = int(model.created_at)
    return {"id": model.name, "object": "model", "created": created, "owned_by": model.owner}


def render_error(error: AtelierError, request: Request) -> Response:
    """OpenAI's error object, or the ``images`` dialect's where the request speaks it.

    ``x-should-retry: false`` keeps the SDK, which repeats any 409 and 5xx, from starting work
    anew that had begun.
    """
    if request.scope.get(DIALECT_KEY) == "images":
        return batch_edits.render_error(error)
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    if error.status == 409 or (error.status >= 500 and not isinstance(error, ModelNotReady)):
        headers["x-should-retry"] = "false"
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": error_object(error)}, status_code=error.status, headers=headers)


def error_object(error: AtelierError) -> dict[str, str | None]:
    """The four keys that OpenAI's SDKs read."""
    param = error.param
    return {
        "message": error.message,
        "type": _error_type(error.status),
        "param": _PARAMS.get(param, param) if param else None,
        "code": _code(error),
    }


def encode(data: bytes) -> str:
    """Base64 without a prefix."""
    return base64.b64encode(data).decode()


def _code(error: AtelierError) -> str:
    if error.code == AtelierError.code and error.status < 500:
        return _STATUS_CODES.get(error.status, "invalid_request_error")
    return _CODES.get(error.code, error.code)


def _error_type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"
