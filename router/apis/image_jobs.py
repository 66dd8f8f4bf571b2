"""Image jobs: POST /api/images/generate, then status, result, pictures; cancel, list, webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from deployments.errors import (
    AtelierError,
    Conflict,
    GenerationFailed,
    JobNotFound,
    ModelNotReady,
    NotFound,
    Overloaded,
    RequestTooLarge,
    Unauthorized,
    UnknownModel,
)
from router.apis import image_jobs_wire as wire
from router.apis.idempotency import idempotency_of
from router.apis.image_jobs_body import (
    GEMINI,
    ImageJobBody,
    fit,
    parse,
    parse_statuses,
    preferred,
    to_request,
)
from router.apis.route import api_route, owner_of
from router.auth import Authenticator
from router.fetch import Fetcher
from router.job import Job, JobStatus
from router.pictures import inspect
from router.service import GenerationService
from router.webhooks import Webhooks

PREFIXES: Final = ("/api/images", "/api/webhooks", "/generated_images")
API: Final = "image_jobs"
NO_GEMINI_KEY: Final = "Clé API Google non configurée"

#: Texts that come first where an error of this kind is told.
TEXTS: Final[Mapping[type[AtelierError], str]] = {
    UnknownModel: "Modèle inconnu",
    ModelNotReady: "Modèle non disponible",
    Overloaded: "Trop de requêtes",
    RequestTooLarge: "Requête trop volumineuse",
    Conflict: "Conflit",
}
_SUBMISSION: Final = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": ImageJobBody.model_json_schema()}},
    }
}


def routes(
    service: GenerationService,
    auth: Authenticator,
    *,
    fetcher: Fetcher,
    webhooks: Webhooks,
    public_url: str = "",
) -> APIRouter:
    """The routes of this API. ``public_url`` is the base of pictures' URLs, if set."""
    router = APIRouter(route_class=api_route(render_error, auth), tags=["image jobs"])

    def base_url(request: Request) -> str:
        return (public_url or str(request.base_url)).rstrip("/")

    async def status_of(job: Job) -> dict[str, Any]:
        is_whole = job.status is JobStatus.COMPLETED
        progress = None if is_whole else await service.progress(job.id)
        return wire.render_status(job, progress)

    @router.post(
        "/api/images/generate", summary="Start a job of 1 to 4 pictures", openapi_extra=_SUBMISSION
    )
    async def generate(request: Request) -> Response:
        job = await submit(request, service, fetcher, webhooks, base_url(request))
        webhooks.follow(job, service.watch(job.id))
        return JSONResponse({"job_id": job.id, "status": "PENDING", "message": wire.CREATED})

    @router.get("/api/images/status/{job_id}", summary="How far a job is")
    async def status(job_id: str, request: Request) -> Response:
        return JSONResponse(await status_of(await service.get(job_id, owner=owner_of(request))))

    @router.get("/api/images/result/{job_id}", summary="A job's pictures; 202 until it has ended")
    async def result(job_id: str, request: Request) -> Response:
        job = await service.get(job_id, owner=owner_of(request))
        if not job.status.is_final:
            return JSONResponse(await status_of(job), status_code=202)
        return JSONResponse(wire.render_result(job, base_url(request)))

    @router.delete("/api/images/{job_id}", summary="Cancel a job; one that has ended stays")
    async def cancel(job_id: str, request: Request) -> Response:
        return JSONResponse(await status_of(await service.cancel(job_id, owner=owner_of(request))))

    @router.get("/api/images", summary="Your jobs, of every API, newest first")
    async def list_jobs(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        cursor: str | None = None,
        status: str | None = None,
        api: str | None = None,
    ) -> Response:
        page = await service.list(
            owner=owner_of(request),
            api=api,
            statuses=parse_statuses(status),
            limit=limit,
            cursor=cursor,
        )
        jobs = [{**await status_of(job), "api": job.api, "model": job.model} for job in page.jobs]
        return JSONResponse({"jobs": jobs, "next_cursor": page.next_cursor})

    _add_pictures(router, service)
    _add_deliveries(router, webhooks)
    return router


async def submit(
    request: Request,
    service: GenerationService,
    fetcher: Fetcher,
    webhooks: Webhooks,
    base_url: str,
) -> Job:
    """The job that a submission asks for. Its addresses are checked, and its input picture is
    read, before it is accepted."""
    body = parse(await request.json())
    idempotency = await idempotency_of(request)
    owner = owner_of(request)
    if first := await service.find(idempotency, api=API, owner=owner):
        return first  # whatever has become of the body's addresses since
    await _check_model(service, body.model, owner)
    if body.webhook_url is not None:
        await webhooks.check(body.webhook_url)
    asked = to_request(body, await _input_images(fetcher, body.input_image_url))
    asked = await service.meant(asked, owner=owner)
    card = service.choose(asked, prefer=preferred(body))
    return await service.submit(
        fit(asked, body, card),
        api=API,
        owner=owner,
        idempotency=idempotency,
        webhook_url=body.webhook_url,
        notify=webhooks.can_notify(body.webhook_url),
        details={"prompt": body.prompt, "base_url": base_url},
    )


def _add_pictures(router: APIRouter, service: GenerationService) -> None:
    """The route of finished pictures, whichever API made them."""

    @router.get("/generated_images/{job_id}/{name}", summary="A finished picture")
    async def image(job_id: str, name: str, request: Request) -> Response:
        job = await service.get(job_id, owner=owner_of(request))
        found = wire.find_image(job, name)
        if found is None:
            raise NotFound("Image introuvable")
        index, kept = found
        return Response(
            await service.image(job, index),
            media_type=wire.MEDIA_TYPES[kept.format],
            headers={"X-Content-Type-Options": "nosniff"},
        )


def _add_deliveries(router: APIRouter, webhooks: Webhooks) -> None:
    """The routes of what was told to whom."""

    @router.get("/api/webhooks/deliveries", summary="What was told, and what still waits")
    async def deliveries(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        job_id: str | None = None,
    ) -> Response:
        found = await webhooks.list(owner=owner_of(request), job_id=job_id, limit=limit)
        return JSONResponse({"deliveries": [wire.render_delivery(item) for item in found]})

    @router.post("/api/webhooks/deliveries/{delivery_id}/resend", summary="Tell it again")
    async def resend(delivery_id: str, request: Request) -> Response:
        delivery = await webhooks.resend(delivery_id, owner=owner_of(request))
        return JSONResponse(wire.render_delivery(delivery))


def render_error(error: AtelierError, _request: Request) -> Response:
    """``{"error": text, "message": text}``."""
    headers = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    text = text_of(error)
    return JSONResponse({"error": text, "message": text}, status_code=error.status, headers=headers)


def text_of(error: AtelierError) -> str:
    """The sentence of a failure, the document's text first where it has one."""
    if isinstance(error, JobNotFound):
        return "Tâche introuvable"
    if isinstance(error, Unauthorized):
        return "Authentification requise"
    head = TEXTS.get(type(error))
    return f"{head} : {error.message}" if head else error.message


async def _input_images(fetcher: Fetcher, url: str | None) -> tuple[bytes, ...]:
    if url is None:
        return ()
    data = await fetcher.fetch(url, param="input_image_url")
    inspect(data, param="input_image_url")
    return (data,)


async def _check_model(service: GenerationService, name: str | None, owner: str) -> None:
    """Raises ``UnknownModel``; for a remote model without its key the document's own 500."""
    if name is None:
        return
    try:
        card = (await service.variant(name, owner=owner)).card
    except UnknownModel:
        if name in GEMINI:
            raise GenerationFailed(NO_GEMINI_KEY, param="model") from None
        raise
    if card.unavailable:
        raise GenerationFailed(card.unavailable, param="model")
