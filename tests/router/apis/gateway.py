"""A whole gateway in this process: the real builder over fake models and in-memory stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from router.app import gateway
from router.fake_models import FakeModels, fake_card
from router.settings import Settings


def fake_models(step_seconds: float = 0.0) -> FakeModels:
    """The two models of the embedded default, faked."""
    return FakeModels(
        fake_card("sdxl-turbo", aliases=("turbovisionxlSuperFastXLBasedOnNew",)),
        fake_card(
            "sd15-dreambooth",
            aliases=("Zhurah/sd15-dreambooth-photoai",),
            weights=("default", "user_123"),
        ),
        step_seconds=step_seconds,
    )


@asynccontextmanager
async def serving(
    models: FakeModels | None = None, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of a gateway that runs as long as the context is open."""
    memory = {"database_url": "memory://", "images_url": "memory://"}
    app = gateway(Settings.from_args(memory | settings), models or fake_models())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://gateway") as client,
    ):
        yield client
