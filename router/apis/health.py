"""GET /health and GET /ready: no key needed, answered while every model is busy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from deployments.types import Load, ModelCard
from router.service import GenerationService

PREFIXES: Final = ("/health", "/ready")


def routes(service: GenerationService) -> APIRouter:
    """The routes over a service; they never wait for a model."""
    router = APIRouter(tags=["health"])

    @router.get("/health", summary="The gateway is up")
    async def health() -> Response:
        return JSONResponse(render_health(service.cards(), service.loads))

    @router.get("/ready", summary="Every configured model has a running replica")
    async def ready() -> Response:
        statuses = service.model_statuses()
        models = {status.id: "ready" if status.is_ready else "starting" for status in statuses}
        if service.is_ready:
            return JSONResponse({"status": "ready", "models": models})
        message = "Model is not ready yet"
        return JSONResponse(
            {"detail": {"error": "MODEL_NOT_READY", "message": message}, "models": models},
            status_code=503,
            headers={"Retry-After": "2"},
        )

    return router


def render_health(cards: tuple[ModelCard, ...], loads: Mapping[str, Load]) -> dict[str, Any]:
    """One body for every client that ever asked: status, device, models_loaded, features; and what
    the weights of each model take of memory, in bytes, with its share where that is known."""
    devices = [card.device for card in cards]
    modes = {mode for card in cards for mode in card.modes}
    return {
        "status": "healthy",
        "device": next((device for device in devices if device != "cpu"), "cpu"),
        "models_loaded": len(cards),
        "features": {
            "image_generation": True,
            "image_edits": bool(modes & {"edit", "image-to-image"}),
            "inpainting": "inpainting" in modes,
            "book_generation": False,
            "blog_generation": False,
        },
        "memory": {
            model: {"weight_bytes": load.weight_bytes, "memory_bytes": load.memory_bytes}
            for model, load in sorted(loads.items())
        },
    }
