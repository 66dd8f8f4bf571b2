"""Failures as ComfyUI tells them."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from deployments.errors import AtelierError, InvalidRequest

#: Paths whose refusals are the body of a refused prompt.
PROMPT_PATHS: Final = ("/prompt", "/api/prompt")


class PromptRefused(InvalidRequest):
    """A prompt that cannot run. ``body`` is the whole answer: ``error`` and ``node_errors``."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(body["error"]["message"])
        self.body = body


class InvalidIds(InvalidRequest):
    """Ids that are none. They are told back, cut to a bearable length."""

    def __init__(self, message: str, ids: list[str]) -> None:
        super().__init__(message)
        self.ids = [name[:200] for name in ids[:100]]


def refusal(kind: str, message: str, details: str = "") -> PromptRefused:
    """A refusal of a whole prompt."""
    error = {"type": kind, "message": message, "details": details, "extra_info": {}}
    return PromptRefused({"error": error, "node_errors": {}})


def render_error(error: AtelierError, request: Request) -> Response:
    """``{"error": text}``; about a prompt, ``{"error": {...}, "node_errors": {...}}``."""
    headers = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Basic"
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    # ComfyUI's clients know "too much at once" as 503 alone.
    status = 503 if error.status == 429 else error.status
    return JSONResponse(_body(error, request), status_code=status, headers=headers)


def _body(error: AtelierError, request: Request) -> dict[str, Any]:
    if isinstance(error, PromptRefused):
        return error.body
    if request.url.path in PROMPT_PATHS:
        return refusal(_kind(error), error.message, error.message).body
    if isinstance(error, InvalidIds):
        return {"error": error.message, "invalid_ids": error.ids}
    return {"error": error.message}


def _kind(error: AtelierError) -> str:
    """The error's code; what the web framework refused, such as a method, is no fault of ours."""
    is_refused = error.code == AtelierError.code and error.status < 500
    return InvalidRequest.code if is_refused else error.code
