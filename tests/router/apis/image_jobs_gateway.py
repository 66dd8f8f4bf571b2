"""A gateway of image jobs alone, on a loopback socket, over fake models and in-memory stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
from fastapi import FastAPI, Request
from starlette.responses import Response

from deployments.types import ModelCard
from router.apis import image_jobs
from router.apis.image_jobs_wire import render_webhook
from router.auth import Authenticator
from router.fake_models import FakeModels, fake_card
from router.fetch import Fetcher
from router.store.memory_deliveries import MemoryDeliveryStore
from router.store.memory_jobs import MemoryJobStore
from router.webhooks import Webhooks
from tests.loopback import serve
from tests.router.making import Inside, running

LOOPBACK = ("127.0.0.0/8",)
#: The model that serves when nothing else is asked.
SDXL = fake_card("sdxl-turbo")
QWEN = fake_card("qwen-image-edit", modes=("edit",))
NO_KEY = fake_card(
    "gemini-flash-image",
    family="gemini",
    modes=(),
    aliases=("gemini-2.0-flash-exp",),
    unavailable="Clé API Google non configurée",
)
GEMINI = fake_card(
    "gemini-flash-image",
    family="gemini",
    modes=("text-to-image", "edit"),
    aliases=("gemini-2.0-flash-exp",),
)


@dataclass
class Gateway:
    """The running gateway: its address, a client of it, and what lies behind."""

    url: str
    http: httpx.AsyncClient
    inside: Inside
    models: FakeModels
    webhooks: Webhooks

    async def submit(self, prompt: str = "a red circle", **fields: Any) -> str:
        response = await self.http.post("/api/images/generate", json={"prompt": prompt, **fields})
        assert response.status_code == 200, response.text
        job_id: str = response.json()["job_id"]
        return job_id

    async def ended(self, job_id: str) -> dict[str, Any]:
        async for _ in self.inside.service.watch(job_id):
            pass
        body: dict[str, Any] = (await self.http.get(f"/api/images/result/{job_id}")).json()
        return body


@asynccontextmanager
async def gateway(
    *cards: ModelCard,
    api_key: str = "",
    user: str = "",
    step_seconds: float = 0.0,
    fetcher: Fetcher | None = None,
    public_url: str = "",
    **webhook_fields: Any,
) -> AsyncIterator[Gateway]:
    """Serves as long as the context is open; ``user`` signs in with the key by Basic."""
    models = FakeModels(*(cards or (SDXL,)), step_seconds=step_seconds)
    jobs = MemoryJobStore()
    fetcher = fetcher or Fetcher(allow=LOOPBACK, timeout=5)
    auth = httpx.BasicAuth(user, api_key) if user else None
    async with running(models, jobs=jobs) as inside:
        webhooks = Webhooks(
            deliveries=MemoryDeliveryStore(jobs),
            fetcher=fetcher,
            render=partial(render_webhook, environment="development", public_url=public_url),
            **webhook_fields,
        )
        webhooks.start()
        routes = image_jobs.routes(
            inside.service,
            Authenticator(api_key=api_key),
            fetcher=fetcher,
            webhooks=webhooks,
            public_url=public_url,
        )
        app = FastAPI()
        app.include_router(routes)
        async with (
            serve(app) as url,
            httpx.AsyncClient(base_url=url, auth=auth, trust_env=False) as http,
        ):
            yield Gateway(url, http, inside, models, webhooks)
        await webhooks.stop()


@dataclass
class Receiver:
    """A webhook receiver that answers with scripted statuses; the last one repeats."""

    statuses: Sequence[int] = (200,)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/{path:path}")
        async def receive(request: Request) -> Response:
            self.bodies.append(await request.body())
            self.headers.append(dict(request.headers))
            place = min(len(self.bodies), len(self.statuses)) - 1
            return Response(status_code=self.statuses[place])

        return app
