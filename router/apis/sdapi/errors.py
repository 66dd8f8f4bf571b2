"""Failures as A1111 tells them, and the two kinds that only this wire has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from deployments.errors import AtelierError, InvalidRequest

#: Fields by the names that the service has for them, and this wire.
_WIRE_NAMES: Final = {
    "num_inference_steps": "steps",
    "guidance_scale": "cfg_scale",
    "strength": "denoising_strength",
}


class InvalidBody(InvalidRequest):
    """A body that FastAPI would refuse: ``detail`` is its list of complaints."""

    status = 422

    def __init__(self, complaints: Sequence[Mapping[str, Any]]) -> None:
        super().__init__("; ".join(str(complaint["msg"]) for complaint in complaints))
        self.complaints = [dict(complaint) for complaint in complaints]


class UnknownScript(InvalidRequest):
    """A script, or arguments of one, that this server has not."""

    status = 422


def complaints_of(error: ValidationError) -> InvalidBody:
    """pydantic's complaints in FastAPI's form; long values are cut."""
    return InvalidBody(
        [
            {
                "type": complaint["type"],
                "loc": ["body", *complaint["loc"]],
                "msg": complaint["msg"],
                "input": _shown(complaint["input"]),
            }
            for complaint in error.errors(include_url=False, include_context=False)
        ]
    )


def render_error(error: AtelierError, _request: Request) -> Response:
    """``{"error", "detail", "body", "errors"}``; for a bad body ``detail`` is a list."""
    headers = {}
    message = _worded(error)
    if error.status == 401:
        if message.startswith("Invalid username"):
            message = "Incorrect username or password"  # as the original words it
        headers["WWW-Authenticate"] = "Basic"
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    detail = error.complaints if isinstance(error, InvalidBody) else message
    return JSONResponse(
        {"error": "HTTPException", "detail": detail, "body": "", "errors": message},
        status_code=error.status,
        headers=headers,
    )


def _worded(error: AtelierError) -> str:
    """The message; the field that it begins with has this wire's name."""
    param = error.param or ""
    if param not in _WIRE_NAMES or not error.message.startswith(f"{param} "):
        return error.message
    return _WIRE_NAMES[param] + error.message.removeprefix(param)


def _shown(value: Any) -> Any:
    if isinstance(value, bool | int | None) or (isinstance(value, float) and isfinite(value)):
        return value  # JSON has no NaN
    return str(value)[:200]
