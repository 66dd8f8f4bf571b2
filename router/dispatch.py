"""Dispatcher: moves jobs along. Claims them by lease, runs them on a model, records what came."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from deployments.errors import (
    AtelierError,
    Cancelled,
    GenerationFailed,
    ModelNotReady,
    Overloaded,
    StorageFailure,
    UnknownModel,
)
from deployments.types import GenerationRequest, Load
from router.attempt import Attempt
from router.events import EventHub
from router.files import Files
from router.job import (
    Job,
    JobError,
    JobImage,
    JobStatus,
    StoredRequest,
    output_key,
    restore_request,
)
from router.models import Models, WorkerDied, WorkerUnavailable
from router.scripts import Script, find_script, width_of
from router.store.images import ImageStore
from router.store.jobs import Claim, JobStore, LeaseLost, Outcome

logger = logging.getLogger(__name__)

#: What says that no worker can take a job just now: it is tried again, later and later.
UNAVAILABLE: Final = (WorkerUnavailable, ModelNotReady, Overloaded, UnknownModel)

#: Jobs that one gateway runs at once whose scripts need no model, or find their own.
SCRIPTED_JOBS: Final = 16

#: Seconds between looks for interruptions.
INTERRUPT_SECONDS: Final = 0.25
#: Seconds between looks for jobs that no wake-up announced (other replicas', delayed ones).
IDLE_SECONDS: Final = 1.0
#: Seconds between questions to the models how busy they are.
WEIGH_SECONDS: Final = 5.0
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
        files: Files,
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
        self._files = files
        self._events = events
        self._lease_seconds = lease_seconds
        self._jobs_per_replica = jobs_per_replica
        self._running: dict[str, asyncio.Task[None]] = {}
        self._attempts: dict[str, Attempt] = {}
        self._num_running: dict[str, int] = {}
        self._wakers: dict[str, asyncio.Event] = {}
        self._loops: dict[str, asyncio.Task[None]] = {}
        self._keepers: tuple[asyncio.Task[None], ...] = ()

    # -- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to claim, within the running event loop."""
        self._keepers = (
            asyncio.create_task(self._keep()),
            asyncio.create_task(self._weigh()),
            asyncio.create_task(self._heed_interrupts()),
        )

    async def stop(self) -> None:
        """Stop claiming and give running jobs back to the queue."""
        tasks = [*self._keepers, *self._loops.values(), *self._running.values()]
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

    def interrupt(self, job_id: str) -> None:
        """End a running job with the pictures that it has."""
        if attempt := self._attempts.get(job_id):
            attempt.interrupt()

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
            except AtelierError as error:
                logger.warning("upkeep of jobs failed, trying again: %s", error)
            except Exception:
                logger.exception("upkeep of jobs failed, trying again")
            await asyncio.sleep(IDLE_SECONDS)

    async def _weigh(self) -> None:
        """Ask the models how busy they are; one that is slow to answer holds up nothing else."""
        while True:
            try:
                self.loads = await self._models.loads()
            except Exception as error:
                logger.warning("the models' loads are not known: %s", error)
            await asyncio.sleep(WEIGH_SECONDS)

    async def _heed_interrupts(self) -> None:
        """Learn of interruptions that were asked of other replicas, and of skips."""
        while True:
            await asyncio.sleep(INTERRUPT_SECONDS)
            if self._running:
                with suppress(StorageFailure):
                    for job_id in await self._jobs.interrupted(self.worker):
                        self.interrupt(job_id)
                    for job_id, num_skips in (await self._jobs.skips(self.worker)).items():
                        if attempt := self._attempts.get(job_id):
                            attempt.skip(num_skips)

    def _serve(self, model: str) -> None:
        if model not in self._loops:
            self._wakers[model] = asyncio.Event()
            # NOTE: in a context of its own: in a request's, Serve would take every later job's
            # calls for that request's, and cancel them all when its client hangs up.
            self._loops[model] = asyncio.create_task(
                self._claim_jobs_of(model), context=contextvars.Context()
            )

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
        if not model:
            return SCRIPTED_JOBS
        for status in self._models.statuses():
            if status.id == model and status.card is not None:
                each = self._jobs_per_replica or status.card.max_ongoing_requests
                return each * max(1, status.num_replicas)
        return 0  # it has not started: its jobs wait, and lose no attempt by it

    def _begin(self, claim: Claim) -> None:
        job = claim.job
        running = self._num_running.get(job.model, 0)
        self._num_running[job.model] = running + _width(job)
        task = asyncio.create_task(self._run(claim))
        self._running[job.id] = task
        task.add_done_callback(lambda _: self._end(job, task))

    def _end(self, job: Job, task: asyncio.Task[None]) -> None:
        if self._running.get(job.id) is task:
            del self._running[job.id]
            self._attempts.pop(job.id, None)
        self._num_running[job.model] -= _width(job)
        self._wakers[job.model].set()

    # -- running --------------------------------------------------------------------------------

    async def _run(self, claim: Claim) -> None:
        job = claim.job
        logger.info("job_id=%s in_progress model=%s attempt=%d", job.id, job.model, job.attempts)
        try:
            told = await self._jobs.progress(job.id) if job.attempts > 1 else None
            attempt = Attempt(
                claim=claim,
                models=self._models,
                jobs=self._jobs,
                files=self._files,
                events=self._events,
                lease_seconds=self._lease_seconds,
                told=told,
            )
            self._attempts[job.id] = attempt
            outcome = await attempt.while_leased(self._outcome(job, attempt))
        except LeaseLost:
            logger.info("job_id=%s is no longer ours", job.id)
        except asyncio.CancelledError:
            await self._release(claim, "the gateway stops, or the job was cancelled")
            raise
        except WorkerDied:
            await self._release(claim, "its worker died", delay=RETRY_SECONDS, worker_died=True)
        except UNAVAILABLE as error:
            delay = min(MAX_RETRY_SECONDS, RETRY_SECONDS * 2 ** (job.attempts - 1))
            await self._release(claim, f"no worker takes it: {error}", delay=delay)
        except StorageFailure as error:
            await self._release(claim, f"the store is out of reach: {error}", delay=RETRY_SECONDS)
        else:
            await self._finish(claim, outcome)

    async def _outcome(self, job: Job, attempt: Attempt) -> Outcome:
        """What came of a job; raises only what another try may mend."""
        try:
            if job.attempts > 1:
                # An earlier gateway may have died and left the job's requests running. Here the
                # lease is renewed meanwhile: a replica may be slow to answer.
                for model in _models_of(job):
                    await self._models.cancel(model, f"{job.id}.")
            script = find_script(job.details.get("script", ""))
            requests = await asyncio.gather(*(self._restore(s) for s in job.requests))
            error = await self._perform(job, attempt, script, requests)
            images = (
                await self._keep_images(job, attempt) if error is None or attempt.result else ()
            )
            await attempt.record_notes()
            return _outcome(job, attempt, images, error)
        except Exception as error:
            return _outcome(job, attempt, (), _reason(job, error))

    async def _perform(
        self, job: Job, attempt: Attempt, script: Script, requests: Sequence[GenerationRequest]
    ) -> AtelierError | None:
        """Run the job's script; the failure that ended it, if one did."""
        try:
            await attempt.perform(script, requests, job.details.get("script_args", {}))
        except BaseExceptionGroup as group:
            return _reason(job, _first_leaf(group))
        except Exception as error:
            return _reason(job, error)
        return None

    async def _restore(self, stored: StoredRequest) -> GenerationRequest:
        try:
            blobs = {key: await self._images.get(key) for key in stored.keys}
        except StorageFailure as error:
            raise WorkerUnavailable("its input pictures are out of reach") from error
        return restore_request(stored, blobs)

    async def _keep_images(self, job: Job, attempt: Attempt) -> tuple[JobImage, ...]:
        kept = []
        for place, image in sorted(attempt.pictures.items()):
            if isinstance(image, JobImage):
                kept.append(image)
                continue
            key = output_key(job.id, place, image.format)
            await self._images.put(key, image.data)
            kept.append(
                JobImage(
                    key=key,
                    seed=image.seed,
                    width=image.width,
                    height=image.height,
                    format=image.format,
                    num_bytes=len(image.data),
                    place=place,
                )
            )
        return tuple(kept)

    # -- ending ---------------------------------------------------------------------------------

    async def _finish(self, claim: Claim, outcome: Outcome) -> None:
        """Record the end; tried again while the lease may hold, so that nothing is drawn twice."""
        deadline = time.monotonic() + self._lease_seconds
        while True:
            try:
                job = await self._jobs.finish(claim.job.id, claim.token, outcome)
            except LeaseLost:
                logger.info("job_id=%s ended elsewhere", claim.job.id)
                return
            except StorageFailure as error:
                logger.error("job_id=%s its end could not be recorded: %s", claim.job.id, error)
                if time.monotonic() > deadline:
                    return  # the lease runs out and the job is tried again: it is not lost
                await asyncio.sleep(RETRY_SECONDS)
            else:
                logger.info("job_id=%s %s", job.id, job.status)
                self._events.publish(job.id, job)
                return

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


def _models_of(job: Job) -> Iterable[str]:
    """Every model that an earlier attempt may have asked."""
    named = {stored.request.model or "" for stored in job.requests}
    return {job.model, *named, *job.details.get("script_args", {}).get("models", ())} - {""}


def _width(job: Job) -> int:
    """How many of a model's places the job takes."""
    details = job.details
    return width_of(details.get("script", ""), len(job.requests), details.get("script_args", {}))


def _outcome(
    job: Job, attempt: Attempt, images: tuple[JobImage, ...], error: AtelierError | None
) -> Outcome:
    """How the job ended: as cancelled when its script said so after an interruption."""
    told = None
    if error is not None:
        told = JobError(code=error.code, message=error.message, param=error.param)
    status = JobStatus.COMPLETED if error is None else JobStatus.FAILED
    if isinstance(error, Cancelled) and attempt.is_interrupted:
        status, told = JobStatus.CANCELLED, None
    elif error is not None:
        logger.warning("job_id=%s %s: %s", job.id, error.code, error.message)
    return Outcome(
        status=status,
        images=images,
        error=told,
        result=attempt.result,
        prompt_tokens=attempt.prompt_tokens,
        seconds=attempt.seconds,
    )


def _reason(job: Job, error: BaseException) -> AtelierError:
    """Why a job fails; re-raises what is not the request's own failure."""
    if isinstance(error, (WorkerDied, *UNAVAILABLE)) or not isinstance(error, Exception):
        raise error
    if isinstance(error, AtelierError):
        return error
    logger.error("job_id=%s failed unexpectedly", job.id, exc_info=error)
    return GenerationFailed("an internal fault; see the server's log")


def _first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first_leaf(first) if isinstance(first, BaseExceptionGroup) else first
