"""Origin: pages of other sites may not use a server on the user's own machine; his own may."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from router.apis.comfyui.errors import render_error
from router.apis.route import api_route
from router.auth import Authenticator

#: What pages of the same machine may send (CORS).
ALLOWED: Final[Mapping[str, str]] = {
    "Access-Control-Allow-Methods": "POST, GET, DELETE, PUT, OPTIONS, PATCH",
    "Access-Control-Allow-Headers": "Content-Type, Authorization",
    "Access-Control-Allow-Credentials": "true",
    "Vary": "Origin",
}


def guarded_route(auth: Authenticator | None) -> type[APIRoute]:
    """The route class of this API: closed to pages of other sites, open to those of this machine.

    Without ``auth`` it needs no credentials: browsers ask whether they may send any.
    """
    route_class = api_route(render_error, auth)

    class Guarded(route_class):  # type: ignore[valid-type,misc]
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handle_guarded(request: Request) -> Response:
                if is_foreign(request.headers):
                    return Response(status_code=403)
                return allow(request.headers, await handle(request))

            return handle_guarded

    return Guarded


def is_foreign(headers: Mapping[str, str]) -> bool:
    """Whether a page of another site speaks to a server of this machine.

    Stricter than that is ComfyUI, which lets no other port of the machine in, either: local tools
    with a page of their own then need a switch of the server's.
    """
    host, origin = _name(f"//{headers.get('host', '')}"), _name(headers.get("origin", ""))
    return _is_local(host) and bool(origin) and origin != host and not _is_local(origin)


def allow(headers: Mapping[str, str], response: Response) -> Response:
    """The response, which a page of this machine may read although it lies on another port."""
    origin = headers.get("origin", "")
    if _is_local(_name(origin)):
        response.headers.update({"Access-Control-Allow-Origin": origin, **ALLOWED})
    return response


def _name(url: str) -> str:
    """The host in a URL, without its port; empty when there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_local(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
