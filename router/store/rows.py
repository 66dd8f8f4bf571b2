"""A job's, its progress's and a delivery's way into a row of ``tables`` and back."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import RowMapping

from router.job import (
    Job,
    JobError,
    JobImage,
    JobProgress,
    JobStatus,
    dump_own,
    dump_requests,
    parse_own,
    parse_requests,
)
from router.store.deliveries import Delivery, DeliveryStatus
from router.store.record import JobRecord

_REQUEST = ("details", "webhook_url")
_STATE = (
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
        "name": job.name,
        "api": job.api,
        "owner": job.owner,
        "model": job.model,
        "priority": job.priority,
        "notify": job.notify,
        "hidden": job.is_hidden,
        "created_at": job.created_at,
        "request": json.dumps(
            {"requests": dump_requests(job.requests), "own": dump_own(job.own), **request}
        ),
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
        "skips": record.skips,
        "finished_by": record.finished_by,
        "updated_at": job.updated_at,
        "ended_at": job.ended_at,
        "unfinished_of": None if job.status.is_final else job.owner,
        "untold_since": job.ended_at if job.notify else None,
        "state": json.dumps({"images": images, "error": error, "result": job.result, **state}),
    }


def parse_job(row: RowMapping) -> JobRecord:
    """The inverse of ``job_row``."""
    request, state = json.loads(row["request"]), json.loads(row["state"])
    job = Job(
        id=row["id"],
        name=row["name"],
        api=row["api"],
        owner=row["owner"],
        model=row["model"],
        requests=parse_requests(request["requests"]),
        own=parse_own(request.get("own", ())),  # rows of older releases have none
        status=JobStatus(row["status"]),
        priority=row["priority"],
        notify=row["notify"],
        is_hidden=row["hidden"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        ended_at=row["ended_at"],
        attempts=row["attempts"],
        interrupted=row["interrupted"],
        images=tuple(JobImage(**image) for image in state["images"]),
        error=JobError(**state["error"]) if state["error"] else None,
        result=state.get("result", {}),  # rows of before version 3 have none
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
        skips=row["skips"],
    )


def progress_row(progress: JobProgress) -> dict[str, Any]:
    """Every column of a job's progress but ``job_id``."""
    return {**asdict(progress), "notes": json.dumps(progress.notes)}


def parse_progress(row: RowMapping) -> JobProgress:
    """The inverse of ``progress_row``."""
    values = {field.name: row[field.name] for field in fields(JobProgress)}
    return JobProgress(**{**values, "notes": tuple(json.loads(row["notes"]))})


def delivery_row(delivery: Delivery) -> dict[str, Any]:
    """Every column of a delivery but ``seq``."""
    return {**asdict(delivery), "status": delivery.status.value}


def parse_delivery(row: RowMapping) -> Delivery:
    """The inverse of ``delivery_row``."""
    values = {field.name: row[field.name] for field in fields(Delivery)}
    return Delivery(**{**values, "status": DeliveryStatus(row["status"])})
