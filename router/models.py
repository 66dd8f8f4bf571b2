"""Models: the hosted models that the gateway can call, and a fake of them for tests."""

from __future__ import annotations

import asyncio
import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from deployments.errors import UnknownModel
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


class WorkerDied(Exception):
    """The replica that ran a request died; the request itself may be fine."""


class WorkerUnavailable(Exception):
    """No replica could take the request just now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """A configured model: its card once known, and how many replicas run."""

    id: str
    card: ModelCard | None
    num_replicas: int
    message: str = ""

    @property
    def is_starting(self) -> bool:
        """Whether the model has yet to say what it is, and may still."""
        return self.card is None and self.message != "DEPLOY_FAILED"

    @property
    def is_ready(self) -> bool:
        """Whether a request would find a running replica."""
        return self.card is not None and self.num_replicas > 0


class Models(ABC):
    """Every configured model of the cluster."""

    def start(self) -> None:  # noqa: B027 - fakes have nothing to start
        """Begin to follow the cluster, within the running event loop."""

    def stop(self) -> None:  # noqa: B027
        """Stop following it."""

    @abstractmethod
    def statuses(self) -> Sequence[ModelStatus]:
        """What is configured, as last seen; in the order of their ids."""

    @abstractmethod
    def generate(
        self, model: str, request_id: str, request: GenerationRequest
    ) -> AsyncIterator[Progress | GenerationResult]:
        """Progress, then one result. Closing the iterator cancels the work.

        Raises ``WorkerDied``, ``WorkerUnavailable``, or the host's own ``AtelierError``.
        """

    @abstractmethod
    async def cancel(self, model: str, prefix: str) -> None:
        """Stop every request of a model whose id begins so, on whichever replica it runs.

        For requests whose caller died: nobody closes their iterators.
        """

    @abstractmethod
    async def loads(self) -> Mapping[str, Load]:
        """How busy each ready model is, its replicas summed."""

    @abstractmethod
    async def evict(self) -> Evicted:
        """Drop idle weights on every replica of every model."""

    def cards(self) -> tuple[ModelCard, ...]:
        """The cards of the models that have started and can serve."""
        cards = (status.card for status in self.statuses())
        return tuple(card for card in cards if card is not None and not card.unavailable)

    @property
    def are_ready(self) -> bool:
        """Whether every configured model has a running replica, and there is one."""
        statuses = self.statuses()
        return bool(statuses) and all(status.is_ready for status in statuses)


class FakeModels(Models):
    """Models that live in this process and draw one flat colour per seed and prompt.

    A prompt that holds ``fail:worker`` raises ``WorkerDied``, ``fail:busy`` ``WorkerUnavailable``.
    Every call is kept in ``calls``.
    """

    def __init__(self, *cards: ModelCard, step_seconds: float = 0.0) -> None:
        self.calls: list[GenerationRequest] = []
        self.cancelled: list[str] = []
        self._statuses = tuple(ModelStatus(id=card.id, card=card, num_replicas=1) for card in cards)
        self._step_seconds = step_seconds

    def statuses(self) -> Sequence[ModelStatus]:
        """All cards, each with one replica."""
        return self._statuses

    async def generate(
        self, model: str, request_id: str, request: GenerationRequest
    ) -> AsyncIterator[Progress | GenerationResult]:
        """Walk the steps, then paint."""
        if model not in {status.id for status in self._statuses}:
            raise UnknownModel(f"unknown model {model!r}")
        self.calls.append(request)
        _raise_asked_failure(request.prompt)
        params = request.params
        total = (params.num_inference_steps or 1) * params.num_images
        previews = _preview_steps(total, request.num_previews)
        try:
            for step in range(1, total + 1):
                await asyncio.sleep(self._step_seconds)
                preview = _paint(request, 0, "jpeg") if step in previews else None
                yield Progress(step=step, num_steps=total, preview=preview)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(request_id)
            raise
        yield GenerationResult(
            images=tuple(_picture(request, index) for index in range(params.num_images)),
            model=model,
            seconds=total * self._step_seconds,
            prompt_tokens=len(request.prompt.split()),
            max_batch_rows=1,
        )

    async def cancel(self, model: str, prefix: str) -> None:  # noqa: ARG002
        """Remember whose requests were to stop."""
        self.cancelled.append(prefix)

    async def loads(self) -> Mapping[str, Load]:
        """Nothing is ever running."""
        return {s.id: Load(num_running=0, num_waiting=0, work=0.0) for s in self._statuses}

    async def evict(self) -> Evicted:
        """Nothing is ever resident."""
        return Evicted(weights=(), num_bytes=0)


def fake_card(model_id: str = "sdxl-turbo", **fields: object) -> ModelCard:
    """A card with small defaults, for tests."""
    card = ModelCard(
        id=model_id,
        family="fake",
        modes=("text-to-image", "image-to-image", "inpainting", "edit"),
        defaults=SamplingParams(
            width=64,
            height=64,
            num_inference_steps=4,
            guidance_scale=1.0,
            strength=0.8,
            scheduler="Euler",
            sigmas="normal",
        ),
        schedulers=("Euler", "DDIM"),
        sigmas=("normal", "karras"),
        max_input_images=16,
    )
    return replace(card, **fields)  # type: ignore[arg-type]


def _raise_asked_failure(prompt: str) -> None:
    if "fail:worker" in prompt:
        raise WorkerDied("the prompt asked for it")
    if "fail:busy" in prompt:
        raise WorkerUnavailable("the prompt asked for it")


def _preview_steps(total: int, num_previews: int) -> frozenset[int]:
    return frozenset(max(1, total * (k + 1) // (num_previews + 1)) for k in range(num_previews))


def _picture(request: GenerationRequest, index: int) -> GeneratedImage:
    params = request.params
    return GeneratedImage(
        data=_paint(request, index, request.output_format),
        seed=(params.seed or 0) + index,
        width=params.width or 64,
        height=params.height or 64,
        format=request.output_format,
    )


def _paint(request: GenerationRequest, index: int, output_format: str) -> bytes:
    params = request.params
    digest = hashlib.sha256(f"{request.prompt} {(params.seed or 0) + index}".encode()).digest()
    image = Image.new("RGB", (params.width or 64, params.height or 64), tuple(digest[:3]))
    out = io.BytesIO()
    image.save(out, "PNG" if output_format == "safetensors" else output_format.upper())
    return out.getvalue()
