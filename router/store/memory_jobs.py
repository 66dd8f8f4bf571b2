"""MemoryJobStore: the rows of jobs in this process; nothing outlives it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from deployments.errors import Conflict, JobNotFound
from router.job import Idempotency, Job, JobProgress, JobStand, JobStatus
from router.store.deliveries import Delivery, DeliveryStatus
from router.store.jobs import (
    IDEMPOTENCY_SECONDS,
    Claim,
    JobPage,
    JobStore,
    LeaseLost,
    Outcome,
)
from router.store.record import (
    JobRecord,
    check_new,
    next_turn,
    parse_cursor,
    place_in_line,
    requeued_turn,
    taken,
)


class MemoryJobStore(JobStore):
    """Jobs in dictionaries. Nothing awaits inside a method, so each is atomic.

    ``records`` and ``deliveries`` are for ``MemoryDeliveryStore``, which shares them.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._seq = 0
        self._progress: dict[str, JobProgress] = {}
        #: (owner, api, key) -> (digest, id of the first job, when it expires)
        self._keys: dict[tuple[str, str, str], tuple[str, str, float]] = {}
        self._counters: dict[tuple[str, str], int] = {}
        self.records: dict[str, JobRecord] = {}
        self.deliveries: dict[str, Delivery] = {}

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to release."""

    async def add(self, job: Job, *, idempotency: Idempotency | None = None) -> Job:
        check_new(job)
        first = idempotency and self._first_job(job.owner, job.api, idempotency)
        if first:
            return first
        if job.id in self.records:
            raise taken("id", job)
        if job.name is not None and any(
            record.job.name == job.name for record in self._unfinished(job.owner, job.api)
        ):
            raise taken("name", job)
        self._seq += 1
        self.records[job.id] = JobRecord(job=job, seq=self._seq, turn=self._next_turn(job))
        if idempotency is not None:
            expires_at = self._clock() + IDEMPOTENCY_SECONDS
            key = (job.owner, job.api, idempotency.key)
            self._keys[key] = (idempotency.digest, job.id, expires_at)
        return job

    async def find(self, *, owner: str, api: str, idempotency: Idempotency) -> Job | None:
        return self._first_job(owner, api, idempotency)

    async def get(self, job_id: str) -> Job:
        return self._record(job_id).job

    async def list(
        self,
        *,
        owner: str | None = None,
        api: str | None = None,
        statuses: Collection[JobStatus] = (),
        limit: int = 50,
        cursor: str | None = None,
    ) -> JobPage:
        before = parse_cursor(cursor)
        found = [
            record
            for record in reversed(self.records.values())
            if (before is None or record.seq < before)
            and owner in (None, record.job.owner)
            and api in (None, record.job.api)
            and (not statuses or record.job.status in statuses)
        ]
        page = found[:limit]
        return JobPage(
            jobs=tuple(record.job for record in page),
            next_cursor=str(page[-1].seq) if len(found) > limit else None,
        )

    async def named(self, name: str, *, owner: str, api: str) -> Job:
        for record in reversed(self.records.values()):
            job = record.job
            if (job.name, job.owner, job.api, job.is_hidden) == (name, owner, api, False):
                return job
        raise JobNotFound(f"there is no job {name!r}")

    async def unfinished(self, *, owner: str, api: str) -> Sequence[Job]:
        return [record.job for record in sorted(self._unfinished(owner, api), key=place_in_line)]

    async def unfinished_ids(self, *, owner: str, api: str) -> frozenset[str]:
        return frozenset(record.job.id for record in self._unfinished(owner, api))

    async def history(self, *, owner: str, api: str, limit: int | None = None) -> Sequence[str]:
        ended = sorted(
            (record.job.ended_at, record.seq, record.job.id)
            for record in self.records.values()
            if record.job.ended_at is not None
            and (record.job.owner, record.job.api, record.job.is_hidden) == (owner, api, False)
        )
        newest = ended if limit is None else ended[max(0, len(ended) - limit) :]
        return [job_id for _, _, job_id in newest]

    async def hide(self, *, owner: str, api: str, job_ids: Collection[str] | None) -> None:
        for record in tuple(self.records.values()):
            job = record.job
            named = job_ids is None or job.id in job_ids
            if named and job.status.is_final and (job.owner, job.api) == (owner, api):
                self.records[job.id] = replace(record, job=replace(job, is_hidden=True))

    async def changed_since(
        self, moment: float, *, api: str, owners: Collection[str]
    ) -> Sequence[JobStand]:
        return [
            JobStand(
                id=record.job.id,
                owner=record.job.owner,
                status=record.job.status,
                attempts=record.job.attempts,
            )
            for record in self.records.values()
            if record.job.updated_at >= moment
            and record.job.api == api
            and record.job.owner in owners
        ]

    async def next_number(self, *, owner: str, counter: str) -> int:
        number = self._counters.get((owner, counter), 0)
        self._counters[owner, counter] = number + 1
        return number

    async def claim(self, *, model: str, worker: str, lease_seconds: float) -> Claim | None:
        now = self._clock()
        for record in self._of(model):
            if record.delayed_until is not None and record.delayed_until <= now:
                self._save(record.promoted())
        ready = [record for record in self._of(model) if record.is_ready]
        if not ready:
            return None
        first = min(ready, key=lambda record: (-record.job.priority, record.turn, record.seq))
        claimed = first.claimed(worker=worker, now=now, lease_seconds=lease_seconds)
        self._save(claimed)
        return Claim(job=claimed.job, token=claimed.job.attempts)

    async def renew(self, job_id: str, token: int, lease_seconds: float) -> None:
        self._save(self._held(job_id).renewed(token, until=self._clock() + lease_seconds))

    async def record_progress(self, job_id: str, token: int, progress: JobProgress) -> None:
        self._held(job_id).check(token)
        last = self._progress.get(job_id)
        preview = progress.preview or (last.preview if last else None)
        self._progress[job_id] = replace(progress, preview=preview)

    async def progress(self, job_id: str) -> JobProgress | None:
        return self._progress.get(job_id)

    async def news(self, job_ids: Collection[str]) -> Mapping[str, Job | JobProgress]:
        found: dict[str, Job | JobProgress] = {}
        for job_id in job_ids:
            record = self.records.get(job_id)
            if record is not None and record.job.status.is_final:
                found[job_id] = record.job
            elif job_id in self._progress:
                found[job_id] = self._progress[job_id]
        return found

    async def finish(self, job_id: str, token: int, outcome: Outcome) -> Job:
        return self._save(self._held(job_id).finished(token, outcome, now=self._clock()))

    async def release(
        self, job_id: str, token: int, *, delay: float = 0.0, worker_died: bool = False
    ) -> Job:
        record = self._held(job_id)
        return self._save(
            record.released(token, now=self._clock(), delay=delay, worker_died=worker_died)
        )

    async def cancel(self, job_id: str) -> Job:
        return self._save(self._record(job_id).cancelled(self._clock()))

    async def interrupt(self, job_id: str) -> Job:
        return self._save(self._record(job_id).interrupted(self._clock()))

    async def skip(self, job_id: str) -> Job:
        return self._save(self._record(job_id).skipped())

    async def skips(self, worker: str) -> Mapping[str, int]:
        return {
            record.job.id: record.skips
            for record in self.records.values()
            if record.worker == worker and record.skips
        }

    async def interrupted(self, worker: str) -> frozenset[str]:
        return frozenset(
            record.job.id
            for record in self.records.values()
            if record.worker == worker and record.job.interrupted
        )

    async def recover(self) -> Sequence[Job]:
        now = self._clock()
        self._keys = {key: kept for key, kept in self._keys.items() if kept[2] > now}
        silent = [
            record
            for record in self.records.values()
            if record.lease_until is not None and record.lease_until <= now
        ]
        return [self._save(record.recovered(now)) for record in silent]

    async def counts(self) -> Mapping[tuple[str, JobStatus], int]:
        numbers: dict[tuple[str, JobStatus], int] = {}
        for record in self.records.values():
            if not record.job.status.is_final:
                place = (record.job.model, record.job.status)
                numbers[place] = numbers.get(place, 0) + 1
        return numbers

    async def ended_before(self, moment: float, *, limit: int = 100) -> Sequence[Job]:
        ended = [
            (record.job.ended_at, record.seq, record.job)
            for record in self.records.values()
            if record.job.ended_at is not None and record.job.ended_at < moment
        ]
        return [job for _, _, job in sorted(ended, key=lambda entry: entry[:2])[:limit]]

    async def delete(self, job_ids: Collection[str]) -> None:
        gone = {
            job_id
            for job_id in job_ids
            if job_id in self.records and self.records[job_id].job.status.is_final
        }
        for job_id in gone:
            del self.records[job_id]
            self._progress.pop(job_id, None)
        self._keys = {key: kept for key, kept in self._keys.items() if kept[1] not in gone}
        for delivery in tuple(self.deliveries.values()):
            if delivery.job_id in gone and delivery.status is not DeliveryStatus.PENDING:
                del self.deliveries[delivery.id]

    async def needed_inputs(self, keys: Collection[str]) -> frozenset[str]:
        named = {key for record in self.records.values() for key in record.job.keys}
        return frozenset(named.intersection(keys))

    async def awaited_uploads(self, keys: Collection[str]) -> frozenset[str]:
        unfinished = (r.job for r in self.records.values() if r.job.ended_at is None)
        named = {key for job in unfinished for key in job.upload_keys}
        return frozenset(named.intersection(keys))

    def _first_job(self, owner: str, api: str, idempotency: Idempotency) -> Job | None:
        kept = self._keys.get((owner, api, idempotency.key))
        if kept is None or kept[2] <= self._clock():
            return None
        digest, first_id, _ = kept
        if digest != idempotency.digest:
            raise Conflict("this idempotency key came with another request before")
        return self._record(first_id).job

    def _next_turn(self, job: Job) -> int:
        peers = [r for r in self._of(job.model) if r.job.priority == job.priority]
        ready = [record for record in peers if record.is_ready]
        return next_turn(
            first=min((record.turn for record in ready), default=None),
            running=max((r.turn for r in peers if r.lease_until is not None), default=None),
            last=max((r.turn for r in ready if r.job.owner == job.owner), default=None),
        )

    def _unfinished(self, owner: str, api: str) -> Sequence[JobRecord]:
        return [
            record
            for record in self.records.values()
            if (record.job.owner, record.job.api) == (owner, api) and record.job.ended_at is None
        ]

    def _of(self, model: str) -> Sequence[JobRecord]:
        return [record for record in self.records.values() if record.job.model == model]

    def _held(self, job_id: str) -> JobRecord:
        if job_id not in self.records:
            raise LeaseLost(f"job {job_id} is gone")
        return self.records[job_id]

    def _record(self, job_id: str) -> JobRecord:
        if job_id not in self.records:
            raise JobNotFound(f"there is no job {job_id!r}")
        return self.records[job_id]

    def _save(self, record: JobRecord) -> Job:
        if record.is_ready:  # back in the queue: never behind those who came later
            peers = [r for r in self._of(record.job.model) if r.is_ready]
            turns = [r.turn for r in peers if r.job.priority == record.job.priority]
            turn = requeued_turn(record.turn, first=min(turns, default=None))
            record = replace(record, turn=turn)
        self.records[record.job.id] = record
        return record.job
