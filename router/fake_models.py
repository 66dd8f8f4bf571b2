"""FakeModels: models that live in the gateway's own process, for tests and demonstrations."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from PIL import Image

from deployments.errors import InvalidRequest, UnknownModel, UnsupportedField
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
    SamplingParams,
    WeightsSource,
)
from router.fake_latents import colour, decode_latents, draw_latents, have_part
from router.models import (
    Application,
    Deployment,
    Models,
    ModelStatus,
    Replica,
    WorkerDied,
    WorkerUnavailable,
)


class FakeModels(Models):
    """Models that live in this process and draw one flat colour per seed and prompt.

    Their latents are such pictures, an eighth as large; part of a schedule goes part of the way.
    A prompt that holds ``fail:worker`` raises ``WorkerDied``, ``fail:busy`` ``WorkerUnavailable``.
    What is to be described is a picture of its size. How full the replicas are says ``fill``.
    Every call is kept in ``calls``.
    """

    def __init__(self, *cards: ModelCard, step_seconds: float = 0.0) -> None:
        self.calls: list[GenerationRequest] = []
        self.cancelled: list[str] = []
        self._statuses = tuple(ModelStatus(id=card.id, card=card, num_replicas=1) for card in cards)
        self._step_seconds = step_seconds
        self._loads: dict[str, tuple[Load, ...]] = {}

    def statuses(self) -> Sequence[ModelStatus]:
        """All cards, each with one replica."""
        return self._statuses

    def start_later(self, model: str) -> None:
        """From now on a model is configured that has yet to start."""
        self._statuses = (*self._statuses, ModelStatus(id=model, card=None, num_replicas=0))

    def fill(self, model: str, *loads: Load) -> None:
        """From now on a model has so many replicas, which tell these loads."""
        self._loads[model] = loads

    async def generate(
        self, model: str, request_id: str, request: GenerationRequest
    ) -> AsyncIterator[Progress | GenerationResult]:
        """Walk the steps, then paint."""
        card = self._card(model)
        self.calls.append(request)
        _raise_asked_failure(" ".join([request.prompt, *(part.text for part in request.parts)]))
        total = _num_steps(request)
        previews = _preview_steps(total, request.num_previews)
        try:
            for step in range(1, total + 1):
                await asyncio.sleep(self._step_seconds)
                preview = _paint(request, 0, "jpeg") if step in previews else None
                yield Progress(step=step, num_steps=total, preview=preview)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(request_id)
            raise
        is_told = request.task == "describe"
        latents = draw_latents(request, card.family) if have_part(request) else None
        yield GenerationResult(
            images=() if is_told or request.ends_in_latents else _pictures(request, latents),
            latents=latents if request.ends_in_latents else None,
            text=_describe(request.images[0]) if is_told else "",
            model=model,
            seconds=total * self._step_seconds,
            prompt_tokens=len(request.prompt.split()),
            max_batch_rows=1,
        )

    def _card(self, model: str) -> ModelCard:
        for status in self._statuses:
            if status.id == model and status.card is not None:
                return status.card
        raise UnknownModel(f"unknown model {model!r}")

    async def cancel(self, model: str, prefix: str) -> None:  # noqa: ARG002
        """Remember whose requests were to stop."""
        self.cancelled.append(prefix)

    async def check_weights(
        self, model: str, source: WeightsSource, max_bytes: int
    ) -> CheckedWeights:
        """Whatever there is fits, but what has ``misfit`` in its location, or too many bytes. What
        holds ``lora_A`` is a LoRA."""
        card = self._card(model)
        data = await asyncio.to_thread(_read, source)
        if "misfit" in source.location or len(data) > max_bytes:
            raise InvalidRequest("the weights do not fit this model", param="weights")
        is_lora = b"lora_A" in data
        if not is_lora and not card.takes_weights:
            raise UnsupportedField("this model takes no weights but its own", param="base")
        return CheckedWeights(
            location=source.location,
            parts=("unet",),
            num_bytes=len(data),
            is_lora=is_lora,
            digest=hashlib.sha256(data).hexdigest()[:12] if is_lora else "",
        )

    async def loads(self) -> Mapping[str, Load]:
        """Nothing is ever running."""
        return {s.id: Load(num_running=0, num_waiting=0, work=0.0) for s in self._statuses}

    async def applications(self) -> Sequence[Application]:
        """Each model as an application with a deployment of its own."""
        return tuple(self._application(status) for status in self._statuses)

    def _application(self, status: ModelStatus) -> Application:
        idle = Load(num_running=0, num_waiting=0, work=0.0)
        loads = self._loads.get(status.id, (idle,) * status.num_replicas)
        replicas = tuple(Replica(state="RUNNING", load=load) for load in loads)
        if not status.is_ready:
            starting = Deployment(
                name="ModelHost", status="UPDATING", replicas=(Replica(state="STARTING"),)
            )
            return Application(id=status.id, status="DEPLOYING", deployments=(starting,))
        host = Deployment(name="ModelHost", status="HEALTHY", replicas=replicas)
        return Application(id=status.id, status="RUNNING", deployments=(host,))

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
        takes_weights=True,
        takes_loras=True,
        has_latents=True,
    )
    return replace(card, **fields)  # type: ignore[arg-type]


def _read(source: WeightsSource) -> bytes:
    path = Path(url2pathname(urlsplit(source.location).path))
    return path.read_bytes() if source.kind != "hub" and path.is_file() else bytes(10)


def _raise_asked_failure(prompt: str) -> None:
    if "fail:worker" in prompt:
        raise WorkerDied("the prompt asked for it")
    if "fail:busy" in prompt:
        raise WorkerUnavailable("the prompt asked for it")


def _preview_steps(total: int, num_previews: int) -> frozenset[int]:
    return frozenset(max(1, total * (k + 1) // (num_previews + 1)) for k in range(num_previews))


def _num_steps(request: GenerationRequest) -> int:
    params = request.params
    if request.task in ("encode", "decode"):
        return 0
    steps = params.num_inference_steps or 1
    return (steps if request.latents is None else params.num_walked_steps) * params.num_images


def _pictures(request: GenerationRequest, latents: Latents | None) -> tuple[GeneratedImage, ...]:
    if latents is None:
        numbers = range(request.params.num_images)
        files = [_paint(request, index, request.output_format) for index in numbers]
    else:
        files = decode_latents(latents, request.output_format)
    return tuple(_picture(request, index, data) for index, data in enumerate(files))


def _picture(request: GenerationRequest, index: int, data: bytes) -> GeneratedImage:
    params = request.params
    return GeneratedImage(
        data=data,
        seed=(params.seed or 0) + index,
        width=params.width or 64,
        height=params.height or 64,
        format=request.output_format,
    )


def _describe(image: bytes) -> str:
    width, height = Image.open(io.BytesIO(image)).size
    return f"a picture of {width} by {height}"


def _paint(request: GenerationRequest, index: int, output_format: str) -> bytes:
    params = request.params
    size = (params.width or 64, params.height or 64)
    image = Image.new("RGB", size, tuple(colour(request, index)))
    out = io.BytesIO()
    image.save(out, "PNG" if output_format == "safetensors" else output_format.upper())
    return out.getvalue()
