"""The handlers that steer an owner's calls and remember his options."""

from __future__ import annotations

from typing import Any, Final

from fastapi import Request

from router.apis.route import owner_of
from router.apis.sdapi import discovery
from router.apis.sdapi.bodies import (
    TaskProgress,
    read_body,
    read_object,
    read_query,
)
from router.apis.sdapi.checkpoints import checkpoints
from router.apis.sdapi.drawing import API
from router.apis.sdapi.options import (
    parse_changes,
    render_options,
)
from router.apis.sdapi.progress import newest, render_progress, render_task, task_of
from router.belongings import Variant
from router.job import Job, JobStatus
from router.scripts import CAN_SKIP
from router.service import GenerationService
from router.store.options import OptionStore

UNFINISHED: Final = (JobStatus.IN_PROGRESS, JobStatus.QUEUED)


class Control:
    """What steers an owner's calls and remembers his options."""

    def __init__(self, service: GenerationService, options: OptionStore) -> None:
        self._service = service
        self._options = options

    async def options(self, request: Request) -> Any:
        """All options, as this owner set them."""
        owner = owner_of(request)
        kept = await self._options.get(owner=owner, api=API)
        return render_options(kept, await self._checkpoints(owner))

    async def set_options(self, request: Request) -> Any:
        """Set some of them, or all."""
        owner = owner_of(request)
        changes = parse_changes(await read_object(request), await self._checkpoints(owner))
        await self._options.update(changes, owner=owner, api=API)

    async def progress(self, request: Request) -> Any:
        """How far the newest of the owner's calls is, or that of ``id_task``."""
        query = request.query_params
        job = newest(await self._jobs(request), query.get("id_task"))
        news = await self._service.progress(job.id) if job else None
        hides = query.get("skip_current_image", "").lower() in ("1", "true", "yes", "on")
        return render_progress(job, news, has_image=not hides)

    async def task_progress(self, request: Request) -> Any:
        """How far one task is."""
        asked = (
            read_query(request, TaskProgress)
            if request.method == "GET"
            else await read_body(request, TaskProgress)
        )
        page = await self._service.list(owner=owner_of(request), api=API, limit=100)
        job = newest(page.jobs, asked.id_task) if asked.id_task else None
        return render_task(job, await self._service.progress(job.id) if job else None, asked)

    async def interrupt(self, request: Request) -> Any:
        """End the owner's running calls with the pictures they have; with none running, the
        waiting ones."""
        jobs = await self._jobs(request)
        running = [job for job in jobs if job.status is JobStatus.IN_PROGRESS]
        for job in running or jobs:
            await self._service.interrupt(job.id, owner=job.owner)
        return {}

    async def skip(self, request: Request) -> Any:
        """Leave out the iteration that the owner's running calls are at; a script's call ends."""
        for job in await self._jobs(request):
            if job.status is JobStatus.IN_PROGRESS and job.details.get("script", "") in CAN_SKIP:
                await self._service.skip(job.id, owner=job.owner)
            elif job.status is JobStatus.IN_PROGRESS:
                await self._service.interrupt(job.id, owner=job.owner)

    async def pending(self, request: Request) -> Any:
        """Tasks that wait."""
        jobs = [job for job in await self._jobs(request) if job.status is JobStatus.QUEUED]
        return {"size": len(jobs), "tasks": [task_of(job) for job in reversed(jobs)]}

    async def queue_status(self, request: Request) -> Any:
        """How many calls of the owner are under way."""
        return discovery.render_queue(len(await self._jobs(request)))

    async def unload(self) -> Any:
        """Drop idle weights; the next call loads them again."""
        await self._service.evict()
        return {}

    async def _checkpoints(self, owner: str) -> tuple[Variant, ...]:
        return checkpoints(await self._service.variants(owner=owner))

    async def _jobs(self, request: Request) -> tuple[Job, ...]:
        """The owner's unfinished calls, newest first."""
        page = await self._service.list(
            owner=owner_of(request), api=API, statuses=UNFINISHED, limit=100
        )
        return page.jobs
