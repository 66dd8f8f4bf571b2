"""NodeDrawing: a running node's way to the models and files, on the canvas of its graph's job."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from deployments.errors import GenerationFailed, InvalidRequest, NotFound
from deployments.types import (
    GenerationRequest,
    GenerationResult,
    Latents,
    ModelCard,
    Progress,
    SamplingParams,
    Task,
)
from router.apis.comfyui.entry import has_previews
from router.apis.comfyui.journal import Journal
from router.apis.comfyui.png import with_texts
from router.apis.comfyui.saving import name_of, place_files, temporary_stem, texts_of
from router.apis.comfyui.several import MAX_CALLS
from router.apis.comfyui.values import MAX_BATCH, Images
from router.belongings import Variant
from router.files import FileKind, StoredFile
from router.job import JobImage, output_key

if TYPE_CHECKING:
    from router.scripts import Canvas, Listener

T = TypeVar("T")

#: Pictures of one batch that are with a model at once: they share its denoising steps.
PICTURES_AT_ONCE: Final = 8
#: The most previews of one node, over its steps.
MAX_PREVIEWS: Final = 20
#: Each output node's share of the places of the job's pictures, the same at every attempt: it may
#: have so many lists of so many pictures.
PLACES_PER_NODE: Final = MAX_CALLS * MAX_BATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class Studio:
    """What the nodes of one running graph share.

    Attributes:
        graph: as the client sent it, for the texts of saved files.
        outputs: ids of the nodes that show something.
        inputs: the bytes of the files that nodes name.
        turns: held by a node while it has requests with a model.
        numbers: of the requests to models, each its own.
    """

    canvas: Canvas
    journal: Journal
    graph: Mapping[str, Any]
    outputs: Sequence[str]
    inputs: Mapping[str, bytes]
    turns: asyncio.Semaphore
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def extra_data(self) -> Mapping[str, Any]:
        """What the client sent beside the graph."""
        found = self.canvas.job.details.get("extra_data")
        return found if isinstance(found, Mapping) else {}


class NodeDrawing:
    """See ``Drawing``."""

    def __init__(self, node: str, studio: Studio) -> None:
        self._node = node
        self._studio = studio
        self._canvas = studio.canvas
        self._journal = studio.journal
        self._saved = itertools.count()

    def card(self, model: str) -> ModelCard:
        """See ``Drawing``."""
        return self._canvas.card(model)

    def variant(self, model: str) -> Variant:
        """See ``Drawing``."""
        return self._canvas.variant(model)

    def loras(self, model: str) -> Sequence[str]:
        """See ``Drawing``."""
        return self._canvas.loras(model)

    def draw_seed(self) -> int:
        """See ``Drawing``."""
        digest = hashlib.sha256(f"{self._canvas.job.id} {self._node}".encode()).digest()
        return int.from_bytes(digest[:4])

    # -- models ---------------------------------------------------------------------------------

    async def sample(self, requests: Sequence[GenerationRequest]) -> tuple[Latents, ...]:
        """See ``Drawing``."""
        admitted = [self._canvas.admit(request) for request in requests]
        num_steps = admitted[0].params.num_walked_steps
        if has_previews(self._canvas.job):
            admitted[0] = replace(admitted[0], num_previews=min(num_steps, MAX_PREVIEWS))
        steps = _Steps(self._node, self._journal, self._canvas, len(admitted))
        listeners = [steps.listener(k) for k in range(len(admitted))]
        latents = _latents(await self._draw(admitted, listeners))
        steps.finish(num_steps)
        return latents

    async def encode(self, model: str, pictures: Sequence[bytes]) -> tuple[Latents, ...]:
        """See ``Drawing``."""
        sizes = [Images(encoded=[data]) for data in pictures]
        requests = [
            self._plain(model, "encode", one.width, one.height, images=one.encoded) for one in sizes
        ]
        return _latents(await self._draw(requests))

    async def decode(self, model: str, latents: Sequence[Latents]) -> Images:
        """See ``Drawing``."""
        requests = [
            self._plain(model, "decode", one.width, one.height, latents=one) for one in latents
        ]
        results = await self._draw(requests)
        return Images(encoded=[image.data for result in results for image in result.images])

    def _plain(
        self, model: str, task: Task, width: int, height: int, **fields: Any
    ) -> GenerationRequest:
        """A request that denoises nothing."""
        params = SamplingParams(width=width, height=height, num_inference_steps=1, seed=0)
        request = GenerationRequest(
            prompt="",
            model=model,
            task=task,
            params=params,
            gives_latents=task == "encode",
            **fields,
        )
        return self._canvas.admit(request)

    async def _draw(
        self, requests: Sequence[GenerationRequest], listeners: Sequence[Listener | None] = ()
    ) -> list[GenerationResult]:
        places = asyncio.Semaphore(PICTURES_AT_ONCE)

        async def draw(request: GenerationRequest, listen: Listener | None) -> GenerationResult:
            async with places:
                number = next(self._studio.numbers)
                return await self._canvas.draw(number, request, listen)

        pairs = itertools.zip_longest(requests, listeners)
        async with self._studio.turns:
            return await _side_by_side([draw(request, listen) for request, listen in pairs])

    # -- files ----------------------------------------------------------------------------------

    def input(self, name: str) -> bytes:
        """See ``Drawing``."""
        if name not in self._studio.inputs:
            raise NotFound(f"there is no file {name!r:.200}")
        return self._studio.inputs[name]

    async def save(self, images: Images, *, kind: FileKind, prefix: str) -> list[dict[str, Any]]:
        """See ``Drawing``."""
        if len(images) > MAX_BATCH:
            raise InvalidRequest(
                f"{len(images)} pictures are too many to save at once; accepted: {MAX_BATCH}"
            )
        now = datetime.now().astimezone()
        subfolder, stem = place_files(prefix, width=images.width, height=images.height, now=now)
        if kind == "temp":
            stem = temporary_stem(stem, self._canvas.job.id, self._node)
        texts = await asyncio.to_thread(texts_of, self._studio.graph, self._studio.extra_data)
        saved = []
        for number, data in enumerate(await asyncio.to_thread(lambda: images.encoded)):
            whole = await asyncio.to_thread(with_texts, data, texts)
            place = self._next_place()
            file = await self._write(whole, kind, subfolder, name_of(stem, number), place)
            saved.append({"filename": file.name, "subfolder": file.subfolder, "type": kind})
            if kind == "output":
                self._keep(place, file, images)
        return saved

    def _keep(self, place: int, file: StoredFile, images: Images) -> None:
        """Make a saved file a picture of the job: its bytes lie where the job's pictures do."""
        image = JobImage(
            key=file.key,
            seed=0,
            width=images.width,
            height=images.height,
            format="png",
            num_bytes=file.num_bytes,
            place=place,
        )
        self._canvas.keep(place, image)

    async def show(self, images: Images) -> None:
        """See ``Drawing``."""
        files = await asyncio.to_thread(lambda: images.encoded)
        for number, data in enumerate(files):
            place = self._next_place()
            file = await self._write(data, "temp", "", name_of("shown", number), place)
            self._journal.announce(self._node)
            self._canvas.note(
                {
                    "show": {"kind": "temp", "subfolder": "", "name": file.name},
                    "node": self._node,
                    "value": number,
                    "max": len(files),
                }
            )

    async def _write(
        self, data: bytes, kind: FileKind, subfolder: str, name: str, place: int
    ) -> StoredFile:
        """Keep a file. At another attempt it is the same file."""
        job_id = self._canvas.job.id
        is_kept = kind == "output"
        return await self._canvas.files.save(
            data,
            owner=self._canvas.job.owner,
            kind=kind,
            subfolder=subfolder,
            name=name,
            key=output_key(job_id, place, "png") if is_kept else f"{job_id}/temp_{place + 1}.png",
            job_id=job_id,
            label=str(place),
        )

    def _next_place(self) -> int:
        """Where this node's next picture lies among the job's: the same at every attempt."""
        first = sorted(self._studio.outputs).index(self._node) * PLACES_PER_NODE
        return first + next(self._saved)


class _Steps:
    """A node's progress: that of the picture of its batch that came the least far."""

    def __init__(self, node: str, journal: Journal, canvas: Canvas, num_pictures: int) -> None:
        self._node = node
        self._journal = journal
        self._canvas = canvas
        self._done = [0] * num_pictures
        self._told = 0

    def listener(self, picture: int) -> Listener:
        """Hears of one picture."""

        def listen(progress: Progress) -> None:
            self._done[picture] = progress.step
            least = min(self._done)
            preview = self._canvas.num_previews + 1 if progress.preview else None
            if least > self._told or preview is not None:
                self._told = least
                self._journal.step(self._node, least, progress.num_steps, preview=preview)

        return listen

    def finish(self, num_steps: int) -> None:
        """Tell of the last step, which a model in a hurry may not have told."""
        if self._told < num_steps:
            self._journal.step(self._node, num_steps, num_steps)


def _latents(results: Sequence[GenerationResult]) -> tuple[Latents, ...]:
    found = tuple(result.latents for result in results if result.latents is not None)
    if len(found) < len(results):
        raise GenerationFailed("the model gave no latents")
    return found


async def _side_by_side(calls: Sequence[Awaitable[T]]) -> list[T]:
    """All results, in order. The first failure stops the others and is raised alone."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
