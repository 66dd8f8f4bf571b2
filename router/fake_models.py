"""FakeModels: models that live in the gateway's own process, for tests and demonstrations."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

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
from router.models import Models, ModelStatus, WorkerDied, WorkerUnavailable


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
