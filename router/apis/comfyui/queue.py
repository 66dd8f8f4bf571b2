"""The queue: what runs, what waits, and how either is ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import Request
from starlette.responses import Response

from deployments.errors import JobNotFound
from router.apis.comfyui.body import parse_ids, read_object, read_optional_object
from router.apis.comfyui.cache import CACHE
from router.apis.comfyui.entry import API, render_item, was_dequeued
from router.apis.comfyui.live import Live
from router.apis.route import owner_of
from router.job import Job, JobStatus
from router.service import GenerationService


class Queue:
    """The owner's prompts that have not ended."""

    def __init__(self, service: GenerationService, live: Live) -> None:
        self._service = service
        self._live = live

    async def show(self, request: Request) -> Any:
        """Those that run, and those that wait in the order of their turns."""
        jobs = await self.jobs(owner_of(request))
        return {
            "queue_running": [render_item(job) for job in jobs if _runs(job)],
            "queue_pending": [render_item(job) for job in jobs if not _runs(job)],
        }

    async def change(self, request: Request) -> Response:
        """``clear`` all that wait, or ``delete`` some of them."""
        body = await read_object(request)
        clears, ids = bool(body.get("clear")), frozenset(parse_ids(body, "delete"))
        if clears or ids:
            jobs = await self.jobs(owner_of(request))
            waiting = [job for job in jobs if not _runs(job)]
            await self.remove([job for job in waiting if clears or job.name in ids])
        return Response()

    async def interrupt(self, request: Request) -> Response:
        """End what runs with what it has made; with a ``prompt_id`` that prompt alone, if it
        runs."""
        body = await read_optional_object(request)
        name = body.get("prompt_id")
        for job in await self.jobs(owner_of(request)):
            if _runs(job) and (not name or job.name == name):
                await self._service.interrupt(job.id, owner=job.owner)
        return Response()

    async def free(self, request: Request) -> Response:
        """Drop idle weights everywhere, or what nodes of this owner gave before to this gateway:
        each gateway has a cache of its own, and they are small."""
        body = await read_optional_object(request)
        if body.get("free_memory"):
            CACHE.clear(owner_of(request))
        if body.get("unload_models"):
            await self._service.evict()
        return Response()

    async def cancel(self, job: Job) -> bool:
        """End a prompt wherever it stands; whether there was anything to end."""
        if job.status is JobStatus.QUEUED:
            return await self.remove([job])
        if _runs(job):
            await self._service.interrupt(job.id, owner=job.owner)
        return _runs(job)

    async def jobs(self, owner: str) -> Sequence[Job]:
        """Those that run, then those that wait."""
        return await self._service.unfinished(owner=owner, api=API)

    async def remove(self, jobs: Sequence[Job]) -> bool:
        """Take prompts out of the queue without a trace in the history; whether one was ended.

        One that has begun meanwhile is cancelled all the same, and keeps its entry.
        """
        removed = []
        for job in jobs:
            try:
                removed.append(await self._service.cancel(job.id, owner=job.owner))
            except JobNotFound:
                continue
        unseen = [job.id for job in removed if was_dequeued(job)]
        if unseen:
            await self._service.hide(owner=removed[0].owner, api=API, job_ids=unseen)
        self._live.tell(*removed)
        return any(job.status is JobStatus.CANCELLED for job in removed)


def _runs(job: Job) -> bool:
    return job.status is JobStatus.IN_PROGRESS
