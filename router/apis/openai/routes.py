"""The routes under ``/v1``: images and models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Final, Protocol

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from deployments.errors import InvalidRequest, JobNotFound, NotFound, Unauthorized, UnsupportedField
from deployments.types import GenerationRequest
from router.apis.idempotency import idempotency_of
from router.apis.openai import batch_edits, docs
from router.apis.openai.bodies import (
    MAX_INPUT_IMAGES,
    EditBody,
    EditJsonBody,
    GenerationBody,
    ImageReference,
    Options,
    Streamed,
    VariationBody,
    validate,
)
from router.apis.openai.forms import DIALECT_KEY, Form, is_form, peek_dialect, read_form
from router.apis.openai.inputs import Inputs, prepare
from router.apis.openai.parse import (
    FIDELITY_STRENGTH,
    HABITUAL_MODELS,
    VARIATION_STRENGTH,
    finish,
    parse_draft,
    parse_previews,
)
from router.apis.openai.render import (
    render_error,
    render_images,
    render_model,
    render_personal,
)
from router.apis.openai.stream import EventResponse, EventStream, Subject
from router.apis.route import api_route, owner_of
from router.auth import Authenticator
from router.job import Job
from router.pictures import decode_base64
from router.service import GenerationService

#: Paths whose failures speak OpenAI's shape.
PREFIXES: Final = ("/v1",)
#: The name of this API in jobs.
API: Final = "openai"
#: Which models serve a request that names none, the first that can do the work.
GENERATION_MODELS: Final = ("sdxl-turbo",)
EDIT_MODELS: Final = ("qwen-image-edit", "sdxl-turbo")

_FILE_FIELDS: Final = frozenset({"image", "image[]", "images", "images[]", "mask"})


class Fetch(Protocol):
    """Reads a picture from an http(s) URL. Raises ``InvalidRequest`` naming ``param``."""

    def __call__(self, url: str, *, param: str) -> Awaitable[bytes]:
        """The bytes behind the URL."""


def routes(
    service: GenerationService, auth: Authenticator, *, fetch: Fetch | None = None
) -> APIRouter:
    """OpenAI's routes. Without ``fetch``, pictures by http(s) URL are refused."""
    api = ImagesApi(service, auth, fetch)
    router = APIRouter(route_class=api_route(render_error, auth), tags=["OpenAI"])
    router.add_api_route(
        "/v1/images/generations", api.generate, methods=["POST"], openapi_extra=docs.GENERATIONS
    )
    router.add_api_route(
        "/v1/images/variations", api.vary, methods=["POST"], openapi_extra=docs.VARIATIONS
    )
    router.add_api_route("/v1/images/files/{job_id}/{name}", api.file, methods=["GET"])
    router.add_api_route("/v1/models", api.models, methods=["GET"])
    router.add_api_route("/v1/models/{name:path}", api.model, methods=["GET"])
    # The edits route checks credentials itself: how it refuses depends on what the body holds.
    edits = APIRouter(route_class=api_route(render_error, None), tags=["OpenAI"])
    edits.add_api_route("/v1/images/edits", api.edit, methods=["POST"], openapi_extra=docs.EDITS)
    router.include_router(edits)
    return router


class ImagesApi:
    """The handlers: parse, submit, render."""

    def __init__(
        self, service: GenerationService, auth: Authenticator, fetch: Fetch | None
    ) -> None:
        self._service = service
        self._auth = auth
        self._fetch = fetch

    async def generate(self, request: Request) -> Response:
        """Pictures from a prompt. With ``stream``, server-sent events."""
        body = validate(GenerationBody, await _json_object(request))
        draft = parse_draft(body, Inputs(), prompt=body.prompt)
        draft = await self._service.meant(draft, owner=owner_of(request))
        card = self._service.choose(draft, prefer=GENERATION_MODELS)
        asked = finish(draft, body, card, None)
        return await self._answer(request, asked, body, "image_generation", await request.body())

    async def edit(self, request: Request) -> Response:
        """Edit pictures, in one of two dialects that the name of the files' field chooses.

        ``image`` or ``image[]`` is OpenAI's (``images`` beside it is not read): all inputs feed
        one edit and ``n`` counts its pictures. The mask's transparent pixels are edited, or those
        of the first picture when there is no mask. The JSON body is OpenAI's, too.

        ``images`` makes ``n`` variants of each input and answers with ``usage`` in seconds;
        errors are ``{"detail": {"error", "message"}}``.
        """
        try:
            request.scope["atelier.owner"] = self._auth.owner(request.headers.get("authorization"))
        except Unauthorized:
            request.scope[DIALECT_KEY] = await peek_dialect(request)
            raise
        if not is_form(request):
            return await self._edit_json(request)
        form = await read_form(request)
        if form.dialect == "images":
            return await self._edit_batch(request, form)
        body = validate(EditBody, _fields(form), is_text=True)
        inputs = await _inputs(form)
        return await self._edit(request, body, inputs, form.digest)

    async def vary(self, request: Request) -> Response:
        """Pictures like the one given, without a prompt."""
        if not is_form(request):
            raise HTTPException(415, "the body must be multipart/form-data")
        form = await read_form(request)
        request.scope[DIALECT_KEY] = "openai"
        body = validate(VariationBody, _fields(form), is_text=True)
        inputs = await _inputs(form, most=1, is_alpha_mask=False)
        draft = parse_draft(body, inputs, is_variation=True)
        draft = await self._service.meant(draft, owner=owner_of(request))
        card = self._service.choose(draft, prefer=EDIT_MODELS)
        asked = finish(draft, body, card, inputs.facts[0], strength=VARIATION_STRENGTH)
        return await self._answer(request, asked, body, "image_edit", form.digest)

    async def file(self, request: Request, job_id: str, name: str) -> Response:
        """A picture of an answer with ``response_format`` url, for the one who asked for it."""
        job = await self._service.get(job_id, owner=owner_of(request))
        if job.api != API:
            raise JobNotFound(f"no job {job_id!r}")
        for index, image in enumerate(job.images):
            if name == f"{index + 1}.{image.format}":
                data = await self._service.image(job, index)
                return Response(data, media_type=f"image/{image.format}")
        raise NotFound(f"job {job_id!r} has no file {name!r}")

    async def models(self, request: Request) -> dict[str, Any]:
        """Every hosted model, and the caller's own weights."""
        own = await self._service.personal.list(owner=owner_of(request))
        hosted = [render_model(card) for card in self._service.cards()]
        personal = [render_personal(model) for model in own if not model.source.is_lora]
        return {"object": "list", "data": hosted + personal}

    async def model(self, name: str, request: Request) -> dict[str, Any]:
        """One model by id, alias or the name of weights; OpenAI's own names are the default."""
        if name in HABITUAL_MODELS:
            draft = GenerationRequest(prompt=name)
            return render_model(self._service.choose(draft, prefer=GENERATION_MODELS))
        owner = owner_of(request)
        variant = await self._service.variant(name, owner=owner)
        if variant.own is None:
            return {**render_model(variant.card), "id": variant.name}
        return render_personal(await self._service.personal.get(owner=owner, name=variant.own.name))

    # -- inside ---------------------------------------------------------------------------------

    async def _edit_json(self, request: Request) -> Response:
        body = validate(EditJsonBody, await _json_object(request))
        images = [await self._load(reference, "images") for reference in body.images]
        mask = await self._load(body.mask, "mask") if body.mask else None
        inputs = await asyncio.to_thread(prepare, images, mask)
        return await self._edit(request, body, inputs, await request.body())

    async def _edit(
        self, request: Request, body: EditBody, inputs: Inputs, said: bytes
    ) -> Response:
        draft = parse_draft(body, inputs, prompt=body.prompt)
        draft = await self._service.meant(draft, owner=owner_of(request))
        card = self._service.choose(draft, prefer=EDIT_MODELS)
        strength = None
        if body.input_fidelity == "high" and card.defaults.strength is not None:
            strength = card.defaults.strength * FIDELITY_STRENGTH
        asked = finish(draft, body, card, inputs.facts[0], strength=strength)
        return await self._answer(request, asked, body, "image_edit", said)

    async def _edit_batch(self, request: Request, form: Form) -> Response:
        started = time.monotonic()
        body = batch_edits.parse_body(form)
        files = batch_edits.parse_files(form)
        facts = await asyncio.to_thread(batch_edits.inspect_files, files)
        draft = batch_edits.parse_draft(body, files[0])
        draft = await self._service.meant(draft, owner=owner_of(request))
        card = self._service.choose(draft, prefer=EDIT_MODELS)
        job = await self._service.run(
            *batch_edits.finish(body, files, facts, card, draft.weights),
            idempotency=await idempotency_of(request, form.digest),
            is_disconnected=request.is_disconnected,
            api=API,
            owner=owner_of(request),
        )
        pictures = await self._service.images(job)
        return JSONResponse(batch_edits.render(job, pictures, time.monotonic() - started))

    async def _answer(
        self,
        request: Request,
        asked: GenerationRequest,
        body: Options,
        subject: Subject,
        said: bytes,
    ) -> Response:
        args: dict[str, Any] = {
            "idempotency": await idempotency_of(request, said),
            "api": API,
            "owner": owner_of(request),
            "details": _details(body),
        }
        if isinstance(body, Streamed) and body.stream:
            return await self._stream(asked, body, subject, args)
        job = await self._service.run(asked, is_disconnected=request.is_disconnected, **args)
        pictures = await self._service.images(job)
        answer = render_images(job, pictures, body, str(request.base_url))
        return JSONResponse(answer, headers=_headers(job))

    async def _stream(
        self, asked: GenerationRequest, body: Streamed, subject: Subject, args: dict[str, Any]
    ) -> Response:
        job = await self._service.submit(parse_previews(asked, body), **args)
        stream = EventStream(service=self._service, job=job, subject=subject, body=body)
        is_awaited = args["idempotency"] is not None
        return EventResponse(stream, headers=_headers(job), is_awaited=is_awaited)

    async def _load(self, reference: ImageReference, param: str) -> bytes:
        """An input picture of a JSON body."""
        if reference.file_id is not None:
            raise UnsupportedField("file_id is not supported by this server", param="file_id")
        url = reference.image_url
        if not url:
            raise InvalidRequest(f"{param} needs an image_url", param=param)
        if not url.lower().startswith(("http://", "https://")):
            return decode_base64(url, param=param)
        if self._fetch is None:
            raise InvalidRequest(f"{param}: image_url must be a data: URL here", param=param)
        return await self._fetch(url, param=param)


async def _json_object(request: Request) -> dict[str, Any]:
    """The body, a JSON object. Raises ``InvalidRequest``, or an HTTP 415."""
    content_type = request.headers.get("content-type", "application/json").partition(";")[0]
    if not content_type.strip().lower().endswith(("/json", "+json")):
        raise HTTPException(415, "the body must be application/json")
    value = await request.json()
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return value


def _fields(form: Form) -> dict[str, str]:
    """The texts. Raises ``InvalidRequest`` for a file where none belongs."""
    for name, _ in form.files:
        if name not in _FILE_FIELDS:
            raise UnsupportedField(f"{name} came as a file; it is text, or unknown", param=name)
    return {k: v for k, v in form.texts.items() if k not in _FILE_FIELDS}


async def _inputs(
    form: Form, *, most: int = MAX_INPUT_IMAGES, is_alpha_mask: bool = True
) -> Inputs:
    """A form's pictures and mask. Raises ``InvalidRequest``."""
    images = form.named("image", "image[]")
    if not 1 <= len(images) <= most:
        raise InvalidRequest(
            f"{len(images)} files came as image; accepted: 1 to {most}", param="image"
        )
    masks = form.named("mask")
    if len(masks) > 1 or form.texts.get("mask"):
        raise InvalidRequest("mask must be one file", param="mask")
    mask = masks[0] if masks else None
    return await asyncio.to_thread(prepare, images, mask, is_alpha_mask=is_alpha_mask)


def _details(body: Options) -> dict[str, str]:
    """What the job remembers of who asked."""
    told = {"user": body.user, "safety_identifier": getattr(body, "safety_identifier", None)}
    return {name: value for name, value in told.items() if value}


def _headers(job: Job) -> dict[str, str]:
    """``x-request-id`` is Serve's own."""
    return {"x-job-id": job.id}
