"""Builds a gateway's inside over in-memory stores and fake models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from router.dispatch import Dispatcher
from router.events import EventHub
from router.files import Files
from router.follow import Follower
from router.models import Models
from router.personal_models import PersonalModels
from router.service import GenerationService
from router.store.files import FileStore
from router.store.images import ImageStore, MemoryImageStore
from router.store.jobs import JobStore
from router.store.memory_files import MemoryFileStore
from router.store.memory_jobs import MemoryJobStore
from router.store.personal_models import MemoryPersonalModelStore, PersonalModelStore


@dataclass(frozen=True)
class Inside:
    service: GenerationService
    dispatcher: Dispatcher
    jobs: JobStore
    images: ImageStore
    files: Files


@asynccontextmanager
async def running(
    models: Models,
    *,
    jobs: JobStore | None = None,
    images: ImageStore | None = None,
    file_rows: FileStore | None = None,
    personal_rows: PersonalModelStore | None = None,
    lease_seconds: float = 10.0,
    jobs_per_replica: int | None = None,
    max_queued_jobs: int = 1000,
) -> AsyncIterator[Inside]:
    """A service whose dispatcher runs, as long as the context is open."""
    jobs = jobs or MemoryJobStore()
    images = images or MemoryImageStore()
    files = Files(files=file_rows or MemoryFileStore(), images=images)
    rows = personal_rows or MemoryPersonalModelStore()
    personal = PersonalModels(store=rows, images=images, jobs=jobs, models=models)
    events = EventHub()
    dispatcher = Dispatcher(
        models=models,
        jobs=jobs,
        images=images,
        files=files,
        events=events,
        lease_seconds=lease_seconds,
        jobs_per_replica=jobs_per_replica,
    )
    service = GenerationService(
        models=models,
        jobs=jobs,
        images=images,
        files=files,
        personal=personal,
        dispatcher=dispatcher,
        events=events,
        max_queued_jobs=max_queued_jobs,
    )
    follower = Follower(jobs=jobs, events=events, is_local=dispatcher.is_running)
    await jobs.open()
    dispatcher.start()
    follower.start()
    try:
        yield Inside(service, dispatcher, jobs, images, files)
    finally:
        await follower.stop()
        await dispatcher.stop()
        await jobs.close()
