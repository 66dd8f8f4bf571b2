"""SqlDeliveryStore: the rows of webhook deliveries, in the database of the jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Select, Update, exists, select, update

from deployments.errors import NotFound
from router.job import Job
from router.store import queries, tables
from router.store.database import Database, reads, writes
from router.store.deliveries import Delivery, DeliveryStatus, DeliveryStore, resent, settled
from router.store.record import is_storable
from router.store.rows import delivery_row, parse_delivery

_DELIVERIES = tables.deliveries


class SqlDeliveryStore(DeliveryStore):
    """Deliveries in the ``Database`` of a ``SqlJobStore``, which opens and closes it."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    @reads
    def jobs_to_notify(self, connection: Connection, *, limit: int = 100) -> Sequence[Job]:
        found = queries.fetch(connection, queries.to_notify(limit))
        return [record.job for record in found]

    @writes
    def add(
        self, connection: Connection, deliveries: Sequence[Delivery], *, ends: str | None = None
    ) -> None:
        row = tables.jobs.c
        untold = update(tables.jobs).where(row.id == ends, row.notify)
        clear = untold.values(notify=False, untold_since=None)
        if ends is not None and not connection.execute(clear).rowcount:
            return
        if deliveries:
            rows = [delivery_row(delivery) for delivery in deliveries]
            connection.execute(_DELIVERIES.insert(), rows)

    @writes
    def claim(
        self, connection: Connection, *, worker: str, lease_seconds: float
    ) -> Delivery | None:
        now = self._clock()
        for due in _fetch(connection, _next(now)):
            claimed = replace(due, attempts=due.attempts + 1, next_attempt_at=now + lease_seconds)
            _save(connection, claimed, worker=worker)
            return claimed
        return None

    @writes
    def settle(
        self,
        connection: Connection,
        delivery_id: str,
        *,
        delivered: bool,
        error: str = "",
        retry_at: float | None = None,
    ) -> None:
        delivery = _one(connection, delivery_id, lock=True)
        after = settled(
            delivery, delivered=delivered, error=error, retry_at=retry_at, now=self._clock()
        )
        if after is not delivery:
            _save(connection, after, worker=None)
        if retry_at is not None:
            connection.execute(_postpone(after))

    @reads
    def get(self, connection: Connection, delivery_id: str) -> Delivery:
        return _one(connection, delivery_id)

    @reads
    def list(
        self,
        connection: Connection,
        *,
        owner: str | None = None,
        job_id: str | None = None,
        limit: int = 50,
    ) -> Sequence[Delivery]:
        query = select(_DELIVERIES).order_by(_DELIVERIES.c.seq.desc()).limit(limit)
        if owner is not None:
            query = query.where(_DELIVERIES.c.owner == owner)
        if job_id is not None:
            query = query.where(_DELIVERIES.c.job_id == job_id)
        if job_id is not None and not is_storable(job_id):
            return []
        return _fetch(connection, query)

    @writes
    def resend(self, connection: Connection, delivery_id: str) -> Delivery:
        again = resent(_one(connection, delivery_id, lock=True), now=self._clock())
        _save(connection, again, worker=None)
        return again


def _next(now: float) -> Select[Any]:
    """The delivery that is due longest and has no pending elder; locked."""
    pending = DeliveryStatus.PENDING.value
    own, elder = _DELIVERIES.c, _DELIVERIES.alias("elder").c
    has_elder = exists().where(
        elder.job_id == own.job_id,
        elder.url == own.url,
        elder.status == pending,
        elder.seq < own.seq,
    )
    return (
        select(_DELIVERIES)
        .where(own.status == pending, own.next_attempt_at <= now, ~has_elder)
        .order_by(own.next_attempt_at, own.seq)
        .limit(1)
        .with_for_update(skip_locked=True, of=_DELIVERIES)
    )


def _postpone(elder: Delivery) -> Update:
    """Lets what waits behind a delivery wait as long, so that no claim has to pass over it."""
    row = _DELIVERIES.c
    change = update(_DELIVERIES).where(
        row.job_id == elder.job_id,
        row.url == elder.url,
        row.status == DeliveryStatus.PENDING.value,
        row.next_attempt_at < elder.next_attempt_at,
    )
    return change.values(next_attempt_at=elder.next_attempt_at)


def _fetch(connection: Connection, query: Select[Any]) -> list[Delivery]:
    rows = (connection.execute(query)).mappings().all()
    return [parse_delivery(row) for row in rows]


def _one(connection: Connection, delivery_id: str, *, lock: bool = False) -> Delivery:
    """The delivery, if asked locked while a transaction lasts. Raises ``NotFound``."""
    query = select(_DELIVERIES).where(_DELIVERIES.c.id == delivery_id)
    query = query.with_for_update() if lock else query
    found = _fetch(connection, query) if is_storable(delivery_id) else []
    if not found:
        raise NotFound(f"there is no delivery {delivery_id!r}")
    return found[0]


def _save(connection: Connection, delivery: Delivery, *, worker: str | None) -> None:
    row = delivery_row(delivery)
    change = update(_DELIVERIES).where(_DELIVERIES.c.id == delivery.id)
    connection.execute(change.values({**row, "worker": worker}))
