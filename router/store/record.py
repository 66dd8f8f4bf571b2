"""JobRecord: a job as a store keeps it, and every step it may take. Pure; all stores share it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from deployments.errors import Conflict, InvalidRequest, WorkerLost
from router.job import Job, JobError, JobStatus, can_become
from router.store.jobs import MAX_ATTEMPTS, MAX_WORKER_DEATHS, LeaseLost, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job and what only its store knows of it. The fencing token is ``job.attempts``.

    Attributes:
        seq: order of addition.
        turn: round of the fair order in which the job is due.
        delayed_until: Unix seconds before which the queued job is not ready.
        worker, lease_until: who holds the job in progress, and until when.
        finished_by: token whose ``finish`` ended the job; None when anything else did.
        skips: how often the present claim's worker was asked to leave out what it draws.
    """

    job: Job
    seq: int = 0
    turn: int = 0
    delayed_until: float | None = None
    worker: str | None = None
    lease_until: float | None = None
    finished_by: int | None = None
    skips: int = 0

    @property
    def is_ready(self) -> bool:
        """Whether the job can be claimed."""
        return self.job.status is JobStatus.QUEUED and self.delayed_until is None

    def claimed(self, *, worker: str, now: float, lease_seconds: float) -> JobRecord:
        """The job taken by a worker; its token is one higher than any before."""
        started_at = now if self.job.started_at is None else self.job.started_at
        moved = self._moved(
            JobStatus.IN_PROGRESS, now, attempts=self.job.attempts + 1, started_at=started_at
        )
        return replace(moved, worker=worker, lease_until=now + lease_seconds, skips=0)

    def renewed(self, token: int, *, until: float) -> JobRecord:
        """The same with a longer lease."""
        self.check(token)
        return replace(self, lease_until=until)

    def finished(self, token: int, outcome: Outcome, *, now: float) -> JobRecord:
        """The job as its worker ended it; itself when that very token ended it before."""
        if self.finished_by == token:
            return self
        self.check(token)
        if not outcome.status.is_final:
            raise ValueError(f"a job cannot end as {outcome.status}")
        moved = self._moved(
            outcome.status,
            now,
            images=outcome.images,
            error=outcome.error,
            result=outcome.result,
            prompt_tokens=outcome.prompt_tokens,
            seconds=outcome.seconds,
        )
        return replace(moved, finished_by=token)

    def released(self, token: int, *, now: float, delay: float, worker_died: bool) -> JobRecord:
        """The job back in the queue, or failed when it was tried often enough."""
        self.check(token)
        deaths = self.job.worker_deaths + worker_died
        if deaths >= MAX_WORKER_DEATHS:
            times = f"the worker that ran this job died {deaths} times; giving up"
            return self._given_up(times, now, worker_deaths=deaths)
        requeued = self._requeued(now, worker_deaths=deaths)
        if delay > 0 and requeued.job.status is JobStatus.QUEUED:
            return replace(requeued, delayed_until=now + delay)
        return requeued

    def recovered(self, now: float) -> JobRecord:
        """The job whose worker fell silent, back in the queue, or failed."""
        return self._requeued(now)

    def promoted(self) -> JobRecord:
        """The delayed job, ready."""
        return replace(self, delayed_until=None)

    def cancelled(self, now: float) -> JobRecord:
        """The job cancelled; itself when it had ended."""
        if self.job.status.is_final:
            return self
        return self._moved(JobStatus.CANCELLED, now)

    def interrupted(self, now: float) -> JobRecord:
        """The job asked to end early: completed without a picture when it had not begun."""
        match self.job.status:
            case JobStatus.QUEUED:
                return self._moved(JobStatus.COMPLETED, now, interrupted=True)
            case JobStatus.IN_PROGRESS:
                return replace(self, job=replace(self.job, updated_at=now, interrupted=True))
        return self

    def skipped(self) -> JobRecord:
        """The running job, asked once more to leave out what it draws just now."""
        if self.job.status is not JobStatus.IN_PROGRESS:
            return self
        return replace(self, skips=self.skips + 1)

    def check(self, token: int) -> None:
        """Raise ``LeaseLost`` unless the token is the one that holds the job."""
        if self.job.status is not JobStatus.IN_PROGRESS or self.job.attempts != token:
            raise LeaseLost(f"job {self.job.id} is not held by token {token}")

    def _requeued(self, now: float, **fields: Any) -> JobRecord:
        if self.job.attempts >= MAX_ATTEMPTS:
            times = f"the job was started {self.job.attempts} times and never ended; giving up"
            return self._given_up(times, now, **fields)
        return self._moved(JobStatus.QUEUED, now, **fields)

    def _given_up(self, message: str, now: float, **fields: Any) -> JobRecord:
        error = JobError(code=WorkerLost.code, message=message)
        return self._moved(JobStatus.FAILED, now, error=error, **fields)

    def _moved(self, status: JobStatus, now: float, **fields: Any) -> JobRecord:
        if not can_become(self.job.status, status):
            raise ValueError(f"a job that is {self.job.status} cannot become {status}")
        ended_at = now if status.is_final else None
        job = replace(self.job, status=status, updated_at=now, ended_at=ended_at, **fields)
        return replace(self, job=job, delayed_until=None, worker=None, lease_until=None)


def next_turn(*, first: int | None, running: int | None, last: int | None) -> int:
    """The turn of a new job, by start-time fair queueing (Goyal, Vin and Cheng, 1996).

    Args:
        first: the lowest turn of the ready jobs of the same model and priority; None if none is.
        running: the highest turn of those in progress; None if none is.
        last: the highest turn of the owner's own ready jobs; None if none is.
    """
    own = 0 if last is None else last + 1
    return max(first or 0, running or 0, own)


def requeued_turn(turn: int, *, first: int | None) -> int:
    """The turn of a job that comes back: its own, but never behind those who came later."""
    return turn if first is None else min(turn, first)


def place_in_line(record: JobRecord) -> tuple[bool, int, int]:
    """Sorts one owner's unfinished jobs: those in progress, then the queued ones as their turns
    come. Turns of several models cannot be compared; among an owner's jobs of one model and
    priority they rise with ``seq``."""
    return record.job.status is JobStatus.QUEUED, -record.job.priority, record.seq


def check_new(job: Job) -> None:
    """Raise ``InvalidRequest`` for a job that a store cannot begin to keep."""
    if job.status is not JobStatus.QUEUED:
        raise ValueError(f"a new job is queued, not {job.status}")
    for param, text in (("id", job.id), ("name", job.name)):
        if text is not None and not is_storable(text):
            raise InvalidRequest(
                f"the {param} of a job is non-empty Unicode text without NUL characters",
                param=param,
            )


def taken(param: Literal["id", "name"], job: Job) -> Conflict:
    """The refusal of a job whose id, or whose name among the unfinished ones, another has."""
    return Conflict(f"there is a job {getattr(job, param)!r} already", param=param)


def is_storable(text: str) -> bool:
    """Whether every database can hold the text as an id: no NUL, no lone surrogates."""
    return bool(text) and "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def parse_cursor(cursor: str | None) -> int | None:
    """The ``seq`` that a page ended with. Raises ``InvalidRequest``."""
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        raise InvalidRequest("this cursor is not one that a page of jobs gave", param="cursor")
    return int(cursor)
