"""GeminiHost against a loopback server that speaks the REST wire of Gemini."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.errors import AtelierError, Cancelled, ContentRefused, ProviderFailure
from deployments.gemini import NO_KEY, GeminiConfig, GeminiHost
from deployments.types import (
    GenerationRequest,
    GenerationResult,
    OutputFormat,
    Progress,
    SamplingParams,
)
from tests.loopback import serve

KEY = "loopback-key"


class Google:
    """``:generateContent`` with scripted answers; the last one repeats. Keeps what it was asked."""

    def __init__(self, *answers: Response, seconds: float = 0.0) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.most_at_once = 0
        self.asked = asyncio.Event()
        self._at_once = 0
        self._answers = list(answers)
        self._seconds = seconds

    async def __call__(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        self.paths.append(request.url.path)
        self.keys.append(request.headers.get("x-goog-api-key"))
        self.times.append(time.monotonic())
        self.asked.set()
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(self._seconds)
        self._at_once -= 1
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def png(width: int = 96, height: int = 64, colour: str = "red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "PNG")
    return out.getvalue()


def picture(data: bytes | None = None) -> Response:
    inline = {"mimeType": "image/png", "data": base64.b64encode(data or png()).decode()}
    return JSONResponse(
        {
            "candidates": [
                {
                    "content": {
                        "role": "model",
                        "parts": [{"text": "Here it is."}, {"inlineData": inline}],
                    },
                    "finishReason": "STOP",
                }
            ],
            "usageMetadata": {"promptTokenCount": 7, "totalTokenCount": 1297},
            "modelVersion": "gemini-2.5-flash-image",
        }
    )


def failure(code: int, status: str, message: str = "no", **headers: str) -> Response:
    error = {"code": code, "message": message, "status": status}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse({"error": error}, status_code=code, headers=named)


def said(**body: Any) -> Response:
    return JSONResponse(body)


@asynccontextmanager
async def host_of(
    google: Google, monkeypatch: pytest.MonkeyPatch, **fields: Any
) -> AsyncIterator[GeminiHost]:
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)
    app = Starlette(routes=[Route("/{path:path}", google.__call__, methods=["POST"])])
    async with serve(app) as url:
        config = GeminiConfig(base_url=url, retry_seconds=0.05, **fields)
        yield GeminiHost(config, "gemini-flash-image")


def asked(**fields: Any) -> GenerationRequest:
    params = SamplingParams(
        width=fields.pop("width", 64),
        height=fields.pop("height", 64),
        num_images=fields.pop("num_images", 1),
        seed=fields.pop("seed", 5),
    )
    return GenerationRequest(prompt="a red circle", params=params, **fields)


async def run(
    host: GeminiHost, request: GenerationRequest
) -> tuple[list[Progress], GenerationResult]:
    news = [item async for item in host.generate("r1", request)]
    assert isinstance(news[-1], GenerationResult)
    return [item for item in news if isinstance(item, Progress)], news[-1]


async def test_a_picture_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    google = Google(picture())
    async with host_of(google, monkeypatch) as host:
        progress, result = await run(host, asked(negative_prompt="clouds"))
    image = Image.open(io.BytesIO(result.images[0].data))
    assert (image.format, image.size) == ("PNG", (64, 64))
    assert image.getpixel((32, 32)) == (255, 0, 0)
    assert [(news.step, news.num_steps) for news in progress] == [(1, 1)]
    assert result.prompt_tokens == 7
    assert google.paths == ["/v1beta/models/gemini-2.5-flash-image:generateContent"]
    assert google.keys == [KEY]
    [part] = google.bodies[0]["contents"][0]["parts"]
    assert part["text"] == "a red circle\n\nAvoid: clouds"
    assert google.bodies[0]["generationConfig"]["imageConfig"] == {"aspectRatio": "1:1"}
    assert google.bodies[0]["generationConfig"]["seed"] == 5


async def test_input_pictures_go_along_as_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    google = Google(picture())
    async with host_of(google, monkeypatch) as host:
        await run(host, asked(images=(png(colour="blue"), png(colour="green"))))
    *pictures, text = google.bodies[0]["contents"][0]["parts"]
    assert [part["inlineData"]["mime_type"] for part in pictures] == ["image/png"] * 2
    data = base64.urlsafe_b64decode(pictures[0]["inlineData"]["data"])
    sent = Image.open(io.BytesIO(data))
    assert sent.convert("RGB").getpixel((0, 0)) == (0, 0, 255)
    assert text["text"] == "a red circle"


async def test_several_pictures_are_as_many_calls_within_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    google = Google(picture(), seconds=0.1)
    async with host_of(google, monkeypatch, max_concurrency=2) as host:
        progress, result = await run(host, asked(num_images=4))
    assert google.most_at_once == 2
    assert [news.step for news in progress] == [1, 2, 3, 4]
    assert [image.seed for image in result.images] == [5, 6, 7, 8]
    assert sorted(body["generationConfig"]["seed"] for body in google.bodies) == [5, 6, 7, 8]
    assert result.prompt_tokens == 28


@pytest.mark.parametrize(
    ("output_format", "kind"),
    [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")],
    ids=["png", "jpeg", "webp"],
)
async def test_the_picture_has_the_asked_size_and_format(
    output_format: OutputFormat, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    google = Google(picture())
    async with host_of(google, monkeypatch) as host:
        _, result = await run(host, asked(width=112, height=64, output_format=output_format))
    image = Image.open(io.BytesIO(result.images[0].data))
    assert (image.format, image.size) == (kind, (112, 64))
    assert google.bodies[0]["generationConfig"]["imageConfig"] == {"aspectRatio": "16:9"}


@pytest.mark.parametrize(
    "first",
    [failure(429, "RESOURCE_EXHAUSTED"), failure(503, "UNAVAILABLE"), failure(500, "INTERNAL")],
    ids=["429", "503", "500"],
)
async def test_a_passing_fault_is_tried_again(
    first: Response, monkeypatch: pytest.MonkeyPatch
) -> None:
    google = Google(first, picture())
    async with host_of(google, monkeypatch) as host:
        _, result = await run(host, asked())
    assert len(google.bodies) == 2
    assert len(result.images) == 1


async def test_retry_after_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    google = Google(failure(429, "RESOURCE_EXHAUSTED", retry_after="1"), picture())
    async with host_of(google, monkeypatch) as host:
        await run(host, asked())
    assert google.times[1] - google.times[0] >= 1


async def test_googles_own_way_to_say_retry_after_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.6s"}
    error = {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "no", "details": [info]}
    google = Google(JSONResponse({"error": error}, status_code=429), picture())
    async with host_of(google, monkeypatch) as host:
        await run(host, asked())
    assert google.times[1] - google.times[0] >= 0.6


async def test_a_retry_after_beyond_patience_ends_the_tries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    google = Google(failure(429, "RESOURCE_EXHAUSTED", retry_after="3600"))
    async with host_of(google, monkeypatch) as host:
        with pytest.raises(ProviderFailure, match="Quota"):
            await run(host, asked())
    assert len(google.bodies) == 1


@pytest.mark.parametrize(
    ("answer", "error", "message", "num_calls"),
    [
        (failure(503, "UNAVAILABLE"), ProviderFailure, r"Gemini a échoué \(503\)", 4),
        (
            failure(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
            ProviderFailure,
            "Clé API Google invalide ou expirée",
            1,
        ),
        (
            failure(400, "INVALID_ARGUMENT", "API key expired. Please renew the API key."),
            ProviderFailure,
            "Clé API Google invalide ou expirée",
            1,
        ),
        (failure(403, "PERMISSION_DENIED"), ProviderFailure, "Clé API Google invalide", 1),
        (failure(404, "NOT_FOUND"), ProviderFailure, "Modèle Gemini non disponible", 1),
        (failure(400, "INVALID_ARGUMENT"), ProviderFailure, r"échoué \(400\)", 1),
        (said(promptFeedback={"blockReason": "SAFETY"}), ContentRefused, "SAFETY", 1),
        (
            said(candidates=[{"finishReason": "IMAGE_SAFETY", "index": 0}]),
            ContentRefused,
            "IMAGE_SAFETY",
            1,
        ),
        (
            said(candidates=[{"content": {"parts": [{"text": "I cannot draw that."}]}}]),
            ContentRefused,
            "I cannot draw that",
            1,
        ),
        (said(candidates=[]), ProviderFailure, "pas renvoyé d'image", 1),
        (picture(b"no picture"), ProviderFailure, "illisible", 1),
    ],
    ids=[
        "503",
        "invalid key",
        "expired key",
        "forbidden",
        "unknown model",
        "bad request",
        "prompt blocked",
        "picture blocked",
        "words instead",
        "nothing",
        "undecodable",
    ],
)
async def test_failures_are_told_apart(
    answer: Response,
    error: type[AtelierError],
    message: str,
    num_calls: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    google = Google(answer)
    async with host_of(google, monkeypatch) as host:
        with pytest.raises(error, match=message) as caught:
            await run(host, asked())
    assert len(google.bodies) == num_calls
    assert KEY not in caught.value.message


async def test_a_call_that_takes_too_long_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    google = Google(picture(), seconds=2)
    async with host_of(google, monkeypatch, timeout_seconds=0.3) as host:
        started = time.monotonic()
        with pytest.raises(ProviderFailure, match="à temps"):
            await run(host, asked())
        assert time.monotonic() - started < 1.5


async def test_an_address_that_nobody_serves_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)
    config = GeminiConfig(base_url="http://127.0.0.1:9", retry_seconds=0.01, max_attempts=2)
    with pytest.raises(ProviderFailure, match="injoignable"):
        await run(GeminiHost(config, "gemini-flash-image"), asked())


async def test_cancelling_ends_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    google = Google(picture(), seconds=5)
    async with host_of(google, monkeypatch) as host:
        task = asyncio.create_task(run(host, asked(num_images=2)))
        await google.asked.wait()
        assert (await host.load()).work > 0
        assert await host.cancel("r1")
        with pytest.raises(Cancelled):
            await task
        assert (await host.load()).num_running == 0
        assert not await host.cancel("r1")


async def test_closing_the_stream_ends_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    google = Google(picture(), seconds=0.1)
    async with host_of(google, monkeypatch, max_concurrency=1) as host:
        stream = host.generate("r1", asked(num_images=4))
        assert isinstance(await anext(stream), Progress)
        await stream.aclose()  # type: ignore[attr-defined]
        assert (await host.load()).num_running == 0
    assert len(google.bodies) <= 2


async def test_without_a_key_the_card_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    host = GeminiHost(GeminiConfig(), "gemini-flash-image")
    card = await host.card()
    assert (card.modes, card.unavailable) == ((), NO_KEY)
    assert card.has_name("gemini-2.0-flash-exp")
    with pytest.raises(ProviderFailure, match=NO_KEY):
        await run(host, asked())


async def test_the_key_is_read_from_dotenv(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("GOOGLE_API_KEY=from-the-file\n")
    host = GeminiHost(GeminiConfig(), "gemini-flash-image")
    card = await host.card()
    assert (card.modes, card.unavailable) == (("text-to-image", "edit"), "")
    assert (await host.evict()).num_bytes == 0
    await host.check_health()
