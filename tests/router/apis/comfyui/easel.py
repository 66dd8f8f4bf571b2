"""A canvas for graphs outside of a gateway: it keeps what it is told, over fake models."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from deployments.types import (
    GeneratedImage,
    GenerationRequest,
    GenerationResult,
    ModelCard,
    SamplingParams,
)
from router.apis.comfyui.cache import NodeCache
from router.apis.comfyui.executor import Execution
from router.apis.comfyui.holdings import MAX_BYTES
from router.apis.comfyui.node import Node
from router.apis.comfyui.nodes import NODES
from router.belongings import Belongings, Variant
from router.fake_models import FakeModels, fake_card
from router.files import Files
from router.job import Job, JobImage, StoredRequest, input_key
from router.models import Models
from router.scripts import Listener
from router.store.images import MemoryImageStore
from router.store.memory_files import MemoryFileStore

SCHEDULERS = ("Euler", "Euler a", "DPM++ 2M", "DDIM", "LCM")
SIGMAS = ("normal", "karras", "exponential", "beta", "sgm_uniform", "simple", "trailing")
DEFAULTS = SamplingParams(
    width=64,
    height=64,
    num_inference_steps=4,
    guidance_scale=1.0,
    strength=0.8,
    scheduler="Euler",
    sigmas="normal",
)
SDXL = fake_card(
    "sdxl-turbo",
    modes=("text-to-image", "image-to-image", "inpainting"),
    defaults=DEFAULTS,
    schedulers=SCHEDULERS,
    sigmas=SIGMAS,
    max_input_images=1,
)
QWEN = fake_card(
    "qwen-image-edit",
    aliases=("Qwen-Image-Edit-2509-FP8",),
    defaults=DEFAULTS,
    schedulers=("Euler",),
    sigmas=("normal", "simple"),
    max_input_images=4,
)


class Easel:
    """See ``Canvas``.

    Attributes:
        notes: every note, in order, those that a later one replaced too.
        topics: of each note.
        pictures: by place; their bytes lie in ``images``.
        result: what was told last.
    """

    def __init__(self, models: Models | None = None, *, files: Files | None = None) -> None:
        self.models = models or FakeModels(SDXL, QWEN)
        self.images = MemoryImageStore()
        self.files = files or Files(files=MemoryFileStore(), images=self.images)
        self.job = Job(id="img_1", api="comfyui", owner="ann", model="", requests=(), name="p1")
        self.is_interrupted = False
        self.num_previews = 0
        self.notes: list[Mapping[str, Any]] = []
        self.topics: list[str] = []
        self.pictures: dict[int, JobImage] = {}
        self.result: Mapping[str, Any] = {}
        self.indices: list[int] = []

    @property
    def frames(self) -> list[tuple[str, Any]]:
        """Type and node of each text frame."""
        return [(note["type"], note["data"].get("node")) for note in self.notes if "type" in note]

    @property
    def own(self) -> Belongings:
        return Belongings(self.job.own)

    def card(self, model: str) -> ModelCard:
        return self.variant(model).card

    def variant(self, model: str) -> Variant:
        return self.own.resolve(self.models.statuses(), model)

    def loras(self, model: str) -> tuple[str, ...]:
        return self.own.loras(self.card(model))

    def admit(self, request: GenerationRequest) -> GenerationRequest:
        meant = self.own.meant(self.models.statuses(), request)
        return self.own.admit(self.card(meant.model or ""), meant)

    async def draw(
        self, index: int, request: GenerationRequest, listen: Listener | None = None
    ) -> GenerationResult:
        self.indices.append(index)
        stream = self.models.generate(request.model or "", f"{index}", request)
        async with aclosing(stream) as news:  # type: ignore[type-var]
            async for item in news:
                if isinstance(item, GenerationResult):
                    return item
                if listen is not None:
                    listen(item)
                self.num_previews += item.preview is not None
        raise AssertionError

    def keep(self, place: int, image: GeneratedImage | JobImage) -> None:
        assert isinstance(image, JobImage)
        self.pictures[place] = image

    def note(self, note: Mapping[str, Any], *, topic: str = "") -> None:
        self.notes.append(note)
        self.topics.append(topic)

    def tell(self, result: Mapping[str, Any]) -> None:
        self.result = result


def execution(
    easel: Easel,
    graph: Mapping[str, Any],
    *outputs: str,
    inputs: Mapping[str, bytes] | None = None,
    cache: NodeCache | None = None,
    table: Mapping[str, Node] = NODES,
    extra_data: Mapping[str, Any] | None = None,
    width: int = 4,
    max_bytes: int = MAX_BYTES,
    **job: Any,
) -> Execution:
    """A graph about to run; its outputs are those that save, when none are named."""
    files = dict(inputs or {})
    keys = tuple(input_key(data) for data in files.values())
    request = GenerationRequest(prompt="", images=tuple(files.values()))
    easel.job = replace(
        easel.job,
        requests=(StoredRequest(request=request, image_keys=keys),),
        details={"extra_data": extra_data or {}},
        attempts=1,
    )
    easel.job = replace(easel.job, **job)
    easel.notes.clear()
    easel.topics.clear()
    easel.pictures.clear()
    easel.num_previews = 0
    shown = outputs or tuple(
        node for node, row in graph.items() if table[row["class_type"]].is_output
    )
    args = {
        "graph": graph,
        "outputs": list(shown),
        "inputs": {name: place for place, name in enumerate(files)},
        "models": ["sdxl-turbo", "qwen-image-edit"],
        "width": width,
    }
    cache = cache or NodeCache()
    return Execution(easel, [request], args, table=table, cache=cache, max_bytes=max_bytes)


async def interrupt(easel: Easel, task: asyncio.Task[None]) -> None:
    """What the dispatcher does when a job is interrupted."""
    easel.is_interrupted = True
    task.cancel()
    await asyncio.wait({task})


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """A node of a graph."""
    return {"class_type": class_type, "inputs": inputs}


def text_to_image(prefix: str = "ComfyUI", **sampler: Any) -> dict[str, Any]:
    """ComfyUI's first example."""
    asked = {"seed": 5, "steps": 3, "cfg": 8.0, "denoise": 1.0, **sampler}
    return {
        "3": node(
            "KSampler",
            model=["4", 0],
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["5", 0],
            sampler_name="euler",
            scheduler="normal",
            **asked,
        ),
        "4": node("CheckpointLoaderSimple", ckpt_name="sdxl-turbo"),
        "5": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "6": node("CLIPTextEncode", text="a red square", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="text", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix=prefix, images=["8", 0]),
    }


def types_of(frames: Sequence[tuple[str, Any]], *kinds: str) -> list[tuple[str, Any]]:
    """The frames of some types."""
    return [frame for frame in frames if frame[0] in kinds]
