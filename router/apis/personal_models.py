"""Personal models: PUT, GET and DELETE /v1/models/personal/{name}, and their list.

A caller registers weights of his own, or a LoRA, for a hosted model, and names them in every API:
weights where models are named and as ``user_id`` of /generate, LoRAs where those are.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any, BinaryIO, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import JSONResponse, Response

from deployments.errors import InvalidRequest, RequestTooLarge
from router.apis.openai.bodies import validate
from router.apis.openai.render import render_error
from router.apis.route import api_route, owner_of
from router.auth import Authenticator
from router.personal_models import PersonalModel, PersonalModels
from router.service import GenerationService

PREFIXES: Final = ("/v1/models/personal",)
#: Bytes of a form beside its file.
_FORM_BYTES: Final = 64 * 1024
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["base"],
                    "properties": {
                        "base": {"type": "string", "description": "A hosted model's id."},
                        "path": {"type": "string", "description": "A file or folder of the hosts."},
                        "hub": {"type": "string", "description": "A Hugging Face id."},
                    },
                }
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["base", "file"],
                    "properties": {
                        "base": {"type": "string"},
                        "file": {"type": "string", "format": "binary"},
                    },
                }
            },
        },
    }
}


class PersonalModelBody(BaseModel):
    """Body of a PUT that uploads nothing: exactly one of ``path`` and ``hub``."""

    model_config = ConfigDict(strict=True, extra="forbid")

    base: Annotated[str, Field(min_length=1)]
    path: str | None = None
    hub: str | None = None


def routes(service: GenerationService, auth: Authenticator) -> APIRouter:
    """The routes; they come before OpenAI's, which has every other name below /v1/models."""
    models = service.personal
    router = APIRouter(route_class=api_route(render_error, auth), tags=["Personal models"])

    @router.get("/v1/models/personal", summary="The caller's own weights and LoRAs")
    async def list_models(request: Request) -> dict[str, Any]:
        found = await models.list(owner=owner_of(request))
        return {"object": "list", "data": [render(model) for model in found]}

    @router.get("/v1/models/personal/{name}", summary="Weights, or a LoRA, of the caller's own")
    async def get_model(name: str, request: Request) -> dict[str, Any]:
        return render(await models.get(owner=owner_of(request), name=name))

    @router.put(
        "/v1/models/personal/{name}",
        summary="Register weights or a LoRA: by path, by hub id, or as an upload",
        openapi_extra=_BODY,
    )
    async def put_model(name: str, request: Request) -> Response:
        return JSONResponse(render(await _put(models, name, request)))

    @router.delete("/v1/models/personal/{name}", summary="Forget weights, or a LoRA")
    async def delete_model(name: str, request: Request) -> dict[str, Any]:
        await models.delete(owner=owner_of(request), name=name)
        return {"id": name, "object": "personal_model", "deleted": True}

    return router


def render(model: PersonalModel) -> dict[str, Any]:
    """A personal model as this API tells it; where an upload lies stays inside."""
    kind = model.source.kind
    shown: dict[str, str] = {} if kind == "upload" else {kind: model.source.location}
    return {
        "id": model.name,
        "object": "personal_model",
        "type": "lora" if model.source.is_lora else "checkpoint",
        "created": int(model.created_at),
        "owned_by": model.owner,
        "base": model.base,
        "source": kind,
        **shown,
        "parts": list(model.parts),
        "num_bytes": model.num_bytes,
    }


async def _put(models: PersonalModels, name: str, request: Request) -> PersonalModel:
    owner = owner_of(request)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        form = await _read_form(request, models.max_bytes)
        try:
            base, file = _parse_form(form)
            return await models.put_upload(file, owner=owner, name=name, base=base)
        finally:
            await form.close()
    value = await request.json()
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object, or a form with a file")
    body = validate(PersonalModelBody, value)
    if (body.path is None) == (body.hub is None):
        raise InvalidRequest("the body needs one of path and hub, or a file in a form")
    if body.path is not None:
        return await models.put_path(body.path, owner=owner, name=name, base=body.base)
    assert body.hub is not None
    return await models.put_hub(body.hub, owner=owner, name=name, base=body.base)


async def _read_form(request: Request, max_bytes: int) -> FormData:
    """The form, its file on the disk. Raises ``InvalidRequest`` and ``RequestTooLarge``."""
    limit = max_bytes + _FORM_BYTES
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(max_bytes)

    async def bounded() -> AsyncGenerator[bytes, None]:
        num_bytes = 0
        # NOTE: not ``request.stream()``, whose bound is that of pictures.
        async for chunk in Request(request.scope, request.receive).stream():
            num_bytes += len(chunk)
            if num_bytes > limit:
                raise _too_large(max_bytes)
            yield chunk

    try:
        parser = MultiPartParser(request.headers, bounded(), max_files=1, max_fields=8)
        return await parser.parse()
    except (MultiPartException, ValueError, UnicodeError):
        raise InvalidRequest("the body is not a valid multipart form") from None


def _parse_form(form: FormData) -> tuple[str, BinaryIO]:
    base, file = form.get("base"), form.get("file")
    if not isinstance(base, str) or not base:
        raise InvalidRequest("base is missing; it names a hosted model", param="base")
    if not isinstance(file, UploadFile):
        raise InvalidRequest("file is missing; it is a safetensors file", param="file")
    return base, file.file


def _too_large(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"the file is too large; accepted: at most {max_bytes} bytes")
