"""The simple API: POST /generate, POST /generate/image, DELETE /cache."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.responses import JSONResponse, Response

from deployments.errors import AtelierError
from deployments.types import GenerationRequest, ModelCard, SamplingParams
from router.apis.idempotency import idempotency_of
from router.apis.loras import LoraBodies, parse_loras
from router.apis.route import api_route, owner_of
from router.auth import Authenticator
from router.job import Job
from router.service import GenerationService

PREFIXES: Final = ("/generate", "/cache")
#: The model of a request that names none.
DEFAULT_MODEL: Final = "sd15-dreambooth"
#: Weights of users that have none of their own.
DEFAULT_WEIGHTS: Final = "default"


class GenerateBody(BaseModel):
    """Body of both routes. Everything but the prompt may be left out or null."""

    model_config = ConfigDict(strict=True, extra="ignore")

    prompt: Annotated[str, Field(description="What the picture shows.", examples=["a red circle"])]
    user_id: Annotated[str | None, Field(description="Whose weights draw it.")] = None
    num_inference_steps: Annotated[int | None, Field(ge=1, le=150, description="default 30")] = None
    guidance_scale: Annotated[float | None, Field(ge=1, le=20, description="default 7.5")] = None
    width: Annotated[int | None, Field(ge=256, le=1024, description="pixels, default 512")] = None
    height: Annotated[int | None, Field(ge=256, le=1024, description="pixels, default 512")] = None
    seed: Annotated[int | None, Field(ge=-1, lt=2**32, description="-1 or null draws one")] = None
    negative_prompt: Annotated[str | None, Field(description="What it must not show.")] = None
    model: Annotated[str | None, Field(description="Id, alias, or a personal model.")] = None
    loras: Annotated[LoraBodies, Field(description="The model's LoRAs to use.")] = None

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("must not be empty")
        return prompt


def routes(service: GenerationService, auth: Authenticator) -> APIRouter:
    """The routes of this API over a service."""
    router = APIRouter(route_class=api_route(render_error, auth), tags=["generate"])

    async def run(body: GenerateBody, request: Request) -> tuple[Job, ModelCard]:
        owner = owner_of(request)
        draft = await service.meant(parse(body), owner=owner)
        card = service.choose(draft, prefer=(DEFAULT_MODEL,))
        names = [name for name in (draft.weights, body.user_id, DEFAULT_WEIGHTS) if name]
        weights = await service.find_weights(names, card, owner=owner)
        job = await service.run(
            parse(body, card, weights),
            api="generate",
            owner=owner,
            idempotency=await idempotency_of(request),
            is_disconnected=request.is_disconnected,
        )
        return job, card

    @router.post("/generate", summary="A picture as base64 in JSON")
    async def generate(body: GenerateBody, request: Request) -> Response:
        job, card = await run(body, request)
        return JSONResponse(render(job, card, await service.image(job, 0)))

    @router.post("/generate/image", summary="A picture as PNG")
    async def generate_image(body: GenerateBody, request: Request) -> Response:
        job, card = await run(body, request)
        headers = {
            "X-Model-Used": public_name(card),
            "X-Generation-Time": f"{generation_time(job):.2f}",
            "X-Seed": str(job.images[0].seed),
        }
        return Response(await service.image(job, 0), media_type="image/png", headers=headers)

    @router.delete("/cache", summary="Drop idle weights from memory")
    async def evict() -> Response:
        evicted = await service.evict()
        return JSONResponse(
            {
                "success": True,
                "message": f"Cache cleared: {len(evicted.weights)} model(s) evicted",
                "evicted": list(evicted.weights),
                "freed_bytes": evicted.num_bytes,
            }
        )

    return router


def parse(
    body: GenerateBody, card: ModelCard | None = None, weights: str | None = None
) -> GenerationRequest:
    """The request, for a model once it is chosen, and the weights that draw for its user."""
    params = SamplingParams(
        width=body.width or 512,
        height=body.height or 512,
        num_inference_steps=body.num_inference_steps or 30,
        guidance_scale=7.5 if body.guidance_scale is None else body.guidance_scale,
        seed=None if body.seed == -1 else body.seed,
    )
    return GenerationRequest(
        prompt=body.prompt,
        negative_prompt=body.negative_prompt or "",
        model=card.id if card else body.model,
        weights=weights,
        params=params,
        loras=parse_loras(body.loras),
    )


def render(job: Job, card: ModelCard, data: bytes) -> dict[str, Any]:
    """The body of a success. ``image_path`` is relative to where the gateway keeps pictures."""
    image = job.images[0]
    return {
        "success": True,
        "message": "Image generated successfully",
        "image_base64": base64.b64encode(data).decode(),
        "image_path": f"generated_images/{image.key}",
        "model_id": public_name(card),
        "generation_time": round(generation_time(job), 2),
        "seed": image.seed,
        "width": image.width,
        "height": image.height,
        "job_id": job.id,
    }


def public_name(card: ModelCard) -> str:
    """The hub id among a model's aliases, as this API has always named models; else its id."""
    return next((alias for alias in card.aliases if "/" in alias), card.id)


def generation_time(job: Job) -> float:
    """Seconds from the asking to the end."""
    return (job.ended_at or job.updated_at) - job.created_at


def render_error(error: AtelierError, _request: Request) -> Response:
    """``{"success": false, "message": ...}``."""
    headers = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Basic"
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    return JSONResponse(
        {"success": False, "message": error.message}, status_code=error.status, headers=headers
    )
