"""Follower: brings news of jobs that run through other gateways to those who watch them here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from router.events import EventHub, JobNews
from router.store.jobs import JobStore

logger = logging.getLogger(__name__)

#: Seconds between looks at the store.
LOOK_SECONDS: Final = 0.2


class Follower:
    """Asks the store once, for all jobs together that somebody here watches and others run.

    Args:
        is_local: whether a job runs in this process, whose news come by themselves.
    """

    def __init__(
        self, *, jobs: JobStore, events: EventHub, is_local: Callable[[str], bool]
    ) -> None:
        self._jobs = jobs
        self._events = events
        self._is_local = is_local
        self._told: dict[str, JobNews] = {}
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look, within the running event loop."""
        self._loop = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Stop looking."""
        if self._loop:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except Exception as error:
                logger.warning("news of jobs could not be read, trying again: %s", error)

    async def _look(self) -> None:
        watched = [job_id for job_id in self._events.watched if not self._is_local(job_id)]
        self._told = {job_id: self._told[job_id] for job_id in watched if job_id in self._told}
        if not watched:
            return
        for job_id, news in (await self._jobs.news(watched)).items():
            if self._told.get(job_id) != news:
                self._told[job_id] = news
                self._events.publish(job_id, news)
