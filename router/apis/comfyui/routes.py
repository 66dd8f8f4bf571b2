"""The routes of ComfyUI's server, each bare and under ``/api``."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, TypeAlias

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket

from deployments.errors import AtelierError
from router.apis.comfyui import discovery
from router.apis.comfyui.discovery import Discovery
from router.apis.comfyui.files import file_routes
from router.apis.comfyui.history import History
from router.apis.comfyui.jobs import Jobs
from router.apis.comfyui.live import Live
from router.apis.comfyui.origin import guarded_route, is_foreign
from router.apis.comfyui.prompt import Prompts
from router.apis.comfyui.queue import Queue
from router.apis.comfyui.sockets import refuse
from router.auth import Authenticator
from router.service import GenerationService
from router.store.options import OptionStore

#: Where every route lies.
ROOTS: Final = ("", "/api")

Handler: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]


def routes(
    service: GenerationService, auth: Authenticator, *, options: OptionStore, live: Live
) -> APIRouter:
    """ComfyUI's routes. ``live`` serves the WebSockets, ``options`` keep the owners' settings."""
    inner = APIRouter(
        route_class=guarded_route(auth),
        tags=["ComfyUI"],
        default_response_class=JSONResponse,
    )
    for path, method, handler in _table(service, live):
        inner.add_api_route(path, handler, methods=[method])
    files = file_routes(service, auth, options)
    preflights = APIRouter(route_class=guarded_route(None))
    for path in dict.fromkeys((*_paths(inner), *_paths(files))):
        preflights.add_api_route(path, _preflight, methods=["OPTIONS"], include_in_schema=False)
    inner.include_router(files)
    router = APIRouter()
    for root in ROOTS:
        router.include_router(inner, prefix=root, include_in_schema=not root)
        router.include_router(preflights, prefix=root)
        router.add_api_websocket_route(f"{root}/ws", _websocket(auth, live))
    return router


def _paths(router: APIRouter) -> Iterator[str]:
    return (route.path for route in router.routes if isinstance(route, APIRoute))


def _table(service: GenerationService, live: Live) -> list[tuple[str, str, Handler]]:
    prompts, history = Prompts(service, live), History(service)
    queue, seen = Queue(service, live), Discovery(service)
    jobs = Jobs(service, queue, history)
    return [
        ("/prompt", "GET", prompts.remaining),
        ("/prompt", "POST", prompts.submit),
        ("/queue", "GET", queue.show),
        ("/queue", "POST", queue.change),
        ("/interrupt", "POST", queue.interrupt),
        ("/free", "POST", queue.free),
        ("/history", "GET", history.show),
        ("/history", "POST", history.change),
        ("/history/{prompt_id:path}", "GET", history.show_one),
        ("/jobs", "GET", jobs.show_all),
        ("/jobs/cancel", "POST", jobs.cancel_several),
        ("/jobs/{job_id}", "GET", jobs.show),
        ("/jobs/{job_id}/cancel", "POST", jobs.cancel),
        ("/object_info", "GET", seen.nodes),
        ("/object_info/{node_class}", "GET", seen.node),
        ("/system_stats", "GET", seen.system_stats),
        ("/features", "GET", seen.features),
        ("/models", "GET", seen.folders),
        ("/models/{folder}", "GET", seen.files),
        ("/experiment/models", "GET", seen.described_folders),
        ("/experiment/models/{folder}", "GET", seen.described_files),
        ("/experiment/models/preview/{path:path}", "GET", seen.nothing),
        ("/global_subgraphs/{subgraph}", "GET", seen.nothing),
        *((path, "GET", _telling(told)) for path, told in discovery.EMPTY.items()),
    ]


def _telling(told: Any) -> Handler:
    async def tell() -> Any:
        return told

    return tell


async def _preflight() -> Response:
    return Response()


def _websocket(auth: Authenticator, live: Live) -> Callable[[WebSocket], Coroutine[Any, Any, None]]:
    async def connect(websocket: WebSocket) -> None:
        try:
            owner = auth.owner(websocket.headers.get("authorization"))
        except AtelierError as error:
            await refuse(websocket, JSONResponse({"error": error.message}, error.status))
            return
        if is_foreign(websocket.headers):
            await refuse(websocket, Response(status_code=403))
            return
        await live.serve(websocket, owner=owner)

    return connect
