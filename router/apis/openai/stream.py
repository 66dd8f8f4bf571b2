"""Server-sent events of one job: previews while it runs, then each picture, or the error."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from PIL import Image
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.errors import AtelierError
from router.apis.openai.bodies import Streamed
from router.apis.openai.render import encode, error_object, usage
from router.apis.route import as_atelier_error
from router.job import Job, JobProgress
from router.service import GenerationService, raise_unless_completed

#: The first half of an event's name. The SDK mistakes generations' names on the edits route.
Subject: TypeAlias = Literal["image_generation", "image_edit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventStream:
    """The events of a job: at most ``partial_images`` partial ones, then one completed a picture.

    OpenAI: an ``event:`` line with the type, a ``data:`` line with JSON that repeats it; a failure
    midway is ``{"error": ...}``. There is no closing ``[DONE]``.
    """

    service: GenerationService
    job: Job
    subject: Subject
    body: Streamed

    async def events(self) -> AsyncGenerator[str]:
        """The stream's text, event by event."""
        try:
            async with aclosing(self._news()) as news:
                async for event in news:
                    yield event
        except Exception as error:
            yield _event("error", {"error": error_object(as_atelier_error(error))})

    async def cancel(self) -> None:
        """Cancel the job, unless it has ended."""
        await self.service.cancel(self.job.id, owner=self.job.owner)

    async def _news(self) -> AsyncGenerator[str]:
        num_sent = num_seen = 0
        async for news in self.service.watch(self.job.id):
            if isinstance(news, Job):
                async for event in self._completed(raise_unless_completed(news)):
                    yield event
                return
            if news.num_previews > num_seen and num_sent < (self.body.partial_images or 0):
                num_seen = news.num_previews
                with suppress(AtelierError):  # a preview less harms nobody
                    yield await self._partial(news, num_sent)
                    num_sent += 1

    async def _partial(self, news: JobProgress, index: int) -> str:
        params = self.job.requests[0].request.params
        width, height = params.width or 0, params.height or 0
        output_format = self.body.output_format or "png"
        data = await asyncio.to_thread(
            fit_preview, news.preview or b"", (width, height), output_format
        )
        about = self._about(f"{width}x{height}", data)
        return self._event("partial_image", {**about, "partial_image_index": index})

    async def _completed(self, job: Job) -> AsyncIterator[str]:
        for index, image in enumerate(job.images):
            data = await self.service.image(job, index)
            about = self._about(f"{image.width}x{image.height}", data)
            yield self._event(
                "completed", {**about, "usage": usage(job, [image]), "seed": image.seed}
            )

    def _about(self, size: str, data: bytes) -> dict[str, Any]:
        """What both events say. Here, unlike in plain answers, strict clients allow ``auto``."""
        quality = self.body.quality
        return {
            "b64_json": encode(data),
            "created_at": int(time.time()),
            "size": size,
            "quality": "auto" if quality in (None, "standard", "hd") else quality,
            "background": "opaque",
            "output_format": self.body.output_format or "png",
        }

    def _event(self, kind: str, data: dict[str, Any]) -> str:
        name = f"{self.subject}.{kind}"
        return _event(name, {"type": name, **data})


class EventResponse(StreamingResponse):
    """Sends a job's events. A caller that leaves early, even before the first, cancels the job.

    Args:
        is_awaited: the caller gave an idempotency key and may come back, so its leave is no cancel.
    """

    def __init__(
        self, stream: EventStream, *, headers: Mapping[str, str], is_awaited: bool
    ) -> None:
        self._stream, self._events = stream, stream.events()
        self._is_awaited = is_awaited
        self._has_ended = False
        headers = {**headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(self._events, media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if not (self._has_ended or self._is_awaited):
                # NOTE: who cancels this call may do it again while it waits here.
                await asyncio.shield(self._stream.cancel())

    async def stream_response(self, send: Send) -> None:
        """Send all events. Whatever breaks it off, the job is no longer watched."""
        async with aclosing(self._events):
            await super().stream_response(send)
        self._has_ended = True


def fit_preview(data: bytes, size: tuple[int, int], output_format: str) -> bytes:
    """A preview in the size and format of the picture that it announces."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.size == size and output_format == "jpeg":
                return data
            out = io.BytesIO()
            options = {"compress_level": 1} if output_format == "png" else {"quality": 80}
            image.convert("RGB").resize(size).save(out, output_format.upper(), **options)
            return out.getvalue()
    except (OSError, ValueError, SyntaxError) as error:
        raise AtelierError("a preview could not be drawn") from error


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=True)}\n\n"
