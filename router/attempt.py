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
from deployments.types import GeneratedImage, GenerationRequest, GenerationResult, Progress
from router.events import EventHub
from router.job import JobProgress
from router.models import Models
from router.scripts import Script
from router.store.jobs import Claim, JobStore, LeaseLost, Outcome

logger = logging.getLogger(__name__)

#: Seconds between writes of a job's progress to the store.
PROGRESS_SECONDS: Final = 0.2


class Attempt:
    """The canvas on which a job's script draws, for as long as the job's lease holds.

    Args:
        told: what an earlier attempt said: progress does not fall below it.

    Attributes:
        pictures: what was kept so far, by place.
        results: what the model gave so far.
    """

    def __init__(
        self,
        *,
        claim: Claim,
        models: Models,
        jobs: JobStore,
        events: EventHub,
        lease_seconds: float,
        told: JobProgress | None,
    ) -> None:
        self.pictures: dict[int, GeneratedImage] = {}
        self.results: list[GenerationResult] = []
        self._claim = claim
        self._models = models
        self._jobs = jobs
        self._events = events
        self._lease_seconds = lease_seconds
        self._steps: dict[int, int] = {}
        self._totals: dict[int, int] = {}
        self._progress = told or JobProgress()
        self._changed = False
        self._num_recorded = self._progress.num_previews
        self._interrupted = claim.job.interrupted
        self._drawing: asyncio.Task[None] | None = None

    # -- drawing --------------------------------------------------------------------------------

    async def perform(
        self, script: Script, requests: Sequence[GenerationRequest], args: Mapping[str, Any]
    ) -> None:
        """Run the script to its end, or until the job is interrupted."""
        if self._interrupted:
            return
        self._totals = {index: _num_steps(request) for index, request in enumerate(requests)}
        self._drawing = asyncio.ensure_future(script(self, requests, args))
        try:
            await self._drawing
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._interrupted or (task and task.cancelling()):
                raise

    def interrupt(self) -> None:
        """End the script; what it kept is the job's."""
        self._interrupted = True
        if self._drawing:
            self._drawing.cancel()

    async def draw(self, index: int, request: GenerationRequest) -> GenerationResult:
        """See ``Canvas``."""
        job = self._claim.job
        stream = self._models.generate(job.model, f"{job.id}.{job.attempts}.{index}", request)
        async with aclosing(stream) as news:  # type: ignore[type-var]
            async for item in news:
                if isinstance(item, GenerationResult):
                    self.results.append(item)
                    return item
                self._advance(index, item)
        raise GenerationFailed("the model ended without a result")

    def keep(self, place: int, image: GeneratedImage) -> None:
        """See ``Canvas``."""
        self.pictures[place] = image

    def _advance(self, index: int, progress: Progress) -> None:
        """Take in the news of request ``index`` and tell watchers in this process."""
        self._steps[index] = progress.step
        self._totals[index] = progress.num_steps
        last = self._progress
        self._progress = JobProgress(
            step=max(last.step, sum(self._steps.values())),
            num_steps=sum(self._totals.values()),
            preview=progress.preview or last.preview,
            preview_index=progress.preview_index if progress.preview else last.preview_index,
            num_previews=last.num_previews + (progress.preview is not None),
        )
        self._changed = True
        self._events.publish(self._claim.job.id, self._progress)

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
                if self._changed:
                    self._changed = False
                    await self._jobs.record_progress(job_id, token, self._unrecorded())
                if time.monotonic() - renewed_at > self._lease_seconds / 3:
                    await self._jobs.renew(job_id, token, self._lease_seconds)
                    renewed_at = time.monotonic()
            except StorageFailure as error:
                if time.monotonic() - renewed_at > self._lease_seconds:
                    raise LeaseLost from error
                logger.warning("job_id=%s its lease could not be renewed: %s", job_id, error)

    def _unrecorded(self) -> JobProgress:
        """The progress, with its preview only when that was not recorded yet."""
        if self._progress.num_previews == self._num_recorded:
            return replace(self._progress, preview=None)
        self._num_recorded = self._progress.num_previews
        return self._progress


def _num_steps(request: GenerationRequest) -> int:
    return (request.params.num_inference_steps or 1) * request.params.num_images
