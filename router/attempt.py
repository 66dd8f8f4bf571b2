"""Attempt: one claimed job under way: its lease, its pictures, the sum of its progress."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

from deployments.errors import GenerationFailed, StorageFailure
from deployments.types import (
    GeneratedImage,
    GenerationRequest,
    GenerationResult,
    ModelCard,
    Progress,
)
from router.belongings import Belongings, Variant
from router.events import EventHub
from router.files import Files
from router.job import JobImage, JobProgress
from router.models import Models
from router.scripts import Listener, Script, Skipped
from router.store.jobs import Claim, JobStore, LeaseLost, Outcome

logger = logging.getLogger(__name__)

#: Seconds between writes of a job's progress to the store.
PROGRESS_SECONDS: Final = 0.2


class Attempt:
    """The canvas on which a job's script draws, for as long as the job's lease holds.

    Args:
        told: what an earlier attempt said: progress does not fall below it.

    Attributes:
        job: as it was claimed.
        files: the owners' files.
        pictures: what was kept so far, by place.
        result: what the script told so far.
        prompt_tokens, seconds: see ``Job``; of what the models gave so far.
        is_interrupted: whether the job's owner asked it to end early.
    """

    def __init__(
        self,
        *,
        claim: Claim,
        models: Models,
        jobs: JobStore,
        files: Files,
        events: EventHub,
        lease_seconds: float,
        told: JobProgress | None,
    ) -> None:
        self.job = claim.job
        self.files = files
        self.is_interrupted = claim.job.interrupted
        self.result: Mapping[str, Any] = {}
        self.pictures: dict[int, GeneratedImage | JobImage] = {}
        self.prompt_tokens = 0
        self.seconds = 0.0
        self._claim = claim
        self._own = Belongings(claim.job.own)
        self._models = models
        self._jobs = jobs
        self._events = events
        self._lease_seconds = lease_seconds
        self._steps: dict[int, int] = {}
        self._totals: dict[int, int] = {}
        # NOTE: the notes of an earlier attempt are void: the script begins anew.
        self._progress = replace(told or JobProgress(), notes=())
        self._topics: dict[str, int] = {}
        self._recorded = self._progress
        self._recording = asyncio.Lock()
        self._drawing: asyncio.Task[None] | None = None
        self._draws: set[asyncio.Future[GenerationResult]] = set()
        self._skipped: set[asyncio.Future[GenerationResult]] = set()
        self._num_skips = 0

    # -- drawing --------------------------------------------------------------------------------

    async def perform(
        self, script: Script, requests: Sequence[GenerationRequest], args: Mapping[str, Any]
    ) -> None:
        """Run the script to its end, or until the job is interrupted."""
        if self.is_interrupted:
            return
        self._totals = {index: _num_steps(request) for index, request in enumerate(requests)}
        self._drawing = asyncio.ensure_future(script(self, requests, args))
        try:
            await self._drawing
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self.is_interrupted or (task and task.cancelling()):
                raise

    @property
    def num_previews(self) -> int:
        """See ``Canvas``."""
        return self._progress.num_previews

    def interrupt(self) -> None:
        """End the script; what it kept is the job's."""
        self.is_interrupted = True
        if self._drawing:
            self._drawing.cancel()

    def skip(self, num_skips: int) -> None:
        """Leave out what is drawn just now, unless it was for this very asking done before."""
        if num_skips > self._num_skips:
            self._num_skips = num_skips
            self._skipped |= self._draws
            for draw in self._draws:
                draw.cancel()

    def card(self, model: str) -> ModelCard:
        """See ``Canvas``."""
        return self.variant(model).card

    def variant(self, model: str) -> Variant:
        """See ``Canvas``."""
        return self._own.resolve(self._models.statuses(), model)

    def loras(self, model: str) -> tuple[str, ...]:
        """See ``Canvas``."""
        return self._own.loras(self.card(model))

    def admit(self, request: GenerationRequest) -> GenerationRequest:
        """See ``Canvas``."""
        named = replace(request, model=request.model or self.job.model)
        meant = self._own.meant(self._models.statuses(), named)
        return self._own.admit(self.card(meant.model or ""), meant)

    async def draw(
        self, index: int, request: GenerationRequest, listen: Listener | None = None
    ) -> GenerationResult:
        """See ``Canvas``."""
        draw = asyncio.ensure_future(self._draw(index, request, listen))
        self._draws.add(draw)
        try:
            return await draw
        except asyncio.CancelledError:
            if draw in self._skipped and not self.is_interrupted:
                raise Skipped from None
            raise
        finally:
            self._draws.discard(draw)
            self._skipped.discard(draw)

    async def _draw(
        self, index: int, request: GenerationRequest, listen: Listener | None
    ) -> GenerationResult:
        job = self.job
        request_id = f"{job.id}.{job.attempts}.{index}"
        stream = self._models.generate(request.model or job.model, request_id, request)
        async with aclosing(stream) as news:  # type: ignore[type-var]
            async for item in news:
                if isinstance(item, GenerationResult):
                    self.prompt_tokens += item.prompt_tokens
                    self.seconds = max(self.seconds, item.seconds)
                    return item
                if listen is not None:
                    listen(item)
                self._advance(index, item)
        raise GenerationFailed("the model ended without a result")

    def keep(self, place: int, image: GeneratedImage | JobImage) -> None:
        """See ``Canvas``."""
        self.pictures[place] = image

    def note(self, note: Mapping[str, Any], *, topic: str = "") -> None:
        """See ``Canvas``."""
        notes = list(self._progress.notes)
        if topic:
            if (last := self._topics.get(topic)) is not None:
                notes[last] = None
            self._topics[topic] = len(notes)
        self._publish(replace(self._progress, notes=(*notes, note)))

    def tell(self, result: Mapping[str, Any]) -> None:
        """See ``Canvas``."""
        self.result = result

    def _advance(self, index: int, progress: Progress) -> None:
        """Take in the news of request ``index`` and tell watchers in this process."""
        self._steps[index] = progress.step
        self._totals[index] = progress.num_steps
        last = self._progress
        self._publish(
            JobProgress(
                step=max(last.step, sum(self._steps.values())),
                num_steps=sum(self._totals.values()),
                preview=progress.preview or last.preview,
                preview_index=progress.preview_index if progress.preview else last.preview_index,
                num_previews=last.num_previews + (progress.preview is not None),
                notes=last.notes,
            )
        )

    def _publish(self, progress: JobProgress) -> None:
        self._progress = progress
        self._events.publish(self.job.id, progress)

    async def record_notes(self) -> None:
        """Let watchers on other replicas read every note, once the script has ended."""
        if self._progress.notes:
            await self._record()

    async def _record(self) -> None:
        """Let watchers on other replicas read what is new, with its preview only when that is new.

        One write at a time: the last is also there, and no older one follows it.
        """
        async with self._recording:
            progress, last = self._progress, self._recorded
            if progress is last:
                return
            is_seen = progress.num_previews == last.num_previews
            news = replace(progress, preview=None) if is_seen else progress
            await self._jobs.record_progress(self.job.id, self._claim.token, news)
            self._recorded = progress

    # -- the lease ------------------------------------------------------------------------------

    async def while_leased(self, work: Coroutine[None, None, Outcome]) -> Outcome:
        """Do the work while renewing the lease and recording progress.

        Raises ``LeaseLost`` as soon as either finds the lease gone; the work is cancelled then.
        """
        worker = asyncio.create_task(work)
        keeper = asyncio.create_task(self._hold_lease())
        try:
            await asyncio.wait({worker, keeper}, return_when=asyncio.FIRST_COMPLETED)
            if worker.done():
                return worker.result()
            keeper.result()
            raise LeaseLost
        finally:
            for task in (worker, keeper):
                task.cancel()
            await asyncio.gather(worker, keeper, return_exceptions=True)

    async def _hold_lease(self) -> None:
        renewed_at = time.monotonic()
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            job_id, token = self._claim.job.id, self._claim.token
            try:
                await self._record()
                if time.monotonic() - renewed_at > self._lease_seconds / 3:
                    await self._jobs.renew(job_id, token, self._lease_seconds)
                    renewed_at = time.monotonic()
            except StorageFailure as error:
                if time.monotonic() - renewed_at > self._lease_seconds:
                    raise LeaseLost from error
                logger.warning("job_id=%s its lease could not be renewed: %s", job_id, error)


def _num_steps(request: GenerationRequest) -> int:
    return (request.params.num_inference_steps or 1) * request.params.num_images
