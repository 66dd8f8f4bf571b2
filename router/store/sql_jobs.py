"""SqlJobStore: the rows of jobs in SQLite or PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, bindparam, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from deployments.errors import Conflict, JobNotFound
from router.job import Idempotency, Job, JobProgress, JobStatus
from router.store import queries, rows, tables
from router.store.database import Database, reads, writes
from router.store.deliveries import DeliveryStatus
from router.store.jobs import (
    IDEMPOTENCY_SECONDS,
    Claim,
    JobPage,
    LeaseLost,
    Outcome,
)
from router.store.record import (
    JobRecord,
    check_new,
    is_storable,
    parse_cursor,
    requeued_turn,
    taken,
)
from router.store.sql_history import SqlJobHistory

_SAVE: Final = update(tables.jobs).where(tables.jobs.c.seq == bindparam("row"))


class SqlJobStore(SqlJobHistory):
    """Jobs in a ``Database``, which it opens and closes; ``SqlDeliveryStore`` shares it."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(database)
        self._clock = clock
        insert: Any = sqlite.insert if database.is_sqlite else postgresql.insert
        self._add_job = insert(tables.jobs).on_conflict_do_nothing().returning(tables.jobs.c.seq)
        self._add_key = (
            insert(tables.idempotency_keys)
            .on_conflict_do_nothing()
            .returning(tables.idempotency_keys.c.key)
        )
        news = insert(tables.job_progress)
        changed = {field.name: news.excluded[field.name] for field in fields(JobProgress)}
        changed["preview"] = func.coalesce(news.excluded.preview, tables.job_progress.c.preview)
        self._put_progress = news.on_conflict_do_update(index_elements=["job_id"], set_=changed)

    async def open(self) -> None:
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()

    @writes
    def add(
        self, connection: Connection, job: Job, *, idempotency: Idempotency | None = None
    ) -> Job:
        check_new(job)
        first = idempotency and self._first_job(connection, job, idempotency)
        if first:
            return first
        self._keep(connection, job)
        return job

    @reads
    def find(
        self, connection: Connection, *, owner: str, api: str, idempotency: Idempotency
    ) -> Job | None:
        kept = connection.execute(queries.kept_key(owner, api, idempotency.key)).mappings().first()
        if kept is None or kept["expires_at"] <= self._clock():
            return None
        return self._same(connection, kept, idempotency)

    @reads
    def get(self, connection: Connection, job_id: str) -> Job:
        return self._record(connection, job_id).job

    @reads
    def list(
        self,
        connection: Connection,
        *,
        owner: str | None = None,
        api: str | None = None,
        statuses: Collection[JobStatus] = (),
        limit: int = 50,
        cursor: str | None = None,
    ) -> JobPage:
        if not all(is_storable(name) for name in (owner, api) if name is not None):
            return JobPage(jobs=(), next_cursor=None)
        query = queries.page(owner, api, statuses, parse_cursor(cursor)).limit(limit + 1)
        records = queries.fetch(connection, query)
        page = records[:limit]
        return JobPage(
            jobs=tuple(record.job for record in page),
            next_cursor=str(page[-1].seq) if len(records) > limit else None,
        )

    @writes
    def claim(
        self, connection: Connection, *, model: str, worker: str, lease_seconds: float
    ) -> Claim | None:
        now = self._clock()
        for delayed in queries.fetch(connection, queries.due(model, now)):
            self._save(connection, delayed.promoted())
        for record in queries.fetch(connection, queries.ready(model)):
            claimed = record.claimed(worker=worker, now=now, lease_seconds=lease_seconds)
            self._save(connection, claimed)
            return Claim(job=claimed.job, token=claimed.job.attempts)
        return None

    @writes
    def renew(self, connection: Connection, job_id: str, token: int, lease_seconds: float) -> None:
        change = update(tables.jobs).where(*queries.held(job_id, token))
        until = self._clock() + lease_seconds
        result = connection.execute(change.values(lease_until=until))
        if not result.rowcount:
            raise LeaseLost(f"job {job_id} is not held by token {token}")

    @writes
    def record_progress(
        self, connection: Connection, job_id: str, token: int, progress: JobProgress
    ) -> None:
        lock = select(tables.jobs.c.seq).where(*queries.held(job_id, token))
        if connection.execute(lock.with_for_update()).first() is None:
            raise LeaseLost(f"job {job_id} is not held by token {token}")
        row = {"job_id": job_id, **rows.progress_row(progress)}
        connection.execute(self._put_progress, row)

    @reads
    def progress(self, connection: Connection, job_id: str) -> JobProgress | None:
        row = connection.execute(queries.progress_of([job_id])).mappings().first()
        return None if row is None else rows.parse_progress(row)

    @reads
    def news(
        self, connection: Connection, job_ids: Collection[str]
    ) -> Mapping[str, Job | JobProgress]:
        found: dict[str, Job | JobProgress] = {}
        for batch in queries.batches(job_ids):
            for row in connection.execute(queries.progress_of(batch)).mappings():
                found[row["job_id"]] = rows.parse_progress(row)
            for record in queries.fetch(connection, queries.ended_among(batch)):
                found[record.job.id] = record.job
        return found

    @writes
    def finish(self, connection: Connection, job_id: str, token: int, outcome: Outcome) -> Job:
        record = self._held(connection, job_id)
        finished = record.finished(token, outcome, now=self._clock())
        if finished is not record:
            self._save(connection, finished)
        return finished.job

    @writes
    def release(
        self,
        connection: Connection,
        job_id: str,
        token: int,
        *,
        delay: float = 0.0,
        worker_died: bool = False,
    ) -> Job:
        record = self._held(connection, job_id)
        released = record.released(token, now=self._clock(), delay=delay, worker_died=worker_died)
        self._save(connection, released)
        return released.job

    @writes
    def cancel(self, connection: Connection, job_id: str) -> Job:
        record = self._record(connection, job_id, lock=True)
        cancelled = record.cancelled(self._clock())
        if cancelled is not record:
            self._save(connection, cancelled)
        return cancelled.job

    @writes
    def interrupt(self, connection: Connection, job_id: str) -> Job:
        record = self._record(connection, job_id, lock=True)
        interrupted = record.interrupted(self._clock())
        if interrupted is not record:
            self._save(connection, interrupted)
        return interrupted.job

    @writes
    def skip(self, connection: Connection, job_id: str) -> Job:
        record = self._record(connection, job_id, lock=True)
        skipped = record.skipped()
        if skipped is not record:
            self._save(connection, skipped)
        return skipped.job

    @reads
    def skips(self, connection: Connection, worker: str) -> Mapping[str, int]:
        return {row.id: row.skips for row in connection.execute(queries.skips(worker))}

    @reads
    def interrupted(self, connection: Connection, worker: str) -> frozenset[str]:
        return frozenset(connection.execute(queries.interrupted(worker)).scalars())

    @writes
    def recover(self, connection: Connection) -> Sequence[Job]:
        now = self._clock()
        keys = tables.idempotency_keys
        connection.execute(delete(keys).where(keys.c.expires_at <= now))
        silent = queries.fetch(connection, queries.expired(now))
        recovered = [record.recovered(now) for record in silent]
        for record in recovered:
            self._save(connection, record)
        return [record.job for record in recovered]

    @reads
    def counts(self, connection: Connection) -> Mapping[tuple[str, JobStatus], int]:
        row = tables.jobs.c
        query = (
            select(row.model, row.status, func.count())
            .where(row.ended_at.is_(None))
            .group_by(row.model, row.status)
        )
        found = connection.execute(query).all()
        return {(model, JobStatus(status)): number for model, status, number in found}

    @reads
    def ended_before(
        self, connection: Connection, moment: float, *, limit: int = 100
    ) -> Sequence[Job]:
        found = queries.fetch(connection, queries.ended(moment, limit))
        return [record.job for record in found]

    @writes
    def delete(self, connection: Connection, job_ids: Collection[str]) -> None:
        jobs, keys, deliveries = tables.jobs, tables.idempotency_keys, tables.deliveries
        for ids in queries.batches(job_ids):
            ended = delete(jobs).where(jobs.c.id.in_(ids), jobs.c.ended_at.is_not(None))
            result = connection.execute(ended.returning(jobs.c.id))
            gone = list(result.scalars())
            connection.execute(delete(keys).where(keys.c.job_id.in_(gone)))
            connection.execute(
                delete(deliveries).where(
                    deliveries.c.job_id.in_(gone),
                    deliveries.c.status != DeliveryStatus.PENDING.value,
                )
            )

    @reads
    def needed_inputs(self, connection: Connection, keys: Collection[str]) -> frozenset[str]:
        named: set[str] = set()
        column = tables.job_inputs.c.key
        for batch in queries.batches(keys):
            query = select(column).where(column.in_(batch)).distinct()
            named.update(connection.execute(query).scalars())
        return frozenset(named)

    @reads
    def awaited_uploads(self, connection: Connection, keys: Collection[str]) -> frozenset[str]:
        named: set[str] = set()
        for batch in queries.batches(keys):
            named.update(connection.execute(queries.awaited(batch)).scalars())
        return frozenset(named)

    def _first_job(self, connection: Connection, job: Job, idempotency: Idempotency) -> Job | None:
        """The job that the key brought before; None when it is new, and from now on this job's."""
        keys, now = tables.idempotency_keys, self._clock()
        mine = (
            keys.c.owner == job.owner,
            keys.c.api == job.api,
            keys.c.key == idempotency.key,
        )
        connection.execute(delete(keys).where(*mine, keys.c.expires_at <= now))
        new = {
            "owner": job.owner,
            "api": job.api,
            "key": idempotency.key,
            "digest": idempotency.digest,
            "job_id": job.id,
            "expires_at": now + IDEMPOTENCY_SECONDS,
        }
        if connection.scalar(self._add_key, new) is not None:
            return None
        kept = connection.execute(select(keys).where(*mine)).mappings().one()
        return self._same(connection, kept, idempotency)

    def _same(self, connection: Connection, kept: RowMapping, idempotency: Idempotency) -> Job:
        if kept["digest"] != idempotency.digest:
            raise Conflict("this idempotency key came with another request before")
        return self._record(connection, kept["job_id"]).job

    def _keep(self, connection: Connection, job: Job) -> None:
        turn = queries.turn_for(connection, job)
        row = rows.job_row(JobRecord(job=job, turn=turn))
        if connection.scalar(self._add_job, row) is None:
            same_id = select(tables.jobs.c.seq).where(tables.jobs.c.id == job.id)
            raise taken("name" if connection.scalar(same_id) is None else "id", job)
        keys = job.keys + job.upload_keys
        inputs = [{"key": key, "job_id": job.id} for key in dict.fromkeys(keys)]
        if inputs:
            connection.execute(tables.job_inputs.insert(), inputs)

    def _held(self, connection: Connection, job_id: str) -> JobRecord:
        """The record, locked; a job that is gone is a lost lease."""
        try:
            return self._record(connection, job_id, lock=True)
        except JobNotFound as error:
            raise LeaseLost(f"job {job_id} is gone") from error

    def _record(self, connection: Connection, job_id: str, *, lock: bool = False) -> JobRecord:
        query = select(tables.jobs).where(tables.jobs.c.id == job_id)
        if lock:
            query = query.with_for_update()
        records = queries.fetch(connection, query) if is_storable(job_id) else []
        if not records:
            raise JobNotFound(f"there is no job {job_id!r}")
        return records[0]

    def _save(self, connection: Connection, record: JobRecord) -> None:
        if record.is_ready:  # back in the queue: never behind those who came later
            first = connection.scalar(queries.first_turn(record.job))
            record = replace(record, turn=requeued_turn(record.turn, first=first))
        connection.execute(_SAVE, {"row": record.seq, **rows.state_row(record)})
