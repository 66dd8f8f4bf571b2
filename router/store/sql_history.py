"""SqlJobHistory: an owner's jobs by the client's own ids, and owners' counters, in SQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, update
from sqlalchemy.dialects import postgresql, sqlite

from deployments.errors import JobNotFound
from router.job import Job, JobStand, JobStatus
from router.store import queries
from router.store.database import Database, reads, writes
from router.store.jobs import JobStore
from router.store.record import is_storable, place_in_line
from router.store.tables import counters, jobs


class SqlJobHistory(JobStore):
    """The part of ``SqlJobStore`` that APIs with queues and histories of their own look through."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert: Any = sqlite.insert if database.is_sqlite else postgresql.insert
        self._count = (
            insert(counters)
            .values(next=1)
            .on_conflict_do_update(
                index_elements=["owner", "counter"], set_={"next": counters.c.next + 1}
            )
            .returning(counters.c.next)
        )

    @reads
    def named(self, connection: Connection, name: str, *, owner: str, api: str) -> Job:
        query = queries.named(name, owner, api)
        records = queries.fetch(connection, query) if is_storable(name) else []
        if not records:
            raise JobNotFound(f"there is no job {name!r}")
        return records[0].job

    @reads
    def unfinished(self, connection: Connection, *, owner: str, api: str) -> Sequence[Job]:
        records = queries.fetch(connection, queries.unfinished(owner, api))
        return [record.job for record in sorted(records, key=place_in_line)]

    @reads
    def unfinished_ids(self, connection: Connection, *, owner: str, api: str) -> frozenset[str]:
        return frozenset(connection.execute(queries.unfinished_ids(owner, api)).scalars())

    @reads
    def history(
        self, connection: Connection, *, owner: str, api: str, limit: int | None = None
    ) -> Sequence[str]:
        newest = connection.execute(queries.history(owner, api, limit)).scalars().all()
        return newest[::-1]

    @writes
    def hide(
        self,
        connection: Connection,
        *,
        owner: str,
        api: str,
        job_ids: Collection[str] | None,
    ) -> None:
        ended = update(jobs).values(hidden=True)
        ended = ended.where(jobs.c.owner == owner, jobs.c.api == api, jobs.c.ended_at.is_not(None))
        if job_ids is None:
            connection.execute(ended.where(jobs.c.hidden.is_(False)))
            return
        for batch in queries.batches(job_ids):
            connection.execute(ended.where(jobs.c.id.in_(batch)))

    @reads
    def changed_since(
        self, connection: Connection, moment: float, *, api: str, owners: Collection[str]
    ) -> Sequence[JobStand]:
        return [
            JobStand(id=job_id, owner=owner, status=JobStatus(status), attempts=attempts)
            for batch in queries.batches(owners)
            for job_id, owner, status, attempts in connection.execute(
                queries.changed_since(moment, api, batch)
            ).all()
        ]

    @writes
    def next_number(self, connection: Connection, *, owner: str, counter: str) -> int:
        after: int = connection.execute(
            self._count, {"owner": owner, "counter": counter}
        ).scalar_one()
        return after - 1
