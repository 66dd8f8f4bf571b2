"""The statements over the rows of jobs, and how their rows are read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, select

from router.job import Job, JobStatus
from router.store.record import JobRecord, is_storable, next_turn
from router.store.rows import parse_job
from router.store.tables import idempotency_keys, job_inputs, job_progress, jobs

#: How many rows one statement names or changes at most.
BATCH: Final = 500
UNFINISHED: Final = frozenset({JobStatus.QUEUED, JobStatus.IN_PROGRESS})


def fetch(connection: Connection, query: Select[Any]) -> list[JobRecord]:
    """The records that a selection of whole rows finds."""
    rows = (connection.execute(query)).mappings().all()
    return [parse_job(row) for row in rows]


def ready(model: str) -> Select[Any]:
    """The job that is next: by priority, then turn, then age; locked unless another holds it."""
    order = (jobs.c.priority.desc(), jobs.c.turn, jobs.c.seq)
    query = select(jobs).where(jobs.c.queue == model).order_by(*order).limit(1)
    return query.with_for_update(skip_locked=True)


def due(model: str, now: float) -> Select[Any]:
    """Delayed jobs whose time has come, locked."""
    query = select(jobs).where(jobs.c.model == model, jobs.c.delayed_until <= now)
    return query.limit(BATCH).with_for_update(skip_locked=True)


def expired(now: float) -> Select[Any]:
    """Jobs whose lease is over, locked."""
    query = select(jobs).where(jobs.c.lease_until <= now).order_by(jobs.c.lease_until)
    return query.limit(BATCH).with_for_update(skip_locked=True)


def interrupted(worker: str) -> Select[Any]:
    """Ids of the jobs that a worker holds and that were asked to end."""
    return select(jobs.c.id).where(jobs.c.interrupted.is_(True), jobs.c.worker == worker)


def skips(worker: str) -> Select[Any]:
    """Ids of the jobs that a worker holds and that were asked to skip, and how often."""
    is_held = (jobs.c.lease_until.is_not(None), jobs.c.worker == worker)
    return select(jobs.c.id, jobs.c.skips).where(*is_held, jobs.c.skips > 0)


def ended(before: float, limit: int) -> Select[Any]:
    """Jobs that ended before a moment, the first to end first."""
    query = select(jobs).where(jobs.c.ended_at < before)
    return query.order_by(jobs.c.ended_at, jobs.c.seq).limit(limit)


def kept_key(owner: str, api: str, key: str) -> Select[Any]:
    """The row of an idempotency key."""
    keys = idempotency_keys.c
    mine = (keys.owner == owner, keys.api == api, keys.key == key)
    return select(idempotency_keys).where(*mine)


def progress_of(job_ids: Collection[str]) -> Select[Any]:
    """The rows of the jobs' newest progress."""
    return select(job_progress).where(job_progress.c.job_id.in_(job_ids))


def ended_among(job_ids: Collection[str]) -> Select[Any]:
    """Those of the jobs that have ended."""
    return select(jobs).where(jobs.c.id.in_(job_ids), jobs.c.ended_at.is_not(None))


def named(name: str, owner: str, api: str) -> Select[Any]:
    """The newest job with the client's own id that is not hidden."""
    query = select(jobs).where(jobs.c.owner == owner, jobs.c.api == api, jobs.c.name == name)
    return query.where(jobs.c.hidden.is_(False)).order_by(jobs.c.seq.desc()).limit(1)


def unfinished(owner: str, api: str) -> Select[Any]:
    """An owner's jobs that have not ended."""
    query = select(jobs).where(jobs.c.unfinished_of == owner, jobs.c.api == api)
    return query.order_by(jobs.c.seq)


def unfinished_ids(owner: str, api: str) -> Select[Any]:
    """Ids of an owner's jobs that have not ended."""
    return select(jobs.c.id).where(jobs.c.unfinished_of == owner, jobs.c.api == api)


def history(owner: str, api: str, limit: int | None) -> Select[Any]:
    """Ids of an owner's ended jobs that are not hidden, the last to end first."""
    query = select(jobs.c.id).where(
        jobs.c.owner == owner,
        jobs.c.api == api,
        jobs.c.ended_at.is_not(None),
        jobs.c.hidden.is_(False),
    )
    return query.order_by(jobs.c.ended_at.desc(), jobs.c.seq.desc()).limit(limit)


def changed_since(moment: float, api: str, owners: Collection[str]) -> Select[Any]:
    """Where jobs of these owners stand that were added or moved since a moment."""
    stand = (jobs.c.id, jobs.c.owner, jobs.c.status, jobs.c.attempts)
    query = select(*stand).where(jobs.c.api == api, jobs.c.owner.in_(owners))
    return query.where(jobs.c.updated_at >= moment)


def to_notify(limit: int) -> Select[Any]:
    """Ended jobs whose last deliveries are not written, the first to end first."""
    query = select(jobs).where(jobs.c.untold_since.is_not(None))
    return query.order_by(jobs.c.untold_since, jobs.c.seq).limit(limit)


def awaited(keys: Collection[str]) -> Select[Any]:
    """Those of the keys that a job names which has not ended."""
    inputs = job_inputs.c
    named = select(inputs.key).join(jobs, jobs.c.id == inputs.job_id)
    return named.where(inputs.key.in_(keys), jobs.c.ended_at.is_(None)).distinct()


def held(job_id: str, token: int) -> tuple[ColumnElement[bool], ...]:
    """Whether a token holds a job, as ``JobRecord.check`` has it."""
    return (
        jobs.c.id == job_id,
        jobs.c.status == JobStatus.IN_PROGRESS.value,
        jobs.c.attempts == token,
    )


def first_turn(job: Job) -> Select[int]:
    """The lowest turn of the ready jobs of the same model and priority."""
    query = select(jobs.c.turn).where(jobs.c.queue == job.model, jobs.c.priority == job.priority)
    return query.order_by(jobs.c.turn).limit(1)


def running_turn(job: Job) -> Select[int]:
    """The highest turn of the jobs in progress of the same model and priority."""
    query = select(jobs.c.turn).where(
        jobs.c.model == job.model,
        jobs.c.priority == job.priority,
        jobs.c.lease_until.is_not(None),
    )
    return query.order_by(jobs.c.turn.desc()).limit(1)


def last_turn(job: Job) -> Select[int]:
    """The highest turn of the owner's own ready jobs of the same model and priority."""
    query = select(jobs.c.turn).where(
        jobs.c.queue == job.model, jobs.c.owner == job.owner, jobs.c.priority == job.priority
    )
    return query.order_by(jobs.c.turn.desc()).limit(1)


def turn_for(connection: Connection, job: Job) -> int:
    """The turn of a new job.

    NOTE: two replicas that add for one owner at once may draw the same turn; both jobs then share
    a round.
    """
    turns = (first_turn(job), running_turn(job), last_turn(job))
    query = select(*(turn.scalar_subquery() for turn in turns))
    first, running, last = (connection.execute(query)).one()
    return next_turn(first=first, running=running, last=last)


def page(
    owner: str | None, api: str | None, statuses: Collection[JobStatus], before: int | None
) -> Select[Any]:
    """Jobs, newest first; None and empty filter nothing."""
    query = select(jobs).order_by(jobs.c.seq.desc())
    is_open = bool(statuses) and UNFINISHED.issuperset(statuses)
    if owner is not None:
        query = query.where((jobs.c.unfinished_of if is_open else jobs.c.owner) == owner)
    if api is not None:
        query = query.where(jobs.c.api == api)
    if statuses:
        query = query.where(jobs.c.status.in_([status.value for status in statuses]))
    return query if before is None else query.where(jobs.c.seq < before)


def batches(items: Collection[str]) -> Iterator[list[str]]:
    """The items that rows can hold, in lists that one statement can name."""
    kept = [item for item in items if is_storable(item)]
    return (kept[start : start + BATCH] for start in range(0, len(kept), BATCH))
