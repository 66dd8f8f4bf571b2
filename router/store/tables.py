"""The tables of rows, and a job's and a delivery's way into a row and back."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    and_,
)

from router.job import Job, JobError, JobImage, JobStatus, dump_requests, parse_requests
from router.store.deliveries import Delivery, DeliveryStatus
from router.store.record import JobRecord

metadata = MetaData()

#: SQLite numbers its rows by itself only in a column of type INTEGER.
_Serial = BigInteger().with_variant(Integer, "sqlite")


def _partial(name: str, where: ColumnElement[bool], *columns: ColumnElement[Any]) -> None:
    """Index those rows of the columns' table that meet a condition."""
    Index(name, *columns, sqlite_where=where, postgresql_where=where)


#: One row per job. ``queue`` is the model while the job is ready to be claimed, ``delayed_until``
#: is set while it waits for its time, ``lease_until`` while a worker holds it; ``unfinished_of`` is
#: the owner until it ends, ``untold_since`` is set from then until its last deliveries are written.
#: Each has its own partial index, so that no look-up pays for rows that do not matter to it.
jobs = Table(
    "jobs",
    metadata,
    Column("seq", _Serial, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("api", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("queue", Text),
    Column("turn", BigInteger, nullable=False),
    Column("delayed_until", Float(53)),
    Column("worker", Text),
    Column("lease_until", Float(53)),
    Column("attempts", Integer, nullable=False),
    Column("interrupted", Boolean, nullable=False),
    Column("finished_by", Integer),
    Column("notify", Boolean, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("ended_at", Float(53)),
    Column("unfinished_of", Text),
    Column("untold_since", Float(53)),
    Column("request", Text, nullable=False),  # JSON of what never changes
    Column("state", Text, nullable=False),  # JSON of what does, and no query asks for
    sqlite_autoincrement=True,
)
_partial(
    "jobs_queue",
    jobs.c.queue.is_not(None),
    jobs.c.queue,
    jobs.c.priority.desc(),
    jobs.c.turn,
    jobs.c.seq,
)
_partial(
    "jobs_queue_of_owner",
    jobs.c.queue.is_not(None),
    jobs.c.queue,
    jobs.c.owner,
    jobs.c.priority,
    jobs.c.turn,
)
_partial("jobs_delayed", jobs.c.delayed_until.is_not(None), jobs.c.model, jobs.c.delayed_until)
_partial("jobs_leased", jobs.c.lease_until.is_not(None), jobs.c.lease_until)
_partial(
    "jobs_running", jobs.c.lease_until.is_not(None), jobs.c.model, jobs.c.priority, jobs.c.turn
)
_partial("jobs_unfinished", jobs.c.ended_at.is_(None), jobs.c.model, jobs.c.status)
_partial("jobs_ended", jobs.c.ended_at.is_not(None), jobs.c.ended_at)
_partial(
    "jobs_unfinished_of_owner", jobs.c.unfinished_of.is_not(None), jobs.c.unfinished_of, jobs.c.seq
)
Index("jobs_of_owner", jobs.c.owner, jobs.c.seq)
_partial(
    "jobs_interrupted",
    and_(jobs.c.interrupted.is_(True), jobs.c.worker.is_not(None)),
    jobs.c.worker,
)
_partial("jobs_untold", jobs.c.untold_since.is_not(None), jobs.c.untold_since, jobs.c.seq)

#: The newest news of a job: apart, so that a step does not rewrite the job's row.
job_progress = Table(
    "job_progress",
    metadata,
    Column("job_id", ForeignKey(jobs.c.id, ondelete="CASCADE"), primary_key=True),
    Column("step", Integer, nullable=False),
    Column("num_steps", Integer, nullable=False),
    Column("preview", LargeBinary),
    Column("preview_index", Integer, nullable=False),
    Column("num_previews", Integer, nullable=False),
)

#: Which job names which input picture.
job_inputs = Table(
    "job_inputs",
    metadata,
    Column("key", Text, primary_key=True),
    Column("job_id", ForeignKey(jobs.c.id, ondelete="CASCADE"), primary_key=True, index=True),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("api", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("job_id", Text, nullable=False, index=True),
    Column("expires_at", Float(53), nullable=False, index=True),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("seq", _Serial, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("job_id", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("event", String(32), nullable=False),
    Column("payload", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", Float(53), nullable=False),
    Column("worker", Text),
    Column("last_error", Text, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("delivered_at", Float(53)),
    Index("deliveries_due", "status", "next_attempt_at", "seq"),
    Index("deliveries_of_job", "job_id", "status", "url", "seq"),
    Index("deliveries_of_owner", "owner", "seq"),
    sqlite_autoincrement=True,
)

#: What each owner set in an API that remembers settings: a JSON object.
owner_options = Table(
    "owner_options",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("api", Text, primary_key=True),
    Column("options", Text, nullable=False),
)

#: One row: the version of this schema.
meta = Table("meta", metadata, Column("schema_version", Integer, nullable=False))

_REQUEST = ("details", "webhook_url")
_STATE = (
    "updated_at",
    "started_at",
    "worker_deaths",
    "prompt_tokens",
    "seconds",
)


def job_row(record: JobRecord) -> dict[str, Any]:
    """Every column of a new job but ``seq``."""
    job = record.job
    request = {name: getattr(job, name) for name in _REQUEST}
    return {
        "id": job.id,
        "api": job.api,
        "owner": job.owner,
        "model": job.model,
        "priority": job.priority,
        "notify": job.notify,
        "created_at": job.created_at,
        "request": json.dumps({"requests": dump_requests(job.requests), **request}),
        **state_row(record),
    }


def state_row(record: JobRecord) -> dict[str, Any]:
    """The columns that change when a job moves."""
    job = record.job
    state = {name: getattr(job, name) for name in _STATE}
    images = [asdict(image) for image in job.images]
    error = job.error and asdict(job.error)
    return {
        "status": job.status.value,
        "queue": job.model if record.is_ready else None,
        "turn": record.turn,
        "delayed_until": record.delayed_until,
        "worker": record.worker,
        "lease_until": record.lease_until,
        "attempts": job.attempts,
        "interrupted": job.interrupted,
        "finished_by": record.finished_by,
        "ended_at": job.ended_at,
        "unfinished_of": None if job.status.is_final else job.owner,
        "untold_since": job.ended_at if job.notify else None,
        "state": json.dumps({"images": images, "error": error, **state}),
    }


def parse_job(row: RowMapping) -> JobRecord:
    """The inverse of ``job_row``."""
    request, state = json.loads(row["request"]), json.loads(row["state"])
    job = Job(
        id=row["id"],
        api=row["api"],
        owner=row["owner"],
        model=row["model"],
        requests=parse_requests(request["requests"]),
        status=JobStatus(row["status"]),
        priority=row["priority"],
        notify=row["notify"],
        created_at=row["created_at"],
        ended_at=row["ended_at"],
        attempts=row["attempts"],
        interrupted=row["interrupted"],
        images=tuple(JobImage(**image) for image in state["images"]),
        error=JobError(**state["error"]) if state["error"] else None,
        **{name: request[name] for name in _REQUEST},
        **{name: state[name] for name in _STATE},
    )
    return JobRecord(
        job=job,
        seq=row["seq"],
        turn=row["turn"],
        delayed_until=row["delayed_until"],
        worker=row["worker"],
        lease_until=row["lease_until"],
        finished_by=row["finished_by"],
    )


def delivery_row(delivery: Delivery) -> dict[str, Any]:
    """Every column of a delivery but ``seq``."""
    return {**asdict(delivery), "status": delivery.status.value}


def parse_delivery(row: RowMapping) -> Delivery:
    """The inverse of ``delivery_row``."""
    values = {field.name: row[field.name] for field in fields(Delivery)}
    return Delivery(**{**values, "status": DeliveryStatus(row["status"])})
