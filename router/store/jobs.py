"""JobStore: the rows of jobs. One interface; ``MemoryJobStore`` and ``SqlJobStore`` keep them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from router.job import (
    Idempotency,
    Job,
    JobError,
    JobImage,
    JobProgress,
    JobStand,
    JobStatus,
)

#: How often the replica under a job may die before the job fails.
MAX_WORKER_DEATHS: Final = 3
#: How often a job may be claimed in all (leases that expired included) before it fails.
MAX_ATTEMPTS: Final = 100
#: Seconds for which an ``Idempotency-Key`` answers with its first job.
IDEMPOTENCY_SECONDS: Final = 24 * 3600.0


class LeaseLost(Exception):
    """The job is no longer this worker's: another took it over, or it was cancelled or ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A job taken by one worker. The token fences: writes with an older token are refused."""

    job: Job
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job ended: its pictures, or its error, and what its script told besides."""

    status: JobStatus
    images: tuple[JobImage, ...] = ()
    error: JobError | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """Some jobs, newest first, and the cursor of the next page; None at the end."""

    jobs: tuple[Job, ...]
    next_cursor: str | None


class JobStore(ABC):
    """Rows of jobs. Every method is atomic; each may raise ``StorageFailure``.

    Times are ``time.time()`` of the caller's machine; leases should be several seconds long so
    that clocks which differ a little do no harm.
    """

    @abstractmethod
    async def open(self) -> None:
        """Connect and bring the schema up to date; refuses a newer schema with a clear message."""

    @abstractmethod
    async def close(self) -> None:
        """Release connections."""

    @abstractmethod
    async def add(self, job: Job, *, idempotency: Idempotency | None = None) -> Job:
        """Keep a queued job and return it, or the first job of the same idempotency key.

        Keys are per (owner, api) and live for ``IDEMPOTENCY_SECONDS``. Raises ``Conflict`` when the
        key came with another digest, when the id is taken by another job, or the name by an
        unfinished one of the same owner and API; ``InvalidRequest`` for an id or a name that is
        empty, or holds NUL or lone surrogates.
        """

    @abstractmethod
    async def find(self, *, owner: str, api: str, idempotency: Idempotency) -> Job | None:
        """The first job of an idempotency key; None when it is new. Raises ``Conflict``."""

    @abstractmethod
    async def get(self, job_id: str) -> Job:
        """The job. Raises ``JobNotFound``."""

    @abstractmethod
    async def list(
        self,
        *,
        owner: str | None = None,
        api: str | None = None,
        statuses: Collection[JobStatus] = (),
        limit: int = 50,
        cursor: str | None = None,
    ) -> JobPage:
        """Jobs, newest first; ``None`` and empty filter nothing. Raises ``InvalidRequest`` for a
        cursor that is not one of ours."""

    @abstractmethod
    async def named(self, name: str, *, owner: str, api: str) -> Job:
        """The newest job with this name that is not hidden. Raises ``JobNotFound``."""

    @abstractmethod
    async def unfinished(self, *, owner: str, api: str) -> Sequence[Job]:
        """An owner's jobs that have not ended: those in progress first, then the queued ones in
        the order in which they would be claimed were there no other owners."""

    @abstractmethod
    async def unfinished_ids(self, *, owner: str, api: str) -> frozenset[str]:
        """Ids of an owner's jobs that have not ended."""

    @abstractmethod
    async def history(self, *, owner: str, api: str, limit: int | None = None) -> Sequence[str]:
        """Ids of an owner's ended jobs that are not hidden, the first to end first; the ``limit``
        newest of them."""

    @abstractmethod
    async def hide(self, *, owner: str, api: str, job_ids: Collection[str] | None) -> None:
        """Hide ended jobs of an owner (None: all of them) from ``history``. The jobs stay."""

    @abstractmethod
    async def changed_since(
        self, moment: float, *, api: str, owners: Collection[str]
    ) -> Sequence[JobStand]:
        """Where jobs of these owners stand that were added or moved since a time (Unix seconds)."""

    @abstractmethod
    async def next_number(self, *, owner: str, counter: str) -> int:
        """0, then 1, and so on: the next number of an owner's counter, never given twice."""

    @abstractmethod
    async def claim(self, *, model: str, worker: str, lease_seconds: float) -> Claim | None:
        """Take the next queued job of a model: by priority, then round-robin over owners, then age.

        A job whose release asked for a delay waits it out first. None when there is no job.
        """

    @abstractmethod
    async def renew(self, job_id: str, token: int, lease_seconds: float) -> None:
        """Prolong the lease. Raises ``LeaseLost``."""

    @abstractmethod
    async def record_progress(self, job_id: str, token: int, progress: JobProgress) -> None:
        """Publish news to watchers on any replica. Raises ``LeaseLost``.

        Without a ``preview`` the last one that was recorded stays.
        """

    @abstractmethod
    async def progress(self, job_id: str) -> JobProgress | None:
        """The newest news, or None."""

    @abstractmethod
    async def news(self, job_ids: Collection[str]) -> Mapping[str, Job | JobProgress]:
        """For each of the jobs: itself once it has ended, else its newest progress if any."""

    @abstractmethod
    async def finish(self, job_id: str, token: int, outcome: Outcome) -> Job:
        """End a claimed job. Idempotent per token; raises ``LeaseLost`` for any other token."""

    @abstractmethod
    async def release(
        self, job_id: str, token: int, *, delay: float = 0.0, worker_died: bool = False
    ) -> Job:
        """Give a claimed job back to be tried again after ``delay`` seconds.

        Counts ``worker_died``; the third death, or the ``MAX_ATTEMPTS``-th claim, fails the job
        with ``worker_lost`` and a message that says so. Raises ``LeaseLost``.
        """

    @abstractmethod
    async def cancel(self, job_id: str) -> Job:
        """Cancel a job that has not ended; one that has is returned as it stands.

        The claim of a running worker is void at once. Raises ``JobNotFound``.
        """

    @abstractmethod
    async def interrupt(self, job_id: str) -> Job:
        """Ask a running job to end with the pictures it has; a queued one ends without any, one
        that has ended is returned as it stands. Raises ``JobNotFound``."""

    @abstractmethod
    async def skip(self, job_id: str) -> Job:
        """Ask a running job to leave out what it draws just now and go on with what follows; any
        other is returned as it stands. Raises ``JobNotFound``."""

    @abstractmethod
    async def skips(self, worker: str) -> Mapping[str, int]:
        """Of the jobs that this worker holds, those that were asked to skip, and how often."""

    @abstractmethod
    async def interrupted(self, worker: str) -> frozenset[str]:
        """Ids of the jobs that this worker holds and that were asked to end."""

    @abstractmethod
    async def recover(self) -> Sequence[Job]:
        """Put jobs whose lease expired back into the queue (at their old place); returns them.

        One that was claimed ``MAX_ATTEMPTS`` times fails instead, with ``worker_lost``.
        """

    @abstractmethod
    async def counts(self) -> Mapping[tuple[str, JobStatus], int]:
        """Unfinished jobs by (model, status)."""

    @abstractmethod
    async def ended_before(self, moment: float, *, limit: int = 100) -> Sequence[Job]:
        """Jobs that ended before a time, the first to end first: what retention may remove."""

    @abstractmethod
    async def delete(self, job_ids: Collection[str]) -> None:
        """Forget ended jobs, their progress, idempotency keys and settled deliveries."""

    @abstractmethod
    async def needed_inputs(self, keys: Collection[str]) -> frozenset[str]:
        """Those of the keys that the request of any kept job, ended or not, names."""

    @abstractmethod
    async def awaited_uploads(self, keys: Collection[str]) -> frozenset[str]:
        """Those of the keys of uploaded weights that a job names which has not ended."""
