"""A live gateway in this process: an API's routes over fake models, behind a real HTTP server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from deployments.types import ModelCard
from router.apis import openai
from router.apis.openai.routes import Fetch
from router.apis.route import RenderError, as_atelier_error
from router.auth import Authenticator
from router.fake_models import FakeModels, fake_card
from router.job import Job
from router.service import GenerationService
from router.store.memory_jobs import MemoryJobStore
from tests.router.making import running

MakeRoutes = Callable[[GenerationService, Authenticator], APIRouter]


@dataclass(kw_only=True)
class Gateway:
    """A running gateway: its address, and the fakes behind it."""

    models: FakeModels
    api_key: str = ""
    max_queued_jobs: int = 1000
    jobs_store: MemoryJobStore = field(default_factory=MemoryJobStore)
    url: str = ""

    @property
    def jobs(self) -> list[Job]:
        """Every job, oldest first."""
        return [record.job for record in self.jobs_store.records.values()]

    def app(self, make_routes: MakeRoutes, render_error: RenderError) -> FastAPI:
        """The ASGI application; its loop starts the dispatcher."""

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            async with running(
                self.models, jobs=self.jobs_store, max_queued_jobs=self.max_queued_jobs
            ) as inside:
                auth = Authenticator(api_key=self.api_key)
                app.include_router(make_routes(inside.service, auth))
                yield

        async def refuse(request: Request, error: Exception) -> Response:
            return render_error(as_atelier_error(error), request)

        app = FastAPI(lifespan=lifespan)
        app.add_exception_handler(HTTPException, refuse)
        return app


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The application on a free port of the loopback; yields its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        wait_until(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


@contextmanager
def openai_gateway(
    *cards: ModelCard,
    step_seconds: float = 0.0,
    api_key: str = "",
    max_queued_jobs: int = 1000,
    fetch: Fetch | None = None,
    models: FakeModels | None = None,
) -> Iterator[Gateway]:
    """A gateway that speaks ``/v1``."""
    models = models or FakeModels(*(cards or (fake_card(),)), step_seconds=step_seconds)
    gateway = Gateway(models=models, api_key=api_key, max_queued_jobs=max_queued_jobs)

    def make_routes(service: GenerationService, auth: Authenticator) -> APIRouter:
        return openai.routes(service, auth, fetch=fetch)

    with served(gateway.app(make_routes, openai.render_error)) as url:
        gateway.url = url
        yield gateway


def wait_until(is_true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something to become true; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.01)


def hang_up(models: FakeModels, url: str, **body: Any) -> None:
    """Post a body, as httpx takes it, and close the connection once a model works on it.

    A call that is cancelled before reaches no model, which then has nothing to stop.
    """
    num_before = len(models.calls)
    request = httpx.Request("POST", url, **body)
    connection = HTTPConnection(request.url.host, request.url.port)
    try:
        connection.request("POST", request.url.path, request.read(), dict(request.headers))
        wait_until(lambda: len(models.calls) > num_before)
    finally:
        connection.close()


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """A gateway with two models and no key."""
    plain = fake_card()
    named = fake_card(
        "sd15-dreambooth", aliases=("Zhurah/sd15-dreambooth-photoai",), max_input_images=1
    )
    with openai_gateway(plain, named) as running_gateway:
        yield running_gateway


@pytest.fixture
def http(gateway: Gateway) -> Iterator[httpx.Client]:
    """Plain HTTP to the gateway."""
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        yield client
