"""The jobs: the queue and the history as one list, and the newer way to cancel."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any, Final

from fastapi import Request
from starlette.responses import JSONResponse

from deployments.errors import InvalidRequest, JobNotFound
from router.apis.comfyui.body import parse_whole, read_object
from router.apis.comfyui.entry import API, render_entry
from router.apis.comfyui.errors import InvalidIds
from router.apis.comfyui.history import History
from router.apis.comfyui.queue import Queue
from router.apis.comfyui.summary import (
    STATUSES,
    detail,
    detail_ended,
    summarize_ended,
    summarize_unfinished,
)
from router.apis.route import owner_of
from router.job import Job
from router.service import GenerationService

#: What the list can be sorted by.
SORT_KEYS: Final = ("created_at", "execution_duration")
#: The most jobs that one request may cancel.
MAX_IDS: Final = 10_000


class Jobs:
    """The owner's prompts, whether they have ended or not."""

    def __init__(self, service: GenerationService, queue: Queue, history: History) -> None:
        self._service = service
        self._queue = queue
        self._history = history

    async def show_all(self, request: Request) -> Any:
        """Jobs by status and workflow, sorted, a page at a time."""
        query = request.query_params
        statuses = _parse_statuses(query.get("status"))
        sort_by = _parse_choice(query.get("sort_by", "created_at"), "sort_by", SORT_KEYS)
        order = _parse_choice(query.get("sort_order", "desc"), "sort_order", ("asc", "desc"))
        limit, offset = parse_whole(request, "limit"), parse_whole(request, "offset") or 0
        if limit is not None and limit <= 0:
            raise InvalidRequest("limit must be a positive integer")
        offset = max(0, offset)
        found = [job for job in await self._all(owner_of(request)) if job["status"] in statuses]
        if workflow := query.get("workflow_id"):
            found = [job for job in found if job.get("workflow_id") == workflow]
        found.sort(key=_duration if sort_by != "created_at" else _created, reverse=order == "desc")
        page = found[offset:][:limit]
        more = offset + len(page) < len(found)
        pagination = {"offset": offset, "limit": limit, "total": len(found), "has_more": more}
        return JSONResponse({"jobs": page, "pagination": pagination})

    async def show(self, request: Request) -> Any:
        """One job, with its graph and what came of it."""
        try:
            job = await self._named(request)
        except JobNotFound:
            raise JobNotFound("Job not found") from None
        if not job.status.is_final:
            return JSONResponse(detail(job, summarize_unfinished(job)))
        entry = render_entry(job)
        return JSONResponse(detail_ended(job, summarize_ended(job, entry), entry))

    async def cancel(self, request: Request) -> Any:
        """End one job wherever it stands; one that has ended or is not known is no error."""
        try:
            return {"cancelled": await self._queue.cancel(await self._named(request))}
        except JobNotFound:
            return {"cancelled": False}

    async def cancel_several(self, request: Request) -> Any:
        """The same for a list of ids; true when any of them was ended."""
        try:
            body = await read_object(request)
        except InvalidRequest:
            raise InvalidRequest("Request body must be valid JSON") from None
        ids = body.get("job_ids")
        if not isinstance(ids, list):
            raise InvalidRequest("job_ids must be a list")
        if len(ids) > MAX_IDS:
            raise InvalidRequest(f"job_ids holds {len(ids)} ids; accepted: at most {MAX_IDS}")
        waiting = {job.name: job for job in await self._queue.jobs(owner_of(request))}
        invalid = [
            name
            for name in ids
            if not (_is_uuid(name) or (isinstance(name, str) and name in waiting))
        ]
        if invalid:
            shown = [name if isinstance(name, str) else json.dumps(name) for name in invalid]
            raise InvalidIds("job_ids contains invalid id(s)", shown)
        ended = [await self._queue.cancel(waiting[name]) for name in ids if name in waiting]
        return {"cancelled": any(ended)}

    async def _all(self, owner: str) -> list[Mapping[str, Any]]:
        """Every job once: one that ended between the two looks is told as ended."""
        unfinished = await self._queue.jobs(owner)
        entries = await self._history.entries(owner)
        jobs: dict[str, Mapping[str, Any]] = {
            job.name or "": summarize_unfinished(job) for job in unfinished
        }
        return list((jobs | {entry.name: entry.summary for entry in entries}).values())

    async def _named(self, request: Request) -> Job:
        return await self._service.named(
            request.path_params["job_id"], owner=owner_of(request), api=API
        )


def _parse_statuses(value: str | None) -> tuple[str, ...]:
    named = tuple(part.strip().lower() for part in (value or "").split(",") if part.strip())
    if strange := [name[:100] for name in named if name not in STATUSES]:
        known = ", ".join(STATUSES)
        raise InvalidRequest(
            f"Invalid status value(s): {', '.join(strange[:10])}. Valid values: {known}"
        )
    return named or STATUSES


def _parse_choice(value: str, name: str, choices: tuple[str, str]) -> str:
    if value.lower() not in choices:
        raise InvalidRequest(f"{name} must be {choices[0]!r} or {choices[1]!r}")
    return value.lower()


def _created(job: Mapping[str, Any]) -> float:
    return float(job.get("create_time", 0))


def _duration(job: Mapping[str, Any]) -> float:
    begun, ended = job.get("execution_start_time", 0), job.get("execution_end_time", 0)
    return float(ended - begun) if begun and ended else 0.0


def _is_uuid(name: Any) -> bool:
    try:
        return isinstance(name, str) and str(uuid.UUID(name)) == name
    except ValueError:
        return False
