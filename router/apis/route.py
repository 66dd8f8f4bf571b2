"""The route class of every API: checks the caller, bounds the body, dresses every failure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from deployments.errors import AtelierError, Cancelled, InvalidRequest
from router.apis.body import LimitedRequest
from router.auth import Authenticator

logger = logging.getLogger(__name__)

RenderError: TypeAlias = Callable[[AtelierError, Request], Response]
Handler: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]


def api_route(render_error: RenderError, auth: Authenticator | None) -> type[APIRoute]:
    """The route class of one API. With ``auth`` every route needs credentials.

    Inside a handler ``owner_of(request)`` is the caller's name. Whatever is raised becomes
    ``render_error``'s response: no failure leaves in another API's shape, or as a trace.
    """

    class Route(APIRoute):
        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()

            async def handle_guarded(request: Request) -> Response:
                try:
                    if auth is not None:
                        request.scope["atelier.owner"] = auth.owner(
                            request.headers.get("authorization")
                        )
                    return await handle(LimitedRequest(request.scope, request.receive))
                except Exception as error:
                    return render_error(as_atelier_error(error), request)

            return handle_guarded

    return Route


def owner_of(request: Request) -> str:
    """The name of the authenticated caller."""
    owner: str = request.scope["atelier.owner"]
    return owner


def as_atelier_error(error: Exception) -> AtelierError:
    """Any failure as one of ours; unexpected ones are logged and told blandly."""
    match error:
        case AtelierError():
            return error
        case RequestValidationError():
            return _from_validation(error)
        case HTTPException():
            return _from_http(error)
        case ClientDisconnect():
            return Cancelled("the caller left before the body was read")
    logger.error("unexpected failure in a route", exc_info=error)
    return AtelierError("an internal fault; see the server's log")


class _HttpError(AtelierError):
    """A failure that Starlette or FastAPI decided, with its own status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status  # type: ignore[misc]


def _from_http(error: HTTPException) -> AtelierError:
    if isinstance(error.__cause__, AtelierError):
        return error.__cause__
    if error.status_code == 400:
        return InvalidRequest(str(error.detail))
    return _HttpError(error.status_code, str(error.detail))


def _from_validation(error: RequestValidationError) -> InvalidRequest:
    """The first complaint: where it is, what was wrong, and the value."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    if first["type"] == "json_invalid":
        return InvalidRequest("the body is not valid JSON")
    if not path:
        return InvalidRequest("the body must be a JSON object, sent as application/json")
    value = first.get("input")
    shown = f", got {value!r:.200}" if isinstance(value, str | int | float | list) else ""
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "model_type":
        message = "Input should be an object"  # pydantic names the class
    return InvalidRequest(f"{'.'.join(path)}: {message}{shown}", param=path[0])
