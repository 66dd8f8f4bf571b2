"""Audience: one owner's open sockets, and what they have heard of his prompts."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Collection
from typing import Final

from deployments.errors import JobNotFound
from router.apis.comfyui import frames
from router.apis.comfyui.entry import API, client_of, was_dequeued
from router.apis.comfyui.feed import Feed
from router.apis.comfyui.sockets import Socket, Sockets
from router.job import Job, JobStand, JobStatus
from router.service import GenerationService

logger = logging.getLogger(__name__)

#: Seconds by which looks at the store overlap: gateways' clocks differ, and commits take a while.
OVERLAP_SECONDS: Final = 5.0
#: Seconds for which it is remembered that an end was told.
MEMORY_SECONDS: Final = 60.0
#: Seconds before a store that failed is asked again.
RETRY_SECONDS: Final = 1.0
#: Where a new job stands, one that runs at its first attempt, and an ended one; see ``_rank``.
QUEUED: Final = 1
STARTED: Final = 2
ENDED: Final = 2**31


class Audience:
    """One owner, as long as he has a socket here or a prompt that is followed for one."""

    def __init__(self, owner: str, *, service: GenerationService, sockets: Sockets) -> None:
        self._owner = owner
        self._service = service
        self._sockets = sockets
        # NOTE: held while the prompts are counted and the number is sent, so that no older number
        # follows a newer one.
        self._lock = asyncio.Lock()
        #: Job -> where it stood when the sockets last heard of it, and when that was.
        self._heard: dict[str, tuple[int, float]] = {}
        self._feeds: dict[str, Feed] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._num_hearing = 0

    @property
    def is_busy(self) -> bool:
        """Whether news are told or prompts followed, though nobody may listen any more."""
        return bool(self._tasks) or self._num_hearing > 0

    async def welcome(self, socket: Socket) -> None:
        """Tell a new socket where things stand, and from now on everything."""
        async with self._lock:
            is_first = not self._sockets.has(self._owner, None)
            socket.missed = await self._catch_up(is_first=is_first)
            jobs = await self._service.unfinished(owner=self._owner, api=API)
            socket.send(frames.status(len(jobs), sid=socket.client_id))
            self._sockets.add(socket)
            self._tell_of_running(socket)
            if is_first:
                for job in jobs:
                    self._mark(job)
        for job in jobs:
            # NOTE: also one whose end was heard since they were read, when nobody wanted it.
            if job.id not in self._feeds:
                self._follow_if_wanted(job)
        await self.hear(jobs)

    async def hear(self, jobs: Collection[Job | JobStand]) -> None:
        """Jobs were added, or moved, or may have."""
        self._num_hearing += 1
        try:
            await self._hear(jobs)
        finally:
            self._num_hearing -= 1

    async def stop(self) -> None:
        """Leave off everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- what was heard -------------------------------------------------------------------------

    async def _hear(self, jobs: Collection[Job | JobStand]) -> None:
        has_news = False
        for job in jobs:
            if _rank(job) > self._rank_heard(job.id):
                await self._take_up(job)
            if job.id not in self._feeds or not job.status.is_final:  # the feed tells the end
                has_news |= self._mark(job)
        if has_news:
            await self._tell_status()
        self._forget()

    async def _catch_up(self, *, is_first: bool) -> frozenset[str]:
        """Take what happened before anybody listened as heard; the jobs that have just ended."""
        moment = time.time() - 2 * OVERLAP_SECONDS
        changed = await self._service.changed_since(moment, api=API, owners=[self._owner])
        if is_first:
            self._heard = {job_id: self._heard.get(job_id, (0, 0.0)) for job_id in self._feeds}
            for job in changed:
                if job.id not in self._feeds:
                    self._mark(job)
        return frozenset(job.id for job in changed if job.status.is_final)

    def _rank_heard(self, job_id: str) -> int:
        rank, _ = self._heard.get(job_id, (0, 0.0))
        return rank

    def _mark(self, job: Job | JobStand) -> bool:
        """Remember where the job stands; whether that is news."""
        return self._mark_rank(job.id, _rank(job))

    def _mark_rank(self, job_id: str, rank: int) -> bool:
        if rank <= self._rank_heard(job_id):
            return False
        self._heard[job_id] = (rank, time.monotonic())
        return True

    def _forget(self) -> None:
        now = time.monotonic()
        self._heard = {
            job_id: (rank, since)
            for job_id, (rank, since) in self._heard.items()
            if rank < ENDED or now - since < MEMORY_SECONDS
        }

    # -- following a prompt ---------------------------------------------------------------------

    def _tell_of_running(self, socket: Socket) -> None:
        """A client that comes back hears at once what its running prompt executes."""
        for feed in self._feeds.values():
            if feed.client_id == socket.client_id and feed.node is not None:
                socket.send(frames.executing(feed.node))
                return

    async def _take_up(self, job: Job | JobStand) -> None:
        if isinstance(job, JobStand):
            if job.id in self._feeds:
                return
            try:
                job = await self._service.get(job.id, owner=self._owner)
            except JobNotFound:
                return
        if job.id not in self._feeds and self._rank_heard(job.id) < ENDED:
            self._follow_if_wanted(job)

    def _follow_if_wanted(self, job: Job) -> None:
        if not self._sockets.want(job.id, self._owner, client_of(job)):
            return
        feed = Feed(job, sockets=self._sockets, files=self._service.files)
        self._feeds[job.id] = feed
        # NOTE: in a context of its own, not in that of the request which brought the news: Serve
        # would cancel what runs in a request's context when its client hangs up.
        task = asyncio.create_task(self._follow(feed), context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._leave(job.id, task))

    def _leave(self, job_id: str, task: asyncio.Task[None]) -> None:
        self._feeds.pop(job_id, None)
        self._tasks.discard(task)

    async def _follow(self, feed: Feed) -> None:
        while True:
            try:
                await self._relay(feed)
            except JobNotFound:
                return
            except Exception as error:
                logger.warning("job_id=%s its news are out of reach: %s", feed.job.id, error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def _relay(self, feed: Feed) -> None:
        """Every frame of a prompt, until it has ended."""
        if self._mark_rank(feed.job.id, QUEUED):
            await self._tell_status()
        async for news in self._service.watch(feed.job.id):
            if isinstance(news, Job):
                await self._end(feed, news)
                return
            if news.notes and self._mark_rank(feed.job.id, max(STARTED, _rank(feed.job))):
                await self._tell_status()
            await feed.relay(news)

    async def _end(self, feed: Feed, job: Job) -> None:
        """The last frames, both kinds of ending: its history can be read by now."""
        last = await self._service.progress(job.id)
        if last is not None:
            await feed.relay(last)
        async with self._lock:
            remaining = frames.status(len(await self._remaining()))
            is_told = not was_dequeued(job)
            if is_told:
                feed.begin(job)
                feed.end(job)
            self._mark(job)
            self._sockets.send(remaining, owner=self._owner, client_id=None)
            if is_told:
                feed.send(frames.executing_nothing(job.name or ""), is_for_all=False)

    # -- status ---------------------------------------------------------------------------------

    async def _tell_status(self) -> None:
        """How many prompts remain, unless one has just ended: some clients miss a prompt that has
        left the queue before its ending came. That ending brings the number, too."""
        async with self._lock:
            remaining = await self._remaining()
            if remaining.issuperset(self._feeds):
                frame = frames.status(len(remaining))
                self._sockets.send(frame, owner=self._owner, client_id=None)

    async def _remaining(self) -> frozenset[str]:
        return await self._service.unfinished_ids(owner=self._owner, api=API)


def _rank(job: Job | JobStand) -> int:
    """How far a job has come; it only grows."""
    if job.status.is_final:
        return ENDED
    return 2 * job.attempts + (job.status is JobStatus.QUEUED)
