"""GeminiHost: the interface of a model's host over Google's Gemini API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from io import BytesIO
from typing import Final

import numpy as np
from PIL import Image, ImageOps

from deployments.config import variable
from deployments.engine.state import picture_seed
from deployments.errors import Cancelled, InvalidImage, ProviderFailure
from deployments.gemini_api import Drawing, Gemini, GeminiConfig
from deployments.pictures import decode_image, encode
from deployments.types import (
    Evicted,
    GeneratedImage,
    GenerationRequest,
    GenerationResult,
    Load,
    ModelCard,
    Progress,
    SamplingParams,
)

__all__ = ["GeminiConfig", "GeminiHost"]

NO_KEY: Final = "Clé API Google non configurée"

#: Longest side of an input picture as it is sent, in pixels: requests are bounded at 20 MB.
MAX_INPUT_SIZE: Final = 2048
#: What ``Load.work`` counts for a picture: the tokens of 1024 x 1024 pixels.
PICTURE_WORK: Final = 4096.0


class GeminiHost:
    """Hosts Gemini as one more model; without its key it is known, but serves nothing.

    Args:
        config: the application's arguments.
        model_id: name of the application, the model's id.
    """

    def __init__(self, config: GeminiConfig, model_id: str) -> None:
        api_key = variable(config.api_key_env)
        self._unavailable = why_unavailable(api_key)
        self._card = make_card(config, model_id, self._unavailable)
        self._gemini = Gemini(config, api_key)
        self._slots = asyncio.Semaphore(config.max_concurrency)
        self._tasks: dict[str, list[asyncio.Task[Drawing]]] = {}

    async def generate(
        self, request_id: str, request: GenerationRequest
    ) -> AsyncIterator[Progress | GenerationResult]:
        """A step of progress per picture, then the result. Closing the iterator cancels."""
        if self._unavailable:
            raise ProviderFailure(self._unavailable)
        started = time.monotonic()
        num_images = request.params.num_images
        inputs = [await asyncio.to_thread(prepare_input, data) for data in request.images]
        tasks = [
            asyncio.create_task(self._draw(request, index, inputs)) for index in range(num_images)
        ]
        self._tasks[request_id] = tasks
        try:
            for num_done, ended in enumerate(asyncio.as_completed(tasks), 1):
                await ended
                yield Progress(step=num_done, num_steps=num_images)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise Cancelled("the request was cancelled") from None
        finally:
            self._tasks.pop(request_id, None)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        drawings = [task.result() for task in tasks]
        yield GenerationResult(
            images=tuple(
                [
                    await asyncio.to_thread(finish, request, index, drawing.data)
                    for index, drawing in enumerate(drawings)
                ]
            ),
            model=self._card.id,
            seconds=time.monotonic() - started,
            prompt_tokens=sum(drawing.prompt_tokens for drawing in drawings),
        )

    async def cancel(self, prefix: str) -> int:
        """Stop requests whose id begins so; their calls are dropped. How many there were."""
        ids = [request_id for request_id in self._tasks if request_id.startswith(prefix)]
        for request_id in ids:
            for task in self._tasks[request_id]:
                task.cancel()
        return len(ids)

    async def card(self) -> ModelCard:
        """What this model is; ``unavailable`` says why it cannot serve."""
        return self._card

    async def load(self) -> Load:
        """Pictures under way; each counts as one of 1024 x 1024 pixels."""
        num_left = sum(not task.done() for tasks in self._tasks.values() for task in tasks)
        return Load(num_running=len(self._tasks), num_waiting=0, work=num_left * PICTURE_WORK)

    async def evict(self) -> Evicted:
        """There are no weights here."""
        return Evicted(weights=(), num_bytes=0)

    async def check_health(self) -> None:
        """Google's faults are not this replica's: it is always well."""

    async def _draw(
        self, request: GenerationRequest, index: int, inputs: Sequence[bytes]
    ) -> Drawing:
        async with self._slots:
            return await self._gemini.draw(request, index, inputs)


def why_unavailable(api_key: str) -> str:
    """Why Gemini cannot serve; empty when it can."""
    return "" if api_key else NO_KEY


def make_card(config: GeminiConfig, model_id: str, unavailable: str) -> ModelCard:
    """The card. A picture is one step, as far as anyone can see from here."""
    limits = config.limits
    return ModelCard(
        id=model_id,
        family="gemini",
        modes=() if unavailable else ("text-to-image", "edit"),
        defaults=SamplingParams(
            width=config.width,
            height=config.height,
            num_inference_steps=1,
            guidance_scale=1.0,
            strength=1.0,
            scheduler="",
            sigmas="",
        ),
        aliases=config.aliases,
        min_size=limits.min_size,
        max_size=limits.max_size,
        max_pixels=limits.max_pixels,
        max_input_images=limits.max_input_images,
        max_num_inference_steps=limits.max_num_inference_steps,
        device="remote",
        dtype="remote",
        max_ongoing_requests=config.max_concurrency,
        created=int(time.time()),
        unavailable=unavailable,
    )


def prepare_input(data: bytes) -> bytes:
    """An input picture as it is sent: upright PNG in sRGB, bounded. Raises ``InvalidImage``."""
    image = decode_image(data)
    image.thumbnail((MAX_INPUT_SIZE, MAX_INPUT_SIZE))
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def finish(request: GenerationRequest, index: int, data: bytes) -> GeneratedImage:
    """The API's picture, cropped and scaled to the asked size, in the asked format."""
    params = request.params
    try:
        image = decode_image(data).convert("RGB")
    except InvalidImage as error:
        raise ProviderFailure("Gemini a renvoyé une image illisible") from error
    size = (params.width or image.width, params.height or image.height)
    if image.size != size:
        image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
    texts = request.texts[index] if index < len(request.texts) else ()
    return GeneratedImage(
        data=encode(pixels, request.output_format, request.output_quality, texts),
        seed=picture_seed(request, index),
        width=size[0],
        height=size[1],
        format=request.output_format,
    )
