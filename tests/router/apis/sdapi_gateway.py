"""A whole gateway on a real socket for A1111's clients, over fake models that letter their PNGs."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
from PIL import Image, PngImagePlugin

from deployments.types import (
    GeneratedImage,
    GenerationRequest,
    GenerationResult,
    ModelCard,
    Progress,
    SamplingParams,
)
from router.app import gateway
from router.fake_models import FakeModels, fake_card
from router.settings import Settings
from tests.router.apis.conftest import served
from tests.router.apis.drawing import picture

SCHEDULERS = (
    *("Euler", "Euler a", "Heun", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ SDE", "DDIM", "DDPM"),
    *("PNDM", "LMS", "UniPC", "LCM", "DEIS", "TCD"),
)
SIGMAS = ("normal", "karras", "exponential", "beta", "sgm_uniform", "simple", "trailing")
DEFAULTS = SamplingParams(
    width=64,
    height=64,
    num_inference_steps=4,
    guidance_scale=1.0,
    strength=0.8,
    scheduler="Euler",
    sigmas="trailing",
)
SDXL = fake_card(
    "sdxl-turbo",
    aliases=("turbovisionxlSuperFastXLBasedOnNew",),
    schedulers=SCHEDULERS,
    sigmas=SIGMAS,
    defaults=DEFAULTS,
    max_input_images=1,
)
SD15 = replace(SDXL, id="sd15-dreambooth", aliases=())
#: As base64, a flat picture of 96 x 64.
PICTURE = base64.b64encode(picture()).decode()


class LetteringModels(FakeModels):
    """Fake models whose pictures carry the request's texts, as the engine's do."""

    async def generate(
        self, model: str, request_id: str, request: GenerationRequest
    ) -> AsyncIterator[Progress | GenerationResult]:
        async for news in super().generate(model, request_id, request):
            if isinstance(news, GenerationResult):
                lettered = tuple(
                    _letter(image, request.texts[k] if request.texts else ())
                    for k, image in enumerate(news.images)
                )
                yield replace(news, images=lettered)
            else:
                yield news


@dataclass(kw_only=True)
class Served:
    """A running gateway: its address, plain HTTP to it, and the fakes behind it."""

    url: str
    http: httpx.Client
    models: FakeModels

    @property
    def port(self) -> int:
        port = httpx.URL(self.url).port
        assert port is not None
        return port

    def get(self, path: str, **params: Any) -> Any:
        response = self.http.get(path, params=params)
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, path: str, **body: Any) -> Any:
        response = self.http.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    def refused(self, path: str, **body: Any) -> httpx.Response:
        """The refusal of a POST, in A1111's shape."""
        response = self.http.post(path, json=body)
        assert response.status_code >= 400, response.text
        assert set(response.json()) == {"error", "detail", "body", "errors"}
        return response


@contextmanager
def sdapi_gateway(
    *cards: ModelCard, step_seconds: float = 0.0, user: str = "", **settings: Any
) -> Iterator[Served]:
    """Serves as long as the context is open; ``user`` signs in with the key by Basic."""
    models = LetteringModels(*(cards or (SDXL, SD15)), step_seconds=step_seconds)
    memory = {"database_url": "memory://", "images_url": "memory://"}
    app = gateway(Settings.from_args(memory | settings), models)
    auth = (user, settings["api_key"]) if user else None
    with (
        served(app) as url,
        httpx.Client(base_url=url, timeout=30, auth=auth, trust_env=False) as http,
    ):
        yield Served(url=url, http=http, models=models)


def _letter(image: GeneratedImage, texts: tuple[tuple[str, str], ...]) -> GeneratedImage:
    if image.format != "png":
        return image
    info = PngImagePlugin.PngInfo()
    for keyword, text in texts:
        info.add_text(keyword, text)
    out = io.BytesIO()
    Image.open(io.BytesIO(image.data)).save(out, "PNG", pnginfo=info)
    return replace(image, data=out.getvalue())
