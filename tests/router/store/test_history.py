"""One suite for every store of jobs: clients' own names, lines, histories and counters."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from deployments.errors import Conflict, InvalidRequest, JobNotFound
from router.job import Job, JobProgress, JobStatus
from router.store.jobs import JobStore, Outcome
from tests.router.store.conftest import Rows
from tests.router.store.making import make_job

MINE: Mapping[str, Any] = {"owner": "ada", "api": "comfyui"}
RESULT = {"outputs": {"9": {"images": [None, 1.5, "é \0 \ud800"]}}}


async def end(rows: Rows, job: Job, **fields: object) -> Job:
    """Claim the job, which is next, and complete it a second later."""
    taken = await rows.jobs.claim(model=job.model, worker="w", lease_seconds=30)
    assert taken is not None
    assert taken.job.id == job.id
    rows.clock.now += 1
    outcome = Outcome(status=JobStatus.COMPLETED, **fields)  # type: ignore[arg-type]
    return await rows.jobs.finish(job.id, taken.token, outcome)


async def test_job_with_a_name_and_a_result_is_kept_whole(rows: Rows) -> None:
    job = await rows.jobs.add(make_job(**MINE, name="p / ünïcode"))
    assert await rows.jobs.get(job.id) == job

    ended = await end(rows, job, result=RESULT)

    assert ended.result == RESULT
    assert await (await rows.another()).get(job.id) == ended
    assert await rows.jobs.named("p / ünïcode", **MINE) == ended


async def test_failed_job_keeps_its_result(rows: Rows) -> None:
    job = await rows.jobs.add(make_job(**MINE))
    taken = await rows.jobs.claim(model=job.model, worker="w", lease_seconds=30)
    assert taken is not None

    await rows.jobs.finish(job.id, 1, Outcome(status=JobStatus.FAILED, result=RESULT))

    assert (await rows.jobs.get(job.id)).result == RESULT


async def test_name_is_unique_among_an_owners_unfinished_jobs_of_an_api(rows: Rows) -> None:
    first = await rows.jobs.add(make_job(**MINE, name="p"))
    with pytest.raises(Conflict, match="'p' already") as caught:
        await rows.jobs.add(make_job(**MINE, name="p"))
    assert caught.value.param == "name"
    await rows.jobs.add(make_job(owner="bob", api="comfyui", name="p"))
    await rows.jobs.add(make_job(owner="ada", api="sdapi", name="p"))
    await rows.jobs.add(make_job(**MINE, name="q"))
    assert await rows.jobs.named("p", **MINE) == first

    await rows.jobs.cancel(first.id)
    second = await rows.jobs.add(make_job(**MINE, name="p"))

    assert await rows.jobs.named("p", **MINE) == second


async def test_name_that_many_replicas_give_at_once_is_given_once(rows: Rows) -> None:
    stores = [rows.jobs, await rows.another(), await rows.another()]
    adds = [stores[k % 3].add(make_job(**MINE, name="p")) for k in range(12)]

    found = await asyncio.gather(*adds, return_exceptions=True)

    assert sum(isinstance(result, Job) for result in found) == 1
    assert sum(isinstance(result, Conflict) for result in found) == 11


@pytest.mark.parametrize("name", ["", "nul\0", "\ud800"], ids=ascii)
async def test_name_that_cannot_be_kept(rows: Rows, name: str) -> None:
    with pytest.raises(InvalidRequest):
        await rows.jobs.add(make_job(**MINE, name=name))
    with pytest.raises(JobNotFound):
        await rows.jobs.named(name, **MINE)


async def test_unfinished_are_those_in_progress_and_then_the_line(rows: Rows) -> None:
    low = await rows.jobs.add(make_job(**MINE, priority=-1))
    one = await rows.jobs.add(make_job(**MINE))
    two = await rows.jobs.add(make_job(**MINE, model="other"))
    await rows.jobs.add(make_job(owner="bob", api="comfyui"))
    await rows.jobs.add(make_job(owner="ada", api="sdapi"))
    high = await rows.jobs.add(make_job(**MINE, priority=7))
    gone = await rows.jobs.add(make_job(**MINE))
    await rows.jobs.cancel(gone.id)
    running = await rows.jobs.claim(model="other", worker="w", lease_seconds=30)
    assert running is not None

    line = await rows.jobs.unfinished(**MINE)

    assert [job.id for job in line] == [two.id, high.id, one.id, low.id]
    assert line[0].status is JobStatus.IN_PROGRESS


async def test_history_is_in_the_order_of_ends_and_can_be_hidden(rows: Rows) -> None:
    jobs = [await rows.jobs.add(make_job(**MINE)) for _ in range(4)]
    await rows.jobs.cancel(jobs[2].id)
    for job in (jobs[0], jobs[1]):
        await end(rows, job)
    other = await rows.jobs.add(make_job(owner="bob", api="comfyui"))
    await rows.jobs.cancel(other.id)
    in_order = [jobs[2].id, jobs[0].id, jobs[1].id]
    assert await rows.jobs.history(**MINE) == in_order
    assert await rows.jobs.history(**MINE, limit=2) == in_order[1:]
    assert await rows.jobs.history(**MINE, limit=9) == in_order
    assert await rows.jobs.history(**MINE, limit=0) == []

    hidden = [jobs[0].id, jobs[3].id, other.id, "absent", "nul\0"]
    await rows.jobs.hide(**MINE, job_ids=hidden)

    assert await rows.jobs.history(**MINE) == [jobs[2].id, jobs[1].id]
    assert await rows.jobs.history(owner="bob", api="comfyui") == [other.id]
    assert not (await rows.jobs.get(jobs[3].id)).is_hidden, "it has not ended"
    assert (await rows.jobs.get(jobs[0].id)).is_hidden
    assert len((await rows.jobs.list(owner="ada")).jobs) == 4

    await rows.jobs.hide(**MINE, job_ids=None)
    assert await rows.jobs.history(**MINE) == []
    assert await rows.jobs.history(owner="bob", api="comfyui") == [other.id]


async def test_hidden_job_is_no_longer_found_by_its_name(rows: Rows) -> None:
    job = await rows.jobs.add(make_job(**MINE, name="p"))
    await rows.jobs.cancel(job.id)

    await rows.jobs.hide(**MINE, job_ids=[job.id])

    with pytest.raises(JobNotFound):
        await rows.jobs.named("p", **MINE)


async def test_changes_are_additions_and_moves_of_the_asked_owners(rows: Rows) -> None:
    old = await rows.jobs.add(replace(make_job(**MINE), updated_at=rows.clock.now))
    still = await rows.jobs.add(replace(make_job(**MINE), updated_at=rows.clock.now))
    rows.clock.now += 10
    moment = rows.clock.now
    new = await rows.jobs.add(replace(make_job(owner="bob", api="comfyui"), updated_at=moment))
    await rows.jobs.add(replace(make_job(owner="eve", api="comfyui"), updated_at=moment))
    await rows.jobs.add(replace(make_job(owner="ada", api="sdapi"), updated_at=moment))
    await rows.jobs.cancel(old.id)

    changed = await rows.jobs.changed_since(moment, api="comfyui", owners=["ada", "bob"])

    stands = {(stand.id, stand.owner, stand.status, stand.attempts) for stand in changed}
    assert stands == {
        (old.id, "ada", JobStatus.CANCELLED, 0),
        (new.id, "bob", JobStatus.QUEUED, 0),
    }
    assert await rows.jobs.unfinished_ids(**MINE) == {still.id}
    assert await rows.jobs.changed_since(moment + 1, api="comfyui", owners=["ada"]) == []
    assert await rows.jobs.changed_since(0, api="comfyui", owners=[]) == []
    assert still.id not in {job.id for job in changed}


async def test_change_of_an_interrupted_job_is_seen(rows: Rows) -> None:
    job = await rows.jobs.add(make_job(**MINE))
    assert await rows.jobs.claim(model=job.model, worker="w", lease_seconds=30)
    rows.clock.now += 10

    await rows.jobs.interrupt(job.id)

    changed = await rows.jobs.changed_since(rows.clock.now, api="comfyui", owners=["ada"])
    assert [stand.id for stand in changed] == [job.id]
    assert (await rows.jobs.get(job.id)).interrupted


async def test_numbers_of_a_counter_rise_and_belong_to_their_owner(rows: Rows) -> None:
    assert [await rows.jobs.next_number(owner="ada", counter="c") for _ in range(3)] == [0, 1, 2]
    assert await rows.jobs.next_number(owner="bob", counter="c") == 0
    assert await rows.jobs.next_number(owner="ada", counter="d") == 0


async def test_numbers_that_many_replicas_take_at_once_differ(rows: Rows) -> None:
    stores: list[JobStore] = [rows.jobs, await rows.another(), await rows.another()]

    taken = (stores[k % 3].next_number(owner="ada", counter="c") for k in range(30))

    assert sorted(await asyncio.gather(*taken)) == list(range(30))


async def test_notes_are_kept_with_the_progress(rows: Rows) -> None:
    job = await rows.jobs.add(make_job(**MINE))
    taken = await rows.jobs.claim(model=job.model, worker="w", lease_seconds=30)
    assert taken is not None
    notes = ({"type": "executing", "data": {"node": "é \0"}}, None, {"n": [1, 2.5]})
    told = JobProgress(step=1, num_steps=4, preview=b"jpeg", num_previews=1, notes=notes)
    await rows.jobs.record_progress(job.id, taken.token, told)
    assert await rows.jobs.progress(job.id) == told

    longer = replace(told, preview=None, notes=(*notes, {"m": 1}))
    await rows.jobs.record_progress(job.id, taken.token, longer)

    kept = replace(longer, preview=b"jpeg")
    assert await rows.jobs.news([job.id]) == {job.id: kept}
    await rows.jobs.finish(job.id, taken.token, Outcome(status=JobStatus.COMPLETED))
    assert await (await rows.another()).progress(job.id) == kept
