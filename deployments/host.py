"""ModelHost: one replica of one model. The engine inside, Ray Serve's calls outside."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from deployments.config import LiveConfig, ModelConfig
from deployments.engine.events import Event, Failed, Finished, Picture, Stepped
from deployments.errors import AtelierError, Cancelled
from deployments.opening import NOTHING, Reserved, make_card, open_engine
from deployments.pictures import encode, encode_preview, shrink
from deployments.types import (
    CheckedWeights,
    Evicted,
    GeneratedImage,
    GenerationRequest,
    GenerationResult,
    Latents,
    Load,
    ModelCard,
    Progress,
    WeightsSource,
)

if TYPE_CHECKING:
    from deployments.families.lora import Loras

logger = logging.getLogger(__name__)

#: Seconds between news of one request; a preview or the end never waits.
NEWS_SECONDS = 0.1
#: Seconds between looks at the folder of LoRAs.
LOOK_SECONDS = 1.0
#: A step that takes longer than this means that the device hangs.
STALLED_SECONDS = 300.0


class ModelHost:
    """Hosts one model. Everything blocking happens in the engine's thread or in a pool's.

    Args:
        config: the application's arguments.
        model_id: name of the application, the model's id.
        max_ongoing_requests: what the deployment allows, told on the card.
        reserved: what the deployment reserved of memory.
    """

    def __init__(
        self,
        config: ModelConfig,
        model_id: str,
        max_ongoing_requests: int = 16,
        reserved: Reserved = NOTHING,
    ) -> None:
        started = time.monotonic()
        opened = open_engine(config, reserved)
        self._config = config
        self._engine = opened.engine
        self._family = opened.family
        self._reference_side = opened.family.reference_side
        self._ongoing: set[str] = set()
        self._live_loras: tuple[dict[str, str], str | None] = {}, None
        self._looked_at = 0.0
        self._card = make_card(config, opened, model_id, max_ongoing_requests)
        logger.info("model=%s ready in %.1f s", model_id, time.monotonic() - started)

    async def generate(
        self, request_id: str, request: GenerationRequest
    ) -> AsyncIterator[Progress | GenerationResult]:
        """News of the request, then its result.

        Closing the iterator cancels the request at its next step. Raises the request's
        ``AtelierError``.
        """
        loop = asyncio.get_running_loop()
        mailbox: asyncio.Queue[Event] = asyncio.Queue()
        started = told_at = time.monotonic()

        def listen(event: Event) -> None:
            # NOTE: in the engine's thread, which loses time to this loop whenever it wakes it: so
            # what is not worth telling ends here.
            nonlocal told_at
            if isinstance(event, Stepped):
                now = time.monotonic()
                if event.preview is None and now - told_at <= NEWS_SECONDS:
                    return
                told_at = now
            loop.call_soon_threadsafe(mailbox.put_nowait, event)

        self._ongoing.add(request_id)
        try:
            request = await self._prepare(request)
            if request_id not in self._ongoing:
                raise Cancelled("the request was cancelled")
            self._engine.add(request_id, request, listen)
            while True:
                event = await mailbox.get()
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Finished):
                    yield await self._result(request, event, started)
                    return
                yield await _progress(event)
        finally:
            self._ongoing.discard(request_id)
            self._engine.cancel(request_id)

    async def cancel(self, prefix: str) -> int:
        """Stop requests whose id begins so, at their next step; how many there were."""
        ids = {request_id for request_id in self._ongoing if request_id.startswith(prefix)}
        self._ongoing -= ids
        for request_id in ids:
            self._engine.cancel(request_id)
        return len(ids)

    async def card(self) -> ModelCard:
        """What this model is and accepts, with the LoRAs that lie in its folder now."""
        if self._family.loras is not None:
            await asyncio.to_thread(self._look, self._family.loras)
        return self._card

    @property
    def resident_weights(self) -> tuple[str, ...]:
        """Names of the weights in memory, as requests give them: sources by their ids."""
        names = self._engine.load().resident_weights
        sources = self._family.sources
        return names if sources is None else tuple(map(sources.name_of, names))

    async def load(self) -> Load:
        """How busy this replica is, and how full; weights by the names that requests give."""
        load, sources = self._engine.load(), self._family.sources
        if sources is None:
            return load
        holdings = tuple(
            replace(one, name=sources.name_of(one.name)) if one.kind == "personal" else one
            for one in load.holdings
        )
        return replace(load, holdings=holdings)

    async def evict(self) -> Evicted:
        """Drop weights that no request uses; they come back at the next request."""
        return await asyncio.to_thread(self._evict)

    def configure(self, live: LiveConfig) -> None:
        """Change what can change while requests run; those in flight keep what they have.

        Raises ``ValueError`` when the model hosts no personal weights, or LoRAs, and is to, or when
        a LoRA is not there or does not fit; then its LoRAs stay as they were.
        """
        self._configure_weights(live)
        self._configure_loras(live)

    def _configure_weights(self, live: LiveConfig) -> None:
        sources = self._family.sources
        if sources is None:
            if live.personal:
                raise ValueError("this model hosts no personal weights")
            return
        sources.configure({**self._config.personal, **live.personal})
        digests = sources.digests
        self._card = replace(self._card, weights=sources.names, weights_digests=digests)

    def _configure_loras(self, live: LiveConfig) -> None:
        loras, asked = self._family.loras, (live.loras, live.lora_folder)
        if loras is None:
            if any(asked):
                raise ValueError("this model takes no LoRAs")
            return
        if asked == self._live_loras:
            return
        folder = self._config.lora_folder if live.lora_folder is None else live.lora_folder
        loras.configure({**self._config.loras, **live.loras}, folder)
        self._live_loras = asked
        self._tell_loras(loras)

    def _look(self, loras: Loras) -> None:
        """Look for new LoRAs, not more often than is worth while."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            loras.look()
            self._tell_loras(loras)

    def _tell_loras(self, loras: Loras) -> None:
        digests = loras.shelf.digests
        self._card = replace(self._card, loras=loras.names, lora_digests=digests)

    async def check_weights(self, source: WeightsSource, max_bytes: int) -> CheckedWeights:
        """What a source of weights holds for this model; see ``Family.check_weights``."""
        return await asyncio.to_thread(self._family.check_weights, source, max_bytes)

    async def check_health(self) -> None:
        """Raises when the engine's thread died or hangs, so that Serve replaces the replica."""
        if not self._engine.is_alive:
            raise AtelierError("the engine's thread has died")
        if self._engine.seconds_since_step > STALLED_SECONDS:
            raise AtelierError(f"no step has ended for {STALLED_SECONDS:.0f} s")

    def close(self) -> None:
        """Stop the engine; requests in flight end as cancelled."""
        self._engine.stop()

    async def _result(
        self, request: GenerationRequest, finished: Finished, started: float
    ) -> GenerationResult:
        images = await asyncio.gather(
            *(
                asyncio.to_thread(_encode, request, index, picture)
                for index, picture in enumerate(finished.pictures)
            )
        )
        return GenerationResult(
            images=tuple(images),
            latents=self._latents(request, finished),
            model=self._card.id,
            seconds=time.monotonic() - started,
            prompt_tokens=finished.prompt_tokens,
            max_batch_rows=finished.max_batch_rows,
        )

    async def _prepare(self, request: GenerationRequest) -> GenerationRequest:
        """The request as the engine takes it, and what it needs besides in memory."""
        if self._family.sources is not None:
            request = self._family.sources.resolve(request)
        if request.images or request.mask:
            request = await asyncio.to_thread(_shrunk, request, self._reference_side)
        if request.all_loras:
            read = partial(self._family.prepare, request)
            await asyncio.to_thread(self._engine.prepare, request.weights, request.all_loras, read)
        return request

    def _evict(self) -> Evicted:
        others, weights = self._family.evict(), self._engine.evict()
        return Evicted(
            weights=weights.weights + others.weights,
            num_bytes=weights.num_bytes + others.num_bytes,
        )

    def _latents(self, request: GenerationRequest, finished: Finished) -> Latents | None:
        array = finished.latents
        if array is None:
            return None
        return Latents(
            num_images=len(array),
            width=request.params.width or 0,
            height=request.params.height or 0,
            value=array,
            family=self._card.family,
            num_bytes=array.nbytes,
        )


async def _progress(stepped: Stepped) -> Progress:
    progress = Progress(
        step=stepped.step, num_steps=stepped.num_steps, preview_index=stepped.preview_index
    )
    if stepped.preview is None:
        return progress
    return replace(progress, preview=await asyncio.to_thread(encode_preview, stepped.preview))


def _shrunk(request: GenerationRequest, reference_side: int) -> GenerationRequest:
    """With very large inputs made smaller, unless they are needed at their own size."""
    width, height = request.params.width, request.params.height
    is_needed = request.is_latent_resize or (request.mask and request.mask_padding is not None)
    if is_needed or width is None or height is None:
        return request
    width, height = max(width, reference_side), max(height, reference_side)
    images = tuple(shrink(data, width, height) for data in request.images)
    mask = None if request.mask is None else shrink(request.mask, width, height)
    return replace(request, images=images, mask=mask)


def _encode(request: GenerationRequest, index: int, picture: Picture) -> GeneratedImage:
    height, width = picture.pixels.shape[:2]
    texts = request.texts[index] if index < len(request.texts) else ()
    return GeneratedImage(
        data=encode(picture.pixels, request.output_format, request.output_quality, texts),
        seed=picture.seed,
        width=width,
        height=height,
        format=request.output_format,
    )
