"""EventHub: news of jobs to whoever watches them in this process."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from router.job import Job, JobProgress

JobNews: TypeAlias = JobProgress | Job


class Subscription:
    """One watcher's mailbox: every preview and the end, of the rest only the newest."""

    def __init__(self) -> None:
        self._news: list[JobNews] = []
        self._arrived = asyncio.Event()

    def put(self, news: JobNews) -> None:
        """Deliver without ever blocking; a slow watcher skips steps, never previews."""
        if self._news and _is_superseded(self._news[-1], news):
            self._news.pop()
        self._news.append(news)
        self._arrived.set()

    async def take(self, seconds: float) -> list[JobNews]:
        """What has arrived since the last call; waits for it up to that many seconds."""
        try:
            await asyncio.wait_for(self._arrived.wait(), seconds)
        except TimeoutError:
            return []
        self._arrived.clear()
        news, self._news = self._news, []
        return news


class EventHub:
    """Publishes within one event loop; other replicas learn the same from the job store."""

    def __init__(self) -> None:
        self._subscriptions: defaultdict[str, set[Subscription]] = defaultdict(set)

    @property
    def watched(self) -> tuple[str, ...]:
        """Ids of the jobs that somebody watches."""
        return tuple(self._subscriptions)

    def publish(self, job_id: str, news: JobNews) -> None:
        """Hand news to every watcher of the job."""
        for subscription in self._subscriptions.get(job_id, ()):
            subscription.put(news)

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[Subscription]:
        """Watch a job as long as the context is open."""
        subscription = Subscription()
        self._subscriptions[job_id].add(subscription)
        try:
            yield subscription
        finally:
            watchers = self._subscriptions[job_id]
            watchers.discard(subscription)
            if not watchers:
                del self._subscriptions[job_id]


def _is_superseded(last: JobNews, news: JobNews) -> bool:
    """Whether the newer says all that the older did."""
    if not isinstance(last, JobProgress):
        return False
    return last.preview is None or (
        isinstance(news, JobProgress) and news.num_previews == last.num_previews
    )
