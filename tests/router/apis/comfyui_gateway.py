"""A whole gateway on a real socket for ComfyUI's clients, over fake models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx

from deployments.types import ModelCard, SamplingParams
from router.app import gateway
from router.fake_models import FakeModels, fake_card
from router.settings import Settings
from tests.router.apis.conftest import served
from tests.router.apis.sdapi_gateway import SCHEDULERS, SIGMAS

DEFAULTS = SamplingParams(
    width=512,
    height=512,
    num_inference_steps=4,
    guidance_scale=1.0,
    strength=0.8,
    scheduler="Euler",
    sigmas="normal",
)
SDXL = fake_card(
    "sdxl-turbo",
    schedulers=SCHEDULERS,
    sigmas=SIGMAS,
    defaults=DEFAULTS,
    max_input_images=1,
)
QWEN = replace(
    SDXL,
    id="qwen-image-edit",
    aliases=("Qwen-Image-Edit-2509", "Qwen-Image-Edit-2509-FP8", "qwen"),
    modes=("text-to-image", "image-to-image", "inpainting", "edit"),
    max_input_images=3,
)


@dataclass(kw_only=True)
class Served:
    """A running gateway: its address, plain HTTP to it, and the fakes behind it."""

    url: str
    http: httpx.Client
    models: FakeModels


@contextmanager
def comfyui_gateway(
    *cards: ModelCard, step_seconds: float = 0.02, **settings: Any
) -> Iterator[Served]:
    """Serves as long as the context is open."""
    models = FakeModels(*(cards or (SDXL, QWEN)), step_seconds=step_seconds)
    memory = {"database_url": "memory://", "images_url": "memory://"}
    app = gateway(Settings.from_args(memory | settings), models)
    with served(app) as url, httpx.Client(base_url=url, timeout=30, trust_env=False) as http:
        yield Served(url=url, http=http, models=models)
