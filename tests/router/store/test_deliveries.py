"""One suite for every store of deliveries."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deployments.errors import NotFound
from router.store.deliveries import Delivery, DeliveryStatus
from tests.router.store.conftest import Rows
from tests.router.store.making import make_job


def make_delivery(
    name: str, *, job_id: str = "j", url: str = "http://x/", **fields: Any
) -> Delivery:
    payload = '{"n": "\\u0000"}'
    fields = {"owner": "ada", "event": "completed", **fields}
    return Delivery(id=name, job_id=job_id, url=url, payload=payload, **fields)


async def claim(rows: Rows) -> str | None:
    found = await rows.deliveries.claim(worker="w", lease_seconds=10)
    return found and found.id


async def test_delivery_when_added_is_kept_whole(rows: Rows) -> None:
    delivery = make_delivery("a", created_at=1.5)

    await rows.deliveries.add([delivery])

    assert await rows.deliveries.get("a") == delivery


async def test_deliveries_of_one_job_when_claimed_keep_their_order(rows: Rows) -> None:
    await rows.deliveries.add([make_delivery("a"), make_delivery("b")])
    await rows.deliveries.add([make_delivery("other", job_id="k"), make_delivery("to", url="y")])

    assert [await claim(rows) for _ in range(4)] == ["a", "other", "to", None]
    await rows.deliveries.settle("a", delivered=True)
    assert await claim(rows) == "b"
    settled = await rows.deliveries.get("a")
    assert (settled.status, settled.delivered_at) == ("delivered", rows.clock.now)


async def test_delivery_when_it_failed_is_tried_later_before_the_younger(rows: Rows) -> None:
    await rows.deliveries.add([make_delivery("a"), make_delivery("b")])
    await claim(rows)

    await rows.deliveries.settle("a", delivered=False, error="500", retry_at=rows.clock.now + 60)

    assert (await rows.deliveries.get("a")).last_error == "500"
    rows.clock.now += 59
    assert await claim(rows) is None
    rows.clock.now += 1
    assert await claim(rows) == "a"
    assert (await rows.deliveries.get("a")).attempts == 2


async def test_delivery_when_given_up_lets_the_younger_pass(rows: Rows) -> None:
    await rows.deliveries.add([make_delivery("a"), make_delivery("b")])
    await claim(rows)

    await rows.deliveries.settle("a", delivered=False, error="gone")

    assert (await rows.deliveries.get("a")).status is DeliveryStatus.FAILED
    assert await claim(rows) == "b"


async def test_delivery_when_its_worker_died_is_taken_over(rows: Rows) -> None:
    await rows.deliveries.add([make_delivery("a")])
    await claim(rows)
    assert await claim(rows) is None
    rows.clock.now += 10

    assert await claim(rows) == "a"


async def test_settle_when_settled_changes_nothing(rows: Rows) -> None:
    await rows.deliveries.add([make_delivery("a")])
    await claim(rows)
    await rows.deliveries.settle("a", delivered=True)

    await rows.deliveries.settle("a", delivered=False, error="late", retry_at=0)

    assert (await rows.deliveries.get("a")).status is DeliveryStatus.DELIVERED
    with pytest.raises(NotFound):
        await rows.deliveries.settle("absent", delivered=True)


async def test_resend_when_delivered_sends_again(rows: Rows) -> None:
    await rows.deliveries.add([make_delivery("a")])
    await claim(rows)
    await rows.deliveries.settle("a", delivered=True)

    again = await rows.deliveries.resend("a")

    assert again == await rows.deliveries.get("a")
    assert (again.status, again.next_attempt_at) == ("pending", rows.clock.now)
    assert await claim(rows) == "a"


@pytest.mark.parametrize("delivery_id", ["absent", "nul\0"], ids=ascii)
async def test_get_when_there_is_no_such_delivery(rows: Rows, delivery_id: str) -> None:
    with pytest.raises(NotFound):
        await rows.deliveries.get(delivery_id)
    with pytest.raises(NotFound):
        await rows.deliveries.resend(delivery_id)


async def test_list_when_filtered_shows_the_newest_first(rows: Rows) -> None:
    await rows.deliveries.add([make_delivery("a"), make_delivery("b", job_id="k", owner="bob")])
    await rows.deliveries.add([make_delivery("c")])

    async def ids(**filters: Any) -> list[str]:
        return [delivery.id for delivery in await rows.deliveries.list(**filters)]

    assert await ids() == ["c", "b", "a"]
    assert await ids(limit=1) == ["c"]
    assert await ids(owner="ada") == ["c", "a"]
    assert await ids(job_id="k") == ["b"]
    assert await ids(job_id="nul\0") == []


async def test_jobs_to_notify_when_told_are_told_once(rows: Rows) -> None:
    job = await rows.jobs.add(make_job(notify=True))
    await rows.jobs.add(make_job())
    assert await rows.deliveries.jobs_to_notify() == []
    ended = await rows.jobs.cancel(job.id)
    assert await rows.deliveries.jobs_to_notify() == [ended]

    await asyncio.gather(
        *(
            rows.deliveries.add([make_delivery(f"d{n}", job_id=job.id)], ends=job.id)
            for n in range(5)
        )
    )

    assert await rows.deliveries.jobs_to_notify() == []
    assert len(await rows.deliveries.list(job_id=job.id)) == 1
    assert not (await rows.jobs.get(job.id)).notify


async def test_deliveries_when_their_job_is_deleted(rows: Rows) -> None:
    job = await rows.jobs.add(make_job())
    await rows.jobs.cancel(job.id)
    await rows.deliveries.add(
        [make_delivery("a", job_id=job.id), make_delivery("b", job_id=job.id)]
    )
    await rows.deliveries.settle("a", delivered=True)

    await rows.jobs.delete([job.id])

    assert [delivery.id for delivery in await rows.deliveries.list()] == ["b"]


async def test_claims_when_made_at_once_never_share_a_delivery(rows: Rows) -> None:
    await rows.deliveries.add([make_delivery(f"d{n}", job_id=f"j{n}") for n in range(20)])

    taken = await asyncio.gather(*(claim(rows) for _ in range(40)))

    found = [name for name in taken if name is not None]
    assert len(found) == len(set(found)) == 20
