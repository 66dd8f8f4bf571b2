"""The routes of ``/sdapi/v1``, and those beside it that its clients probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter
from starlette.responses import JSONResponse

from router.apis.route import api_route
from router.apis.sdapi import discovery
from router.apis.sdapi.bodies import (
    Body,
    ExtraBatchImages,
    ExtraSingleImage,
    ImageToImage,
    Interrogate,
    PngInfo,
    TextToImage,
)
from router.apis.sdapi.control import Control
from router.apis.sdapi.drawing import Drawing, Fetch
from router.apis.sdapi.errors import render_error
from router.apis.sdapi.models import Models
from router.apis.sdapi.prompts import Styles
from router.apis.sdapi.samplers import render_samplers, render_schedules
from router.apis.sdapi.scripts import (
    render_script_info,
    render_scripts,
)
from router.apis.sdapi.upscalers import render_latent_modes, render_upscalers
from router.auth import Authenticator
from router.service import GenerationService
from router.store.options import OptionStore

ROOT: Final = "/sdapi/v1"


def routes(
    service: GenerationService,
    auth: Authenticator,
    *,
    options: OptionStore,
    fetch: Fetch | None = None,
    styles: Styles | None = None,
) -> APIRouter:
    """A1111's routes. Without ``fetch``, pictures by http(s) URL are refused."""
    router = APIRouter(
        route_class=api_route(render_error, auth),
        tags=["A1111"],
        default_response_class=JSONResponse,
    )
    drawing = Drawing(service, options, fetch, styles or {})
    for path, handler, body in (
        (f"{ROOT}/txt2img", drawing.txt2img, TextToImage),
        (f"{ROOT}/img2img", drawing.img2img, ImageToImage),
        (f"{ROOT}/extra-single-image", drawing.extra_single_image, ExtraSingleImage),
        (f"{ROOT}/extra-batch-images", drawing.extra_batch_images, ExtraBatchImages),
        (f"{ROOT}/png-info", drawing.png_info, PngInfo),
        (f"{ROOT}/interrogate", drawing.interrogate, Interrogate),
    ):
        router.add_api_route(path, handler, methods=["POST"], openapi_extra=_documented(body))
    _add_control(router, Control(service, options))
    _add_models(router, Models(service))
    _add_lists(router, service, styles or {})
    return router


def _add_control(router: APIRouter, control: Control) -> None:
    router.add_api_route(f"{ROOT}/options", control.options, methods=["GET"])
    router.add_api_route(f"{ROOT}/options", control.set_options, methods=["POST"])
    router.add_api_route(f"{ROOT}/progress", control.progress, methods=["GET"])
    router.add_api_route(f"{ROOT}/interrupt", control.interrupt, methods=["POST"])
    router.add_api_route(f"{ROOT}/skip", control.skip, methods=["POST"])
    router.add_api_route(f"{ROOT}/unload-checkpoint", control.unload, methods=["POST"])
    router.add_api_route("/internal/progress", control.task_progress, methods=["GET"])
    router.add_api_route("/internal/progress", control.task_progress, methods=["POST"])
    router.add_api_route("/internal/pending-tasks", control.pending, methods=["GET"])
    router.add_api_route("/internal/pending-tasks", control.pending, methods=["POST"])
    router.add_api_route("/queue/status", control.queue_status, methods=["GET"])


def _add_models(router: APIRouter, models: Models) -> None:
    router.add_api_route(f"{ROOT}/sd-models", models.checkpoints, methods=["GET"])
    router.add_api_route(f"{ROOT}/loras", models.loras, methods=["GET"])
    router.add_api_route(f"{ROOT}/refresh-loras", models.refresh_loras, methods=["POST"])


def _add_lists(router: APIRouter, service: GenerationService, styles: Styles) -> None:
    """The routes that only tell, each by a function without arguments."""

    def add(path: str, tell: Any, method: str = "GET") -> None:
        async def handler() -> Any:
            return tell()

        router.add_api_route(path, handler, methods=[method], name=path.rpartition("/")[2])

    told: Mapping[str, Any] = {
        "samplers": lambda: render_samplers(service.cards()),
        "schedulers": render_schedules,
        "upscalers": lambda: render_upscalers(service.cards()),
        "latent-upscale-modes": render_latent_modes,
        "prompt-styles": lambda: discovery.render_styles(styles),
        "scripts": render_scripts,
        "script-info": render_script_info,
        "embeddings": lambda: discovery.EMBEDDINGS,
        "cmd-flags": lambda: discovery.CMD_FLAGS,
        "memory": discovery.render_memory,
        **dict.fromkeys(discovery.EMPTY_LISTS, list),
    }
    for name, tell in told.items():
        add(f"{ROOT}/{name}", tell)
    for name in discovery.VOID_CALLS:
        add(f"{ROOT}/{name}", lambda: None, "POST")
    add(f"{ROOT}/reload-checkpoint", dict, "POST")
    add("/internal/ping", dict)
    add("/config", lambda: discovery.CONFIG)


def _documented(body: type[Body]) -> dict[str, Any]:
    """What ``/docs`` shows of a body that the handler reads itself."""
    schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
    kinds = schema.pop("$defs", {})
    for field in schema["properties"].values():
        if name := field.get("items", {}).get("$ref", "").rpartition("/")[2]:
            field["items"] = kinds[name]
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}
