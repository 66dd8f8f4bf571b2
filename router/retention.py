"""Retention: removes ended jobs and what they saved by age and size, and inputs nobody needs."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Sequence
from typing import Final

from deployments.errors import AtelierError
from router.job import Job
from router.store.files import FileStore, StoredFile
from router.store.images import ImageStore, StoredObject, is_key
from router.store.jobs import JobStore

logger = logging.getLogger(__name__)

#: What an input picture's key looks like: nothing else under ``inputs/`` is ours.
INPUT: Final = re.compile(r"inputs/[0-9a-f]{64}")
#: What a job's picture is called in the job's own folder.
OUTPUT: Final = re.compile(r"(image|temp)_[0-9]+\.[a-z]+")
#: What lies under here are owners' weights, which no job saved.
UPLOADS: Final = "weights/"
#: How many input pictures are looked up at once.
BATCH: Final = 200


class Retention:
    """Sweeps the stores. What an unfinished job needs is never touched.

    Args:
        max_age_seconds: how long ended jobs stay, and the names of uploads; None keeps them.
        max_total_bytes: above this size of the store of pictures the jobs that ended first go;
            None sets no limit. With both None nothing is ever removed.
        grace_seconds: an input picture is stored before the row that names it; one younger than
            this may still get its row.
        min_age_seconds: no job goes sooner after its end: somebody may be reading it.
    """

    def __init__(
        self,
        jobs: JobStore,
        images: ImageStore,
        files: FileStore,
        *,
        max_age_seconds: float | None = None,
        max_total_bytes: int | None = None,
        grace_seconds: float = 3600.0,
        min_age_seconds: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._jobs = jobs
        self._images = images
        self._files = files
        self._max_age_seconds = max_age_seconds
        self._max_total_bytes = max_total_bytes
        self._grace_seconds = grace_seconds
        self._min_age_seconds = min_age_seconds
        self._clock = clock

    async def run(self, interval: float) -> None:
        """Sweep every ``interval`` seconds until cancelled; a store out of reach is tried again."""
        while True:
            try:
                await self.sweep()
            except AtelierError as error:
                logger.warning("retention: %s", error)
            except Exception:
                logger.exception("retention failed, trying again")
            await asyncio.sleep(interval)

    async def sweep(self) -> int:
        """Remove what has to go; the number of jobs removed."""
        if self._max_age_seconds is None and self._max_total_bytes is None:
            return 0
        num_removed = 0
        if self._max_age_seconds is not None:
            num_removed += await self._sweep_age(self._max_age_seconds)
            await self._sweep_uploads(self._max_age_seconds)
        await self._sweep_inputs()
        if self._max_total_bytes is not None:
            num_removed += await self._sweep_size(self._max_total_bytes)
        if num_removed:
            logger.info("retention: removed %d jobs", num_removed)
        return num_removed

    async def _sweep_age(self, max_age_seconds: float) -> int:
        num_removed = 0
        age = max(max_age_seconds, self._min_age_seconds)
        while ended := await self._jobs.ended_before(self._clock() - age):
            for job in ended:
                await self._remove(job)
            num_removed += len(ended)
        return num_removed

    async def _sweep_uploads(self, max_age_seconds: float) -> None:
        """Forget the names of old uploads that no job needs; their bytes go as inputs do."""
        oldest = self._clock() - max(max_age_seconds, self._grace_seconds)
        last: StoredFile | None = None
        while old := await self._files.older_than(oldest, limit=BATCH, after=last):
            needed = await self._jobs.needed_inputs([file.key for file in old])
            await self._files.remove([file for file in old if file.key not in needed])
            last = old[-1]

    async def _sweep_size(self, max_total_bytes: int) -> int:
        num_removed = 0
        kept = [kept async for kept in self._images.list() if not kept.key.startswith(UPLOADS)]
        total = sum(one.num_bytes for one in kept)
        while total > max_total_bytes:
            ended = await self._jobs.ended_before(self._clock() - self._min_age_seconds)
            if not ended:
                logger.warning("retention: %d bytes are kept, and no job may go", total)
                break
            for job in ended:
                total -= await self._remove(job)
                num_removed += 1
                if total <= max_total_bytes:
                    break
        return num_removed

    async def _remove(self, job: Job) -> int:
        """Remove one ended job, what it saved before its row, then inputs that were only its own.

        Returns the bytes freed.
        """
        outputs = await self._outputs(job)
        await self._images.delete([kept.key for kept in outputs])
        await self._files.remove(await self._files.of_job(job.id))
        await self._jobs.delete([job.id])
        logger.info("job %s removed", job.id)
        inputs = [await self._images.stat(key) for key in dict.fromkeys(job.keys)]
        num_freed = await self._remove_unneeded([kept for kept in inputs if kept is not None])
        # NOTE: what another gateway's sweep has removed meanwhile is freed all the same.
        told = sum(image.num_bytes for image in job.images)
        return num_freed + max(told, sum(kept.num_bytes for kept in outputs))

    async def _outputs(self, job: Job) -> Sequence[StoredObject]:
        """What the job saved, also pictures that a worker left behind before it died."""
        named = {image.key for image in job.images}
        saved = [file.key for file in await self._files.of_job(job.id)]
        named.update(key for key in saved if key.startswith(f"{job.id}/"))
        outputs = [await self._images.stat(key) for key in sorted(named)]
        found = [kept for kept in outputs if kept is not None]
        if is_key(job.id):
            async for kept in self._images.list(job.id):
                own = OUTPUT.fullmatch(kept.key.removeprefix(f"{job.id}/"))
                if own and kept.key not in named:
                    found.append(kept)
        return found

    async def _sweep_inputs(self) -> None:
        batch: list[StoredObject] = []
        async for kept in self._images.list("inputs"):
            batch.append(kept)
            if len(batch) == BATCH:
                await self._remove_unneeded(batch)
                batch = []
        await self._remove_unneeded(batch)

    async def _remove_unneeded(self, inputs: Sequence[StoredObject]) -> int:
        """Remove those inputs that no job or file names and no request may be about to; bytes
        freed."""
        oldest = self._clock() - self._grace_seconds
        old = [kept for kept in inputs if kept.modified_at < oldest and INPUT.fullmatch(kept.key)]
        keys = [kept.key for kept in old]
        needed = await self._jobs.needed_inputs(keys) | await self._files.needed(keys)
        num_freed = 0
        for kept in old:
            if kept.key in needed:
                continue
            again = await self._images.stat(kept.key)
            if again is not None and again.modified_at < oldest:  # nobody stored it anew meanwhile
                await self._images.delete([kept.key])
                num_freed += kept.num_bytes
        return num_freed
