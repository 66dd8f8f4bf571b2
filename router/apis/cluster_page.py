"""The cluster page: GET /cluster for people, GET /v1/cluster for programs; both tell the same.

A refusal of the page asks a browser for the key; one of the JSON is in the shape of ``/v1``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter
from starlette.responses import HTMLResponse, JSONResponse, Response

from deployments.types import Device, Holding, Load
from router.apis import openai
from router.apis.generate import render_error
from router.apis.route import api_route
from router.auth import Authenticator
from router.service import GenerationService

if TYPE_CHECKING:
    from router.models import Deployment
    from router.overview import DeviceUse, Overview

PREFIXES: Final = ("/cluster",)
#: The page asks for the JSON itself, and again every two seconds; it needs nothing from elsewhere.
PAGE: Final = Path(__file__).with_suffix(".html")
#: What the page may do: run what is in it, and ask where it came from.
POLICY: Final = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"
)


def routes(service: GenerationService, auth: Authenticator) -> APIRouter:
    """The routes over a service."""
    pages = APIRouter(route_class=api_route(render_error, auth), tags=["cluster"])
    figures = APIRouter(route_class=api_route(openai.render_error, auth), tags=["cluster"])
    text = PAGE.read_text(encoding="utf-8")

    @pages.get("/cluster", summary="The cluster as a page", response_class=HTMLResponse)
    async def page() -> Response:
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        return HTMLResponse(text, headers=headers)

    @figures.get("/v1/cluster", summary="Applications, replicas, and each device's memory")
    async def cluster() -> Response:
        return JSONResponse(render(await service.overview()))

    router = APIRouter()
    router.include_router(pages)
    router.include_router(figures)
    return router


def render(overview: Overview) -> dict[str, Any]:
    """The body: what runs, and what is where. Sizes are bytes."""
    return {
        "object": "cluster",
        "warnings": list(overview.warnings),
        "devices": [_render_device(use) for use in overview.devices],
        "applications": [
            {
                "id": application.id,
                "status": application.status,
                "message": application.message,
                "deployments": [
                    _render_deployment(deployment) for deployment in application.deployments
                ],
            }
            for application in overview.applications
        ],
    }


def _render_device(use: DeviceUse) -> dict[str, Any]:
    return {
        **_render_place(use.device),
        "total_bytes": use.device.total_bytes,
        "share_bytes": use.share_bytes,
        "held_bytes": use.held_bytes,
        "needed_bytes": use.needed_bytes,
        "warnings": list(use.warnings),
        "parts": [
            {
                "application": part.application,
                "share_bytes": part.share_bytes,
                "held_bytes": part.held_bytes,
                "needed_bytes": part.needed_bytes,
            }
            for part in use.parts
        ],
    }


def _render_deployment(deployment: Deployment) -> dict[str, Any]:
    return {
        "name": deployment.name,
        "status": deployment.status,
        "message": deployment.message,
        "replicas": [
            {"state": replica.state, **(_render_load(replica.load) if replica.load else {})}
            for replica in deployment.replicas
        ],
    }


def _render_load(load: Load) -> dict[str, Any]:
    return {
        **(_render_place(load.device) if load.device else {"node": None, "device": "remote"}),
        "num_running": load.num_running,
        "num_waiting": load.num_waiting,
        "share_bytes": load.memory_bytes,
        "weight_bytes": load.weight_bytes,
        "lora_bytes": load.lora_bytes,
        "work_bytes": load.work_bytes,
        "picture_bytes": load.picture_bytes,
        "host_bytes": load.host_bytes,
        "holdings": [_render_holding(holding) for holding in load.holdings],
    }


def _render_place(device: Device) -> dict[str, Any]:
    return {"node": device.node, "device": device.id, "device_name": device.name}


def _render_holding(holding: Holding) -> dict[str, Any]:
    return {
        "name": holding.name,
        "kind": holding.kind,
        "bytes": holding.num_bytes,
        "is_used": holding.is_used,
    }
