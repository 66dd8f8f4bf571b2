"""MemoryDeliveryStore: the rows of webhook deliveries in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from deployments.errors import NotFound
from router.job import Job
from router.store.deliveries import Delivery, DeliveryStatus, DeliveryStore, resent, settled
from router.store.memory_jobs import MemoryJobStore


class MemoryDeliveryStore(DeliveryStore):
    """Deliveries beside the jobs of a ``MemoryJobStore``. Dictionaries keep the order."""

    def __init__(self, jobs: MemoryJobStore, *, clock: Callable[[], float] = time.time) -> None:
        self._jobs = jobs
        self._clock = clock

    async def jobs_to_notify(self, *, limit: int = 100) -> Sequence[Job]:
        ended = [
            (record.job.ended_at, record.seq, record.job)
            for record in self._jobs.records.values()
            if record.job.notify and record.job.ended_at is not None
        ]
        return [job for _, _, job in sorted(ended, key=lambda entry: entry[:2])[:limit]]

    async def add(self, deliveries: Sequence[Delivery], *, ends: str | None = None) -> None:
        if ends is not None:
            record = self._jobs.records.get(ends)
            if record is None or not record.job.notify:
                return
            told = replace(record, job=replace(record.job, notify=False))
            self._jobs.records[ends] = told
        self._jobs.deliveries.update({delivery.id: delivery for delivery in deliveries})

    async def claim(self, *, worker: str, lease_seconds: float) -> Delivery | None:  # noqa: ARG002
        now = self._clock()
        busy: set[tuple[str, str]] = set()
        due: list[Delivery] = []
        for delivery in self._jobs.deliveries.values():
            if delivery.status is DeliveryStatus.PENDING:
                line = (delivery.job_id, delivery.url)
                if line not in busy and delivery.next_attempt_at <= now:
                    due.append(delivery)
                busy.add(line)
        if not due:
            return None
        first = min(due, key=lambda delivery: delivery.next_attempt_at)
        return self._save(
            replace(first, attempts=first.attempts + 1, next_attempt_at=now + lease_seconds)
        )

    async def settle(
        self, delivery_id: str, *, delivered: bool, error: str = "", retry_at: float | None = None
    ) -> None:
        delivery = await self.get(delivery_id)
        now = self._clock()
        self._save(settled(delivery, delivered=delivered, error=error, retry_at=retry_at, now=now))

    async def get(self, delivery_id: str) -> Delivery:
        if delivery_id not in self._jobs.deliveries:
            raise NotFound(f"there is no delivery {delivery_id!r}")
        return self._jobs.deliveries[delivery_id]

    async def list(
        self, *, owner: str | None = None, job_id: str | None = None, limit: int = 50
    ) -> Sequence[Delivery]:
        found = [
            delivery
            for delivery in reversed(self._jobs.deliveries.values())
            if owner in (None, delivery.owner) and job_id in (None, delivery.job_id)
        ]
        return found[:limit]

    async def resend(self, delivery_id: str) -> Delivery:
        return self._save(resent(await self.get(delivery_id), now=self._clock()))

    def _save(self, delivery: Delivery) -> Delivery:
        self._jobs.deliveries[delivery.id] = delivery
        return delivery
