"""DescriberHost: the interface of a model's host over one that tells what is on a picture."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from pydantic import Field

from deployments.config import Strict, allowed_device, locate
from deployments.errors import (
    AtelierError,
    Cancelled,
    GenerationFailed,
    InvalidRequest,
    OutOfMemory,
)
from deployments.pictures import decode_image
from deployments.types import (
    Evicted,
    GenerationRequest,
    GenerationResult,
    Holding,
    Load,
    ModelCard,
    Progress,
    SamplingParams,
)

if TYPE_CHECKING:
    from deployments.engine.inline import Runner
    from deployments.families.captioner import Captioner

logger = logging.getLogger(__name__)

#: Seconds between news of one request.
NEWS_SECONDS: Final = 0.1
#: A token that takes longer than this means that the device hangs.
STALLED_SECONDS: Final = 300.0


class DescriberConfig(Strict):
    """A describer's application.

    Attributes:
        weights: a transformers folder in safetensors (relative paths start at the project's root),
            or a Hugging Face hub id, such as ``Salesforce/blip-image-captioning-large``.
        device: ``auto`` takes the GPU when there is one.
        dtype: ``auto`` is float32 on a CPU and bfloat16 on a GPU.
        aliases: further names that requests may use.
        max_new_tokens: the longest text.
        num_beams: texts that are followed side by side; 1 is greedy.
        num_threads: torch's threads on a CPU; None is as many as the replica reserves cores, or,
            if it reserves none, as it may use: set it where several replicas share a node.
    """

    weights: str
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    aliases: tuple[str, ...] = ()
    max_new_tokens: int = Field(48, ge=1, le=1024)
    num_beams: int = Field(1, ge=1, le=16)
    num_threads: int | None = Field(None, ge=1)


@dataclass(slots=True)
class Call:
    """One description: the model's thread counts its tokens, its caller may cancel it.

    Attributes:
        told_at: when its last token came, on the monotonic clock; None before it begins.
    """

    num_tokens: int = 0
    is_cancelled: bool = False
    told_at: float | None = None

    @property
    def is_stalled(self) -> bool:
        """Whether it has begun and tells nothing any more."""
        return self.told_at is not None and time.monotonic() - self.told_at > STALLED_SECONDS

    def count(self, num_tokens: int) -> bool:
        """There are so many tokens; whether to go on."""
        self.num_tokens, self.told_at = num_tokens, time.monotonic()
        return not self.is_cancelled


class DescriberHost:
    """Hosts one image-to-text model, which describes one picture at a time in a thread of its own.

    Args:
        config: the application's arguments.
        model_id: name of the application, the model's id.
        max_ongoing_requests: what the deployment allows, told on the card.
    """

    def __init__(
        self, config: DescriberConfig, model_id: str, max_ongoing_requests: int = 16
    ) -> None:
        started = time.monotonic()
        opened = open_captioner(config)
        self._captioner, self._runner = opened.captioner, opened.runner
        self._device = opened.runner.device
        self._card = make_card(config, opened, model_id, max_ongoing_requests)
        self._thread = ThreadPoolExecutor(1, "describer", initializer=self._runner.open)
        self._calls: dict[str, Call] = {}
        self._running: Call | None = None
        logger.info("model=%s ready in %.1f s", model_id, time.monotonic() - started)

    async def generate(
        self, request_id: str, request: GenerationRequest
    ) -> AsyncIterator[Progress | GenerationResult]:
        """Tokens as steps of progress, then the result with its text.

        Closing the iterator cancels the request at its next token. Raises ``InvalidImage``,
        ``InvalidRequest``, ``Cancelled``, ``OutOfMemory``, ``GenerationFailed``.
        """
        if len(request.images) != 1:
            raise InvalidRequest(
                f"{len(request.images)} pictures to describe; accepted: 1", param="image"
            )
        started = time.monotonic()
        call = self._calls[request_id] = Call()
        loop = asyncio.get_running_loop()
        text = loop.run_in_executor(self._thread, self._describe, request.images[0], call)
        try:
            while not (await asyncio.wait({text}, timeout=NEWS_SECONDS))[0]:
                yield Progress(step=call.num_tokens, num_steps=self._captioner.max_new_tokens)
            yield GenerationResult(
                images=(),
                model=self._card.id,
                seconds=time.monotonic() - started,
                max_batch_rows=1,
                text=text.result(),
            )
        finally:
            call.is_cancelled = True
            text.cancel()
            self._calls.pop(request_id, None)

    async def cancel(self, prefix: str) -> int:
        """Stop requests whose id begins so, at their next token; how many there were."""
        calls = [call for name, call in self._calls.items() if name.startswith(prefix)]
        for call in calls:
            call.is_cancelled = True
        return len(calls)

    async def card(self) -> ModelCard:
        """What this model is."""
        return self._card

    async def load(self) -> Load:
        """How busy this replica is; a token that is still to come counts as one unit of work."""
        calls = self._calls.values()
        num_waiting = sum(call.told_at is None for call in calls)
        return Load(
            num_running=len(calls) - num_waiting,
            num_waiting=num_waiting,
            work=float(sum(self._captioner.max_new_tokens - call.num_tokens for call in calls)),
            weight_bytes=self._captioner.num_bytes,
            holdings=(
                Holding(
                    name="",
                    kind="base",
                    num_bytes=self._captioner.num_bytes,
                    is_used=self._running is not None,
                ),
            ),
            device=self._device,
        )

    async def evict(self) -> Evicted:
        """The one set of weights stays."""
        return Evicted(weights=(), num_bytes=0)

    async def check_health(self) -> None:
        """Raises when the device failed or hangs, so that Serve replaces the replica."""
        if self._runner.is_lost:
            raise AtelierError("the device has failed")
        # NOTE: not among the calls: a caller who has left does not free the device.
        if self._running is not None and self._running.is_stalled:
            raise AtelierError(f"no token has come for {STALLED_SECONDS:.0f} s")

    def close(self) -> None:
        """Stop at the next token; requests in flight end as cancelled."""
        for call in self._calls.values():
            call.is_cancelled = True
        self._thread.shutdown(wait=False)

    def _describe(self, data: bytes, call: Call) -> str:
        """In the model's thread."""
        if not call.count(0):
            raise Cancelled("the request was cancelled")
        image = decode_image(data).convert("RGB")
        self._running = call
        try:
            text: str = self._runner.run(self._captioner.caption, image, call.count)
        except MemoryError as error:
            raise OutOfMemory("the picture does not fit the device's memory") from error
        except Exception as error:
            logger.exception("a picture could not be described")
            raise GenerationFailed("the picture could not be described") from error
        finally:
            self._running = None
        if call.is_cancelled:
            raise Cancelled("the request was cancelled")
        return text


@dataclass(frozen=True, slots=True)
class OpenedCaptioner:
    """A captioner, and on what it runs: torch's device and dtype names."""

    captioner: Captioner
    runner: Runner
    device: str
    dtype: str


def open_captioner(config: DescriberConfig) -> OpenedCaptioner:
    """Load the weights; takes seconds."""
    from deployments.engine.runner import TorchRunner, pick_device, pick_dtype
    from deployments.families.captioner import Captioner

    device = pick_device(allowed_device(config.device))
    dtype = pick_dtype(config.dtype, device)
    captioner = Captioner(
        locate(config.weights),
        device,
        dtype,
        max_new_tokens=config.max_new_tokens,
        num_beams=config.num_beams,
    )
    return OpenedCaptioner(captioner, TorchRunner(device, config.num_threads), device, dtype)


def make_card(
    config: DescriberConfig, opened: OpenedCaptioner, model_id: str, max_ongoing_requests: int
) -> ModelCard:
    """The card: it draws nothing, so that its knobs say nothing."""
    return ModelCard(
        id=model_id,
        family="describer",
        modes=("describe",),
        defaults=SamplingParams(
            width=512,
            height=512,
            num_inference_steps=1,
            guidance_scale=1.0,
            strength=1.0,
            scheduler="",
            sigmas="",
        ),
        aliases=config.aliases,
        device=opened.device,
        dtype=opened.dtype,
        max_ongoing_requests=max_ongoing_requests,
        created=int(time.time()),
    )
