"""One job under way: what its watchers on other replicas can read."""

from __future__ import annotations

import asyncio

from router.attempt import PROGRESS_SECONDS, Attempt
from router.events import EventHub
from router.fake_models import FakeModels
from router.files import Files
from router.job import JobProgress, JobStatus
from router.store.images import MemoryImageStore
from router.store.jobs import Outcome
from router.store.memory_files import MemoryFileStore
from router.store.memory_jobs import MemoryJobStore
from tests.router.store.making import make_job


class BusyJobStore(MemoryJobStore):
    """A store whose writes of progress wait until it is free."""

    def __init__(self) -> None:
        super().__init__()
        self.is_free = asyncio.Event()

    async def record_progress(self, job_id: str, token: int, progress: JobProgress) -> None:
        await self.is_free.wait()
        await super().record_progress(job_id, token, progress)


async def test_a_write_under_way_when_the_script_ends_is_not_lost() -> None:
    jobs = BusyJobStore()
    job = await jobs.add(make_job())
    claim = await jobs.claim(model=job.model, worker="w", lease_seconds=30)
    assert claim is not None
    attempt = Attempt(
        claim=claim,
        models=FakeModels(),
        jobs=jobs,
        files=Files(files=MemoryFileStore(), images=MemoryImageStore()),
        events=EventHub(),
        lease_seconds=30,
        told=None,
    )

    async def work() -> Outcome:
        attempt.note({"told": "last"})
        await asyncio.sleep(1.5 * PROGRESS_SECONDS)
        asyncio.get_running_loop().call_later(PROGRESS_SECONDS, jobs.is_free.set)
        await attempt.record_notes()
        return Outcome(status=JobStatus.COMPLETED)

    await attempt.while_leased(work())

    progress = await jobs.progress(job.id)
    assert progress is not None
    assert progress.notes == ({"told": "last"},)
