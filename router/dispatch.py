"""Dispatcher: moves jobs along. Claims them by lease, runs them on a model, records what came."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Final

from deployments.errors import (
    AtelierError,
    GenerationFailed,
    ModelNotReady,
    Overloaded,
    StorageFailure,
    UnknownModel,
)
from deployments.types import GenerationRequest, GenerationResult, Load, Progress
from router.events import EventHub
from router.job import (
    Job,
    JobError,
    JobImage,
    JobProgress,
    JobStatus,
    StoredRequest,
    output_key,
    restore_request,
)
from router.models import Models, WorkerDied, WorkerUnavailable
from router.store.images import ImageStore
from router.store.jobs import Claim, JobStore, LeaseLost, Outcome

logger = logging.getLogger(__name__)

#: Seconds between writes of a job's progress to the store.
PROGRESS_SECONDS: Final = 0.2
#: Seconds between looks for jobs that no wake-up announced (other replicas', delayed ones).
IDLE_SECONDS: Final = 1.0
#: Seconds before a job whose worker died, or was not there, is tried again; the latter doubles.
RETRY_SECONDS: Final = 1.0
MAX_RETRY_SECONDS: Final = 60.0


class Dispatcher:
    """Runs the jobs of every model, several at once, for as long as it holds their leases.

    Args:
        lease_seconds: how long a claim lasts without renewal; it is renewed three times as often.
        jobs_per_replica: jobs given to one model replica at once; None is what its card says.
    """

    def __init__(
        self,
        *,
        models: Models,
        jobs: JobStore,
        images: ImageStore,
        events: EventHub,
        lease_seconds: float = 10.0,
        jobs_per_replica: int | None = None,
    ) -> None:
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.loads: Mapping[str, Load] = {}
        self.num_queued = 0
        self._models = models
        self._jobs = jobs
        self._images = images
        self._events = events
        self._lease_seconds = lease_seconds
        self._jobs_per_replica = jobs_per_replica
        self._running: dict[str, asyncio.Task[None]] = {}
        self._num_running: dict[str, int] = {}
        self._wakers: dict[str, asyncio.Event] = {}
        self._loops: dict[str, asyncio.Task[None]] = {}
        self._keeper: asyncio.Task[None] | None = None

    # -- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to claim, within the running event loop."""
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Stop claiming and give running jobs back to the queue."""
        tasks = [*self._loops.values(), *self._running.values()]
        if self._keeper:
            tasks.append(self._keeper)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self, model: str) -> None:
        """A job of this model was queued."""
        self._serve(model)
        self._wakers[model].set()

    def is_running(self, job_id: str) -> bool:
        """Whether this dispatcher runs the job, so that its news come through the hub."""
        return job_id in self._running

    def abandon(self, job_id: str) -> None:
        """Stop running a job whose claim is void."""
        if task := self._running.get(job_id):
            task.cancel()

    # -- claiming -------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Serve every model that has started; put jobs with expired leases back in the queue."""
        while True:
            try:
                for job in await self._jobs.recover():
                    logger.warning("job_id=%s lease expired, now %s", job.id, job.status)
                    self._events.publish(job.id, job) if job.status.is_final else None
                counts = await self._jobs.counts()
                self.num_queued = sum(
                    n for (_, status), n in counts.items() if status is JobStatus.QUEUED
                )
                for model in {model for model, _ in counts}:
                    self.wake(model)
                self.loads = await self._models.loads()
            except AtelierError as error:
                logger.warning("upkeep of jobs failed, trying again: %s", error)
            except Exception:
                logger.exception("upkeep of jobs failed, trying again")
            await asyncio.sleep(IDLE_SECONDS)

    def _serve(self, model: str) -> None:
        if model not in self._loops:
            self._wakers[model] = asyncio.Event()
            self._loops[model] = asyncio.create_task(self._claim_jobs_of(model))

    async def _claim_jobs_of(self, model: str) -> None:
        waker = self._wakers[model]
        while True:
            await waker.wait()
            waker.clear()
            try:
                while self._num_running.get(model, 0) < self._capacity(model):
                    claim = await self._jobs.claim(
                        model=model, worker=self.worker, lease_seconds=self._lease_seconds
                    )
                    if claim is None:
                        break
                    self._begin(claim)
            except AtelierError as error:
                logger.warning("cannot claim jobs of %s, trying again: %s", model, error)
            except Exception:
                logger.exception("cannot claim jobs of %s, trying again", model)

    def _capacity(self, model: str) -> int:
        for status in self._models.statuses():
            if status.id == model and status.card is not None:
                each = self._jobs_per_replica or status.card.max_ongoing_requests
                return each * max(1, status.num_replicas)
        return 1

    def _begin(self, claim: Claim) -> None:
        job = claim.job
        self._num_running[job.model] = self._num_running.get(job.model, 0) + 1
        task = asyncio.create_task(self._run(claim))
        self._running[job.id] = task
        task.add_done_callback(lambda _: self._end(job, task))

    def _end(self, job: Job, task: asyncio.Task[None]) -> None:
        if self._running.get(job.id) is task:
            del self._running[job.id]
        self._num_running[job.model] -= 1
        self._wakers[job.model].set()

    # -- running --------------------------------------------------------------------------------

    async def _run(self, claim: Claim) -> None:
        job = claim.job
        logger.info("job_id=%s in_progress model=%s attempt=%d", job.id, job.model, job.attempts)
        try:
            told = await self._jobs.progress(job.id) if job.attempts > 1 else None
            run = _Run(claim, self._jobs, self._events, self._lease_seconds, told)
            outcome = await run.while_leased(self._outcome(job, run))
        except LeaseLost:
            logger.info("job_id=%s is no longer ours", job.id)
        except asyncio.CancelledError:
            await self._release(claim, "the gateway stops, or the job was cancelled")
            raise
        except WorkerDied:
            await self._release(claim, "its worker died", delay=RETRY_SECONDS, worker_died=True)
        except (WorkerUnavailable, ModelNotReady, Overloaded, UnknownModel) as error:
            delay = min(MAX_RETRY_SECONDS, RETRY_SECONDS * 2 ** (job.attempts - 1))
            await self._release(claim, f"no worker takes it: {error}", delay=delay)
        else:
            await self._finish(claim, outcome)

    async def _outcome(self, job: Job, run: _Run) -> Outcome:
        """What came of a job; raises only what another try may mend."""
        try:
            requests = await asyncio.gather(*(self._restore(s) for s in job.requests))
            run.num_steps = sum(_num_steps(request) for request in requests)
            async with asyncio.TaskGroup() as tasks:
                results = [
                    tasks.create_task(self._generate(job, run, index, request))
                    for index, request in enumerate(requests)
                ]
            return await self._keep_images(job, [task.result() for task in results])
        except BaseExceptionGroup as group:
            return _failure(job, _first_leaf(group))
        except Exception as error:
            return _failure(job, error)

    async def _restore(self, stored: StoredRequest) -> GenerationRequest:
        blobs = {key: await self._images.get(key) for key in stored.keys}
        return restore_request(stored, blobs)

    async def _generate(
        self, job: Job, run: _Run, index: int, request: GenerationRequest
    ) -> GenerationResult:
        stream = self._models.generate(job.model, f"{job.id}.{job.attempts}.{index}", request)
        async with aclosing(stream) as news:  # type: ignore[type-var]
            async for item in news:
                if isinstance(item, GenerationResult):
                    return item
                run.advance(index, item)
        raise GenerationFailed("the model ended without a result")

    async def _keep_images(self, job: Job, results: Sequence[GenerationResult]) -> Outcome:
        images = [image for result in results for image in result.images]
        kept = []
        for index, image in enumerate(images):
            key = output_key(job.id, index, image.format)
            await self._images.put(key, image.data)
            kept.append(
                JobImage(
                    key=key,
                    seed=image.seed,
                    width=image.width,
                    height=image.height,
                    format=image.format,
                    num_bytes=len(image.data),
                )
            )
        return Outcome(
            status=JobStatus.COMPLETED,
            images=tuple(kept),
            prompt_tokens=sum(result.prompt_tokens for result in results),
            seconds=max((result.seconds for result in results), default=0.0),
        )

    # -- ending ---------------------------------------------------------------------------------

    async def _finish(self, claim: Claim, outcome: Outcome) -> None:
        try:
            job = await self._jobs.finish(claim.job.id, claim.token, outcome)
        except LeaseLost:
            logger.info("job_id=%s ended elsewhere", claim.job.id)
        except StorageFailure as error:
            # The lease runs out and the job is tried again: it is not lost.
            logger.error("job_id=%s its end could not be recorded: %s", claim.job.id, error)
        else:
            logger.info("job_id=%s %s", job.id, job.status)
            self._events.publish(job.id, job)

    async def _release(
        self, claim: Claim, why: str, *, delay: float = 0.0, worker_died: bool = False
    ) -> None:
        with suppress(LeaseLost, StorageFailure):
            job = await asyncio.shield(
                self._jobs.release(claim.job.id, claim.token, delay=delay, worker_died=worker_died)
            )
            logger.warning("job_id=%s %s: %s", job.id, job.status, why)
            if job.status.is_final:
                self._events.publish(job.id, job)


class _Run:
    """One claimed job under way: its lease, and the sum of its requests' progress.

    ``told`` is what an earlier attempt said: progress does not fall below it.
    """

    def __init__(
        self,
        claim: Claim,
        jobs: JobStore,
        events: EventHub,
        lease_seconds: float,
        told: JobProgress | None,
    ) -> None:
        self.num_steps = 0
        self._claim = claim
        self._jobs = jobs
        self._events = events
        self._lease_seconds = lease_seconds
        self._steps: dict[int, int] = {}
        self._progress = told or JobProgress()
        self._changed = False

    def advance(self, index: int, progress: Progress) -> None:
        """Take in the news of request ``index`` and tell watchers in this process."""
        self._steps[index] = progress.step
        last = self._progress
        self._progress = JobProgress(
            step=max(last.step, sum(self._steps.values())),
            num_steps=max(self.num_steps, progress.num_steps),
            preview=progress.preview or last.preview,
            preview_index=progress.preview_index if progress.preview else last.preview_index,
            num_previews=last.num_previews + (progress.preview is not None),
        )
        self._changed = True
        self._events.publish(self._claim.job.id, self._progress)

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
                    await self._jobs.record_progress(job_id, token, self._progress)
                if time.monotonic() - renewed_at > self._lease_seconds / 3:
                    await self._jobs.renew(job_id, token, self._lease_seconds)
                    renewed_at = time.monotonic()
            except StorageFailure as error:
                if time.monotonic() - renewed_at > self._lease_seconds:
                    raise LeaseLost from error
                logger.warning("job_id=%s its lease could not be renewed: %s", job_id, error)


def _num_steps(request: GenerationRequest) -> int:
    return (request.params.num_inference_steps or 1) * request.params.num_images


def _failure(job: Job, error: BaseException) -> Outcome:
    """The outcome of a failed job; re-raises what is not the request's own failure."""
    if isinstance(
        error, WorkerDied | WorkerUnavailable | ModelNotReady | Overloaded | UnknownModel
    ):
        raise error
    if isinstance(error, AtelierError):
        logger.warning("job_id=%s %s: %s", job.id, error.code, error.message)
    elif isinstance(error, Exception):
        logger.error("job_id=%s failed unexpectedly", job.id, exc_info=error)
        error = GenerationFailed("an internal fault; see the server's log")
    else:
        raise error
    return Outcome(status=JobStatus.FAILED, error=JobError(code=error.code, message=error.message))


def _first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first_leaf(first) if isinstance(first, BaseExceptionGroup) else first
