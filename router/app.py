"""build(args): the gateway's application. The only place that constructs things."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRouter
from fastapi_offline import FastAPIOffline
from ray import serve
from ray.serve import Application
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from router.apis import (
    cluster_page,
    comfyui,
    generate,
    health,
    image_jobs,
    openai,
    personal_models,
    sdapi,
)
from router.apis.image_jobs_wire import render_webhook
from router.apis.route import RenderError, as_atelier_error
from router.auth import Authenticator
from router.cluster import ServeModels
from router.dispatch import Dispatcher
from router.events import EventHub
from router.fetch import Fetcher
from router.files import Files
from router.follow import Follower
from router.ingress import Ingress
from router.models import Models
from router.personal_models import PersonalModels
from router.retention import Retention
from router.scripts import load_scripts
from router.service import GenerationService
from router.settings import Settings, answer_replaced
from router.store.database import Database
from router.store.deliveries import DeliveryStore
from router.store.files import FileStore
from router.store.images import ImageStore, MemoryImageStore
from router.store.jobs import JobStore
from router.store.memory_deliveries import MemoryDeliveryStore
from router.store.memory_files import MemoryFileStore
from router.store.memory_jobs import MemoryJobStore
from router.store.object_images import ObjectImageStore
from router.store.options import MemoryOptionStore, OptionStore
from router.store.personal_models import MemoryPersonalModelStore, PersonalModelStore
from router.store.sql_deliveries import SqlDeliveryStore
from router.store.sql_files import SqlFileStore
from router.store.sql_jobs import SqlJobStore
from router.store.sql_options import SqlOptionStore
from router.store.sql_personal_models import SqlPersonalModelStore
from router.webhooks import Webhooks

#: The URL of a store that forgets all when its process ends.
MEMORY: Final = "memory://"
#: Seconds between two sweeps of retention.
SWEEP_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Api:
    """One wire: which paths are its own, its routes, and how it tells a failure."""

    name: str
    prefixes: tuple[str, ...]
    routes: APIRouter
    render_error: RenderError

    def owns(self, path: str) -> bool:
        """Whether a path is this API's, by whole segments."""
        return any(path == prefix or path.startswith(f"{prefix}/") for prefix in self.prefixes)


def build(args: dict[str, Any]) -> Application:
    """The gateway as a Serve application; ``args`` are ``Settings``."""
    settings = Settings.from_args(args)
    deployment = serve.deployment(Ingress, name="Ingress", max_ongoing_requests=1000)
    return deployment.bind(settings, gateway, ServeModels)


def gateway(settings: Settings, models: Models) -> FastAPI:
    """The ASGI application over a view on the cluster's models."""
    answer_replaced()
    load_scripts()
    jobs, deliveries, options, file_rows, personal_rows, images = _stores(settings)
    files = Files(files=file_rows, images=images)
    personal = PersonalModels(
        store=personal_rows,
        images=images,
        jobs=jobs,
        models=models,
        folders=settings.checkpoint_folders,
        max_bytes=settings.max_checkpoint_bytes,
    )
    events = EventHub()
    dispatcher = Dispatcher(
        models=models,
        jobs=jobs,
        images=images,
        files=files,
        events=events,
        lease_seconds=settings.lease_seconds,
    )
    service = GenerationService(
        models=models,
        jobs=jobs,
        images=images,
        files=files,
        personal=personal,
        dispatcher=dispatcher,
        events=events,
        max_queued_jobs=settings.max_queued_jobs,
    )
    fetcher = Fetcher(allow=settings.fetch_allow)
    webhooks = _webhooks(settings, deliveries, fetcher)
    live = comfyui.Live(service, features=comfyui.FEATURES)
    follower = Follower(jobs=jobs, events=events, is_local=dispatcher.is_running)
    retention = Retention(
        jobs,
        images,
        file_rows,
        max_age_seconds=settings.retention_seconds,
        max_total_bytes=settings.retention_bytes,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await jobs.open()
        models.start()
        dispatcher.start()
        follower.start()
        webhooks.start()
        sweepers = [asyncio.create_task(kept.run(SWEEP_SECONDS)) for kept in (retention, personal)]
        yield
        for sweeper in sweepers:
            sweeper.cancel()
        await live.stop()
        await webhooks.stop()
        await follower.stop()
        await dispatcher.stop()
        models.stop()
        await jobs.close()

    app = FastAPIOffline(
        title="Atelier", summary="One image cluster behind every image API", lifespan=lifespan
    )
    app.openapi = partial(_describe, app, app.openapi)  # type: ignore[method-assign]
    auth = Authenticator(api_key=settings.api_key)
    _mount(app, _apis(settings, service, auth, fetcher, webhooks, options, live))
    # NOTE: describing the routes makes their fields. Else FastAPI makes them at the first request,
    # under ``warnings.catch_warnings``, which no two threads of a process can enter at once.
    app.openapi()
    return app


def _stores(
    settings: Settings,
) -> tuple[JobStore, DeliveryStore, OptionStore, FileStore, PersonalModelStore, ImageStore]:
    """Where rows and bytes live, by the settings' URLs."""
    in_memory = settings.images_url == MEMORY
    images = MemoryImageStore() if in_memory else ObjectImageStore(settings.images_url)
    if settings.database_url == MEMORY:
        jobs = MemoryJobStore()
        return (
            jobs,
            MemoryDeliveryStore(jobs),
            MemoryOptionStore(),
            MemoryFileStore(),
            MemoryPersonalModelStore(),
            images,
        )
    database = Database(settings.database_url)
    return (
        SqlJobStore(database),
        SqlDeliveryStore(database),
        SqlOptionStore(database),
        SqlFileStore(database),
        SqlPersonalModelStore(database),
        images,
    )


def _webhooks(settings: Settings, deliveries: DeliveryStore, fetcher: Fetcher) -> Webhooks:
    render = partial(
        render_webhook, environment=settings.environment, public_url=settings.public_url
    )
    return Webhooks(
        deliveries=deliveries,
        fetcher=fetcher,
        render=render,
        url=settings.webhook_url,
        secret=settings.webhook_secret,
        is_enabled=settings.webhook_enabled,
    )


def _apis(
    settings: Settings,
    service: GenerationService,
    auth: Authenticator,
    fetcher: Fetcher,
    webhooks: Webhooks,
    options: OptionStore,
    live: comfyui.Live,
) -> Sequence[Api]:
    """The table of wires: a row each."""
    return (
        Api("generate", generate.PREFIXES, generate.routes(service, auth), generate.render_error),
        Api(
            "personal_models",
            personal_models.PREFIXES,
            personal_models.routes(service, auth),
            openai.render_error,
        ),
        Api(
            "openai",
            openai.PREFIXES,
            openai.routes(service, auth, fetch=fetcher.fetch),
            openai.render_error,
        ),
        Api(
            "image_jobs",
            image_jobs.PREFIXES,
            image_jobs.routes(
                service, auth, fetcher=fetcher, webhooks=webhooks, public_url=settings.public_url
            ),
            image_jobs.render_error,
        ),
        Api(
            "sdapi",
            sdapi.PREFIXES,
            sdapi.routes(
                service,
                auth,
                options=options,
                fetch=fetcher.fetch,
                styles=sdapi.parse_styles(settings.prompt_styles),
            ),
            sdapi.render_error,
        ),
        Api(
            "comfyui",
            comfyui.PREFIXES,
            comfyui.routes(service, auth, options=options, live=live),
            comfyui.render_error,
        ),
        Api(
            "cluster_page",
            cluster_page.PREFIXES,
            cluster_page.routes(service, auth),
            generate.render_error,
        ),
        Api("health", health.PREFIXES, health.routes(service), generate.render_error),
    )


def _describe(app: FastAPI, describe: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The OpenAPI document, with the ways to present the key, so that ``/docs`` can use them."""
    if app.openapi_schema is None:
        schema = describe()
        schemes = {"basic": {"type": "http", "scheme": "basic"}}
        schemes["bearer"] = {"type": "http", "scheme": "bearer"}
        schema.setdefault("components", {})["securitySchemes"] = schemes
        schema["security"] = [{}, *({name: []} for name in schemes)]
    return app.openapi_schema or schema


def _mount(app: FastAPI, apis: Sequence[Api]) -> None:
    """Add every API's routes; a path that none has is refused in the shape of the nearest."""
    for api in apis:
        app.include_router(api.routes)

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return RedirectResponse("/docs")

    async def refuse(request: Request, error: Exception) -> Response:
        path = request.url.path
        nearest = (api for api in apis if api.owns(path))
        render = next((api.render_error for api in nearest), generate.render_error)
        response = render(as_atelier_error(error), request)
        response.headers.update(getattr(error, "headers", None) or {})  # such as Allow
        return response

    app.add_exception_handler(HTTPException, refuse)
