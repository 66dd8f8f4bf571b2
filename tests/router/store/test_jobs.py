"""One suite for every store of jobs: what happens to a job, and to whom it belongs meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from deployments.errors import Conflict, InvalidRequest, JobNotFound
from deployments.types import GenerationRequest, LoraUse, WeightsSource
from router.job import (
    Idempotency,
    Job,
    JobError,
    JobProgress,
    JobStatus,
    OwnWeights,
    StoredRequest,
)
from router.store.jobs import (
    IDEMPOTENCY_SECONDS,
    MAX_ATTEMPTS,
    MAX_WORKER_DEATHS,
    Claim,
    JobStore,
    LeaseLost,
    Outcome,
)
from tests.router.store.conftest import Rows
from tests.router.store.making import INPUT, MASK, completed, make_job

FAILURE = JobError(code="out_of_memory", message="too large \0 é")


async def claim(jobs: JobStore, *, model: str = "sdxl", lease_seconds: float = 30.0) -> Claim:
    found = await jobs.claim(model=model, worker="w", lease_seconds=lease_seconds)
    assert found is not None
    return found


async def claim_all(jobs: JobStore, *, model: str = "sdxl") -> list[Job]:
    found = []
    while (taken := await jobs.claim(model=model, worker="w", lease_seconds=30)) is not None:
        found.append(taken.job)
    return found


async def test_job_when_added_is_kept_whole(rows: Rows) -> None:
    job = make_job(priority=-3, webhook_url="http://x/", notify=True, id="my id / ünïcode #1")

    assert await rows.jobs.add(job) == job
    assert await rows.jobs.get(job.id) == job
    assert await (await rows.another()).get(job.id) == job


async def test_life_of_a_job_when_all_goes_well(rows: Rows) -> None:
    job = await rows.jobs.add(make_job())
    rows.clock.now += 5
    taken = await claim(rows.jobs)
    assert taken.job == await rows.jobs.get(job.id)
    assert (taken.job.status, taken.job.attempts) == (JobStatus.IN_PROGRESS, 1)
    assert taken.job.started_at == rows.clock.now
    assert await rows.jobs.counts() == {("sdxl", JobStatus.IN_PROGRESS): 1}
    rows.clock.now += 5

    ended = await rows.jobs.finish(job.id, taken.token, completed(job))

    assert ended == await rows.jobs.get(job.id)
    assert (ended.status, ended.ended_at) == (JobStatus.COMPLETED, rows.clock.now)
    assert (ended.images, ended.prompt_tokens) == (completed(job).images, 3)
    assert await rows.jobs.counts() == {}
    assert await rows.jobs.claim(model="sdxl", worker="w", lease_seconds=30) is None


async def test_job_when_it_failed_keeps_its_error(rows: Rows) -> None:
    job = await rows.jobs.add(make_job())
    taken = await claim(rows.jobs)

    await rows.jobs.finish(job.id, taken.token, Outcome(status=JobStatus.FAILED, error=FAILURE))

    assert (await rows.jobs.get(job.id)).error == FAILURE


@pytest.mark.parametrize("job_id", ["absent", "", "nul\0", "\ud800"], ids=ascii)
async def test_get_when_there_is_no_such_job(rows: Rows, job_id: str) -> None:
    with pytest.raises(JobNotFound):
        await rows.jobs.get(job_id)
    with pytest.raises(JobNotFound):
        await rows.jobs.cancel(job_id)
    with pytest.raises(LeaseLost):
        await rows.jobs.finish(job_id, 1, Outcome(status=JobStatus.CANCELLED))


@pytest.mark.parametrize("job_id", ["nul\0", "\ud800"], ids=ascii)
async def test_add_when_the_id_cannot_be_kept(rows: Rows, job_id: str) -> None:
    with pytest.raises(InvalidRequest):
        await rows.jobs.add(make_job(id=job_id))


async def test_add_when_the_id_is_taken(rows: Rows) -> None:
    await rows.jobs.add(make_job(id="mine"))

    with pytest.raises(Conflict):
        await rows.jobs.add(make_job(id="mine"), idempotency=Idempotency(key="k", digest="d"))

    other = make_job()
    assert await rows.jobs.add(other, idempotency=Idempotency(key="k", digest="d")) == other


async def test_finish_when_repeated_returns_the_first_end(rows: Rows) -> None:
    job = await rows.jobs.add(make_job())
    taken = await claim(rows.jobs)
    first = await rows.jobs.finish(job.id, taken.token, completed(job))

    second = await rows.jobs.finish(
        job.id, taken.token, Outcome(status=JobStatus.FAILED, error=FAILURE)
    )

    assert second == first
    with pytest.raises(LeaseLost):
        await rows.jobs.finish(job.id, taken.token + 1, completed(job))


async def test_token_when_the_lease_expired_and_another_took_over(rows: Rows) -> None:
    job = await rows.jobs.add(make_job())
    old = await claim(rows.jobs, lease_seconds=10)
    rows.clock.now += 9
    await rows.jobs.renew(job.id, old.token, 10)
    rows.clock.now += 9
    assert await rows.jobs.recover() == []
    rows.clock.now += 2

    assert [back.id for back in await rows.jobs.recover()] == [job.id]
    new = await claim(await rows.another())

    assert (new.job.id, new.token) == (job.id, old.token + 1)
    assert new.job.started_at == old.job.started_at
    for late in (
        rows.jobs.renew(job.id, old.token, 10),
        rows.jobs.record_progress(job.id, old.token, JobProgress()),
        rows.jobs.finish(job.id, old.token, completed(job)),
        rows.jobs.release(job.id, old.token),
    ):
        with pytest.raises(LeaseLost):
            await late
    assert (await rows.jobs.finish(job.id, new.token, completed(job))).status == "completed"


async def test_finish_when_the_lease_expired_but_nobody_took_over(rows: Rows) -> None:
    job = await rows.jobs.add(make_job())
    taken = await claim(rows.jobs, lease_seconds=1)
    rows.clock.now += 60

    assert (await rows.jobs.finish(job.id, taken.token, completed(job))).status == "completed"
    assert await rows.jobs.recover() == []


async def test_cancel_when_queued(rows: Rows) -> None:
    job = await rows.jobs.add(make_job())

    cancelled = await rows.jobs.cancel(job.id)

    assert (cancelled.status, cancelled.ended_at) == (JobStatus.CANCELLED, rows.clock.now)
    assert await claim_all(rows.jobs) == []


async def test_cancel_when_delayed(rows: Rows) -> None:
    job = await rows.jobs.add(make_job())
    await rows.jobs.release(job.id, (await claim(rows.jobs)).token, delay=5)
    await rows.jobs.cancel(job.id)
    rows.clock.now += 10

    assert await claim_all(rows.jobs) == []


async def test_cancel_when_in_progress_voids_the_claim(rows: Rows) -> None:
    job = await rows.jobs.add(make_job())
    taken = await claim(rows.jobs)

    assert (await rows.jobs.cancel(job.id)).status is JobStatus.CANCELLED

    with pytest.raises(LeaseLost):
        await rows.jobs.renew(job.id, taken.token, 10)
    with pytest.raises(LeaseLost):
        await rows.jobs.finish(job.id, taken.token, completed(job))
    rows.clock.now += 1000
    assert await rows.jobs.recover() == []


@pytest.mark.parametrize("status", [s for s in JobStatus if s.is_final], ids=str)
async def test_cancel_when_ended_changes_nothing(rows: Rows, status: JobStatus) -> None:
    job = await rows.jobs.add(make_job())
    taken = await claim(rows.jobs)
    ended = await rows.jobs.finish(job.id, taken.token, Outcome(status=status))
    rows.clock.now += 1

    assert await rows.jobs.cancel(job.id) == ended


async def test_release_when_delayed_waits_it_out(rows: Rows) -> None:
    job = await rows.jobs.add(make_job())
    released = await rows.jobs.release(job.id, (await claim(rows.jobs)).token, delay=5)

    assert released.status is JobStatus.QUEUED
    assert await claim_all(rows.jobs) == []
    rows.clock.now += 5
    assert [taken.id for taken in await claim_all(rows.jobs)] == [job.id]


async def test_release_when_the_worker_died_too_often(rows: Rows) -> None:
    job = await rows.jobs.add(make_job())
    for _ in range(MAX_WORKER_DEATHS):
        released = await rows.jobs.release(job.id, (await claim(rows.jobs)).token, worker_died=True)

    assert released == await rows.jobs.get(job.id)
    assert (released.status, released.worker_deaths) == (JobStatus.FAILED, MAX_WORKER_DEATHS)
    assert released.error == JobError(
        code="worker_lost", message="the worker that ran this job died 3 times; giving up"
    )


@pytest.mark.parametrize("way", ["release", "recover"])
async def test_job_when_it_was_tried_too_often(rows: Rows, way: str) -> None:
    job = await rows.jobs.add(make_job())
    for _ in range(MAX_ATTEMPTS):
        taken = await claim(rows.jobs, lease_seconds=1)
        if way == "release":
            await rows.jobs.release(job.id, taken.token)
        else:
            rows.clock.now += 2
            await rows.jobs.recover()

    failed = await rows.jobs.get(job.id)
    assert failed.error is not None
    assert (failed.status, failed.error.code) == (JobStatus.FAILED, "worker_lost")
    assert f"{MAX_ATTEMPTS} times" in failed.error.message


async def test_claim_when_owners_compete_goes_round(rows: Rows) -> None:
    for owner, number in (("a", 4), ("b", 2), ("c", 1)):
        for index in range(number):
            await rows.jobs.add(make_job(owner=owner, id=f"{owner}{index}"))
    await rows.jobs.add(make_job(owner="d", id="other", model="qwen"))

    order = [job.id for job in await claim_all(rows.jobs)]

    assert order == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]


async def test_claim_when_an_owner_comes_late_waits_for_one_round_only(rows: Rows) -> None:
    for index in range(6):
        await rows.jobs.add(make_job(owner="a", id=f"a{index}"))
    for _ in range(3):
        await claim(rows.jobs)
    await rows.jobs.add(make_job(owner="b", id="b0"))
    await rows.jobs.add(make_job(owner="b", id="b1"))

    assert [job.id for job in await claim_all(rows.jobs)] == ["a3", "b0", "a4", "b1", "a5"]


async def test_claim_when_an_owner_asks_one_by_one_does_not_starve_others(rows: Rows) -> None:
    for index in range(4):
        await rows.jobs.add(make_job(owner="a", id=f"a{index}"))
    await claim(rows.jobs)  # a0 runs for long
    order = []
    for index in range(4):
        await rows.jobs.add(make_job(owner="b", id=f"b{index}"))
        taken = await claim(rows.jobs)
        order.append(taken.job.id)
        await rows.jobs.finish(taken.job.id, taken.token, completed(taken.job))

    assert order == ["a1", "b0", "a2", "b1"]


async def test_claim_when_priorities_differ(rows: Rows) -> None:
    for name, priority in (("low", -1), ("plain", 0), ("high", 5), ("high2", 5)):
        await rows.jobs.add(make_job(id=name, priority=priority))

    assert [job.id for job in await claim_all(rows.jobs)] == ["high", "high2", "plain", "low"]


async def test_recover_when_others_wait_gives_the_old_place_back(rows: Rows) -> None:
    for index in range(4):
        await rows.jobs.add(make_job(id=str(index)))
    await claim(rows.jobs, lease_seconds=10)
    await claim(rows.jobs, lease_seconds=10)
    rows.clock.now += 11
    await rows.jobs.recover()

    assert [job.id for job in await claim_all(rows.jobs)] == ["0", "1", "2", "3"]


async def test_recover_when_the_queue_began_anew_does_not_go_last(rows: Rows) -> None:
    for index in range(5):
        await rows.jobs.add(make_job(owner="a", id=f"a{index}"))
    for index in range(4):
        taken = await claim(rows.jobs)
        await rows.jobs.finish(f"a{index}", taken.token, completed(taken.job))
    taken = await claim(rows.jobs)
    await rows.jobs.release("a4", taken.token, delay=1)
    for index in range(3):
        await rows.jobs.add(make_job(owner="b", id=f"b{index}"))
    rows.clock.now += 1

    assert (await claim(rows.jobs)).job.id == "a4"


async def test_claims_when_made_at_once_never_share_a_job(rows: Rows) -> None:
    other = await rows.another()
    ids = {(await rows.jobs.add(make_job(owner=f"o{n % 7}"))).id for n in range(100)}

    claims = await asyncio.gather(
        *(
            (rows.jobs, other)[n % 2].claim(model="sdxl", worker=f"w{n}", lease_seconds=30)
            for n in range(200)
        )
    )

    taken = [found.job.id for found in claims if found is not None]
    assert len(taken) == 100
    assert set(taken) == ids


async def test_store_when_callers_are_cancelled_goes_on(rows: Rows) -> None:
    async def use(number: int) -> None:
        job = await rows.jobs.add(make_job(id=f"j{number}"))
        await rows.jobs.claim(model="sdxl", worker="w", lease_seconds=30)
        await rows.jobs.get(job.id)

    tasks = [asyncio.create_task(use(number)) for number in range(60)]
    for number, task in enumerate(tasks):
        await asyncio.sleep(0.001)
        if number % 2:
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    failures = [result for result in results if result is not None]
    assert all(isinstance(failure, asyncio.CancelledError) for failure in failures)
    assert (await rows.jobs.get("j0")).id == "j0"


async def test_idempotency_when_the_key_comes_again(rows: Rows) -> None:
    key = Idempotency(key="k", digest="d")
    first = await rows.jobs.add(make_job(), idempotency=key)
    await rows.jobs.cancel(first.id)

    again = await (await rows.another()).add(make_job(), idempotency=key)

    assert (again.id, again.status) == (first.id, JobStatus.CANCELLED)
    with pytest.raises(Conflict):
        await rows.jobs.add(make_job(), idempotency=replace(key, digest="other"))
    for stranger in (make_job(owner="bob"), make_job(api="sdapi")):
        assert await rows.jobs.add(stranger, idempotency=key) == stranger


async def test_idempotency_when_a_day_has_passed(rows: Rows) -> None:
    await rows.jobs.add(make_job(), idempotency=Idempotency(key="k", digest="d"))
    await rows.jobs.add(make_job(), idempotency=Idempotency(key="l", digest="d"))
    rows.clock.now += IDEMPOTENCY_SECONDS
    second = make_job()

    assert await rows.jobs.add(second, idempotency=Idempotency(key="k", digest="e")) == second
    await rows.jobs.recover()
    assert await rows.jobs.add(make_job(), idempotency=Idempotency(key="k", digest="e")) == second


async def test_idempotency_when_requests_come_at_once(rows: Rows) -> None:
    other = await rows.another()
    key = Idempotency(key="k", digest="d")

    added = await asyncio.gather(
        *((rows.jobs, other)[n % 2].add(make_job(), idempotency=key) for n in range(20))
    )

    assert len({job.id for job in added}) == 1
    assert len((await rows.jobs.list()).jobs) == 1


async def test_list_when_there_are_several_pages(rows: Rows) -> None:
    ids = [(await rows.jobs.add(make_job())).id for _ in range(5)]
    seen: list[str] = []
    cursor = None
    for _ in range(3):
        page = await rows.jobs.list(limit=2, cursor=cursor)
        seen += [job.id for job in page.jobs]
        cursor = page.next_cursor

    assert seen == ids[::-1]
    assert cursor is None
    assert (await rows.jobs.list(limit=5)).next_cursor is None


async def test_list_when_filtered(rows: Rows) -> None:
    mine = await rows.jobs.add(make_job(owner="a", api="sdapi"))
    ended = await rows.jobs.add(make_job(owner="a"))
    await rows.jobs.cancel(ended.id)
    other = await rows.jobs.add(make_job(owner="b"))

    async def ids(**filters: object) -> list[str]:
        return [job.id for job in (await rows.jobs.list(**filters)).jobs]  # type: ignore[arg-type]

    assert await ids(owner="a") == [ended.id, mine.id]
    assert await ids(owner="a", api="sdapi") == [mine.id]
    assert await ids(statuses=[JobStatus.QUEUED]) == [other.id, mine.id]
    assert await ids(owner="a", statuses=[JobStatus.QUEUED, JobStatus.CANCELLED]) == [
        ended.id,
        mine.id,
    ]
    assert await ids(owner="nobody") == []


@pytest.mark.parametrize("cursor", ["", "x", "-1", "²", "9" * 30, "1 or 1"])
async def test_list_when_the_cursor_is_not_ours(rows: Rows, cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        await rows.jobs.list(cursor=cursor)


async def test_progress_when_recorded_is_seen_by_other_replicas(rows: Rows) -> None:
    job = await rows.jobs.add(make_job())
    taken = await claim(rows.jobs)
    other = await rows.another()
    assert await other.progress(job.id) is None
    news = JobProgress(step=1, num_steps=8)

    await rows.jobs.record_progress(job.id, taken.token, news)
    assert await other.progress(job.id) == news
    later = JobProgress(step=2, num_steps=8, preview=b"\xff\0", preview_index=1, num_previews=1)
    await rows.jobs.record_progress(job.id, taken.token, later)
    assert await other.progress(job.id) == later


async def test_news_when_jobs_run_and_end(rows: Rows) -> None:
    first, waiting = await rows.jobs.add(make_job()), await rows.jobs.add(make_job())
    taken = await claim(rows.jobs)
    other = await rows.another()
    watched = [first.id, waiting.id, "img_unknown"]
    assert await other.news(watched) == {}
    progress = JobProgress(step=1, num_steps=8, preview=b"p", num_previews=1)

    await rows.jobs.record_progress(first.id, taken.token, progress)
    assert await other.news(watched) == {first.id: progress}
    ended = await rows.jobs.finish(first.id, taken.token, completed(first))
    assert await other.news(watched) == {first.id: ended}
    assert await other.news([]) == {}


async def test_counts_when_models_differ(rows: Rows) -> None:
    for model in ("a", "a", "b"):
        await rows.jobs.add(make_job(model=model))
    await claim(rows.jobs, model="a")

    assert await rows.jobs.counts() == {
        ("a", JobStatus.QUEUED): 1,
        ("a", JobStatus.IN_PROGRESS): 1,
        ("b", JobStatus.QUEUED): 1,
    }


async def test_delete_when_jobs_ended_forgets_all_of_them(rows: Rows) -> None:
    key = Idempotency(key="k", digest="d")
    ended = [await rows.jobs.add(make_job(), idempotency=key)]
    ended += [await rows.jobs.add(make_job()) for _ in range(2)]
    taken = await claim(rows.jobs)
    await rows.jobs.record_progress(taken.job.id, taken.token, JobProgress(step=1))
    for job in reversed(ended):
        rows.clock.now += 1
        await rows.jobs.cancel(job.id)
    alive = await rows.jobs.add(make_job())

    old = await rows.jobs.ended_before(rows.clock.now)
    assert [job.id for job in old] == [ended[2].id, ended[1].id]
    assert [job.id for job in await rows.jobs.ended_before(9e9, limit=1)] == [ended[2].id]
    await rows.jobs.delete([*(job.id for job in ended), alive.id, "absent", "nul\0"])

    assert [job.id for job in (await rows.jobs.list()).jobs] == [alive.id]
    assert await rows.jobs.progress(ended[0].id) is None
    fresh = make_job()
    assert await rows.jobs.add(fresh, idempotency=key) == fresh


async def test_needed_inputs_when_the_last_job_goes(rows: Rows) -> None:
    job = await rows.jobs.add(make_job())
    assert await rows.jobs.needed_inputs([INPUT, MASK, "inputs/other"]) == {INPUT, MASK}

    await rows.jobs.cancel(job.id)
    assert await rows.jobs.needed_inputs([INPUT]) == {INPUT}
    await rows.jobs.delete([job.id])

    assert await rows.jobs.needed_inputs([INPUT, MASK]) == frozenset()


async def test_uploads_are_awaited_until_the_last_job_ends(rows: Rows) -> None:
    source = WeightsSource(
        id="pm_1", kind="upload", location="file:///w", key="weights/a", is_lora=True, digest="0a"
    )
    own = OwnWeights(name="sks", base="sdxl", source=source)
    use = LoraUse(name="sks", weight=0.5, source=source)
    request = StoredRequest(request=GenerationRequest(prompt="a", loras=(use,)))
    first = await rows.jobs.add(replace(make_job(own=(own,)), requests=(request,)))
    second = await rows.jobs.add(make_job(own=(own,)))
    assert await rows.jobs.get(first.id) == first
    keys = ["weights/a", "weights/b"]
    assert await rows.jobs.awaited_uploads(keys) == {"weights/a"}
    await rows.jobs.cancel(first.id)
    assert await rows.jobs.awaited_uploads(["weights/a"]) == {"weights/a"}
    await rows.jobs.cancel(second.id)
    assert await rows.jobs.awaited_uploads(keys) == frozenset()


async def test_interrupt_of_a_running_job_is_told_to_its_worker(rows: Rows) -> None:
    job, other = await rows.jobs.add(make_job()), await rows.jobs.add(make_job())
    taken = await claim(rows.jobs)
    await claim(rows.jobs)
    rows.clock.now += 1

    interrupted = await (await rows.another()).interrupt(job.id)

    assert (interrupted.status, interrupted.interrupted) == (JobStatus.IN_PROGRESS, True)
    assert await rows.jobs.get(job.id) == interrupted
    assert await rows.jobs.interrupted("w") == {job.id}
    assert await rows.jobs.interrupted("another") == frozenset()
    assert not (await rows.jobs.get(other.id)).interrupted
    ended = await rows.jobs.finish(job.id, taken.token, completed(job))
    assert ended.interrupted
    assert await rows.jobs.interrupted("w") == frozenset()


async def test_skips_of_a_running_job_are_counted_for_its_worker(rows: Rows) -> None:
    job = await rows.jobs.add(make_job())
    assert await rows.jobs.skip(job.id) == job
    taken = await claim(rows.jobs)
    assert await rows.jobs.skips("w") == {}
    for _ in range(2):
        await (await rows.another()).skip(job.id)
    assert await rows.jobs.skips("w") == {job.id: 2}
    assert await rows.jobs.skips("another") == {}
    await rows.jobs.release(job.id, taken.token)
    assert await rows.jobs.skips("w") == {}
    await claim(rows.jobs)
    assert await rows.jobs.skips("w") == {}


async def test_interrupt_of_a_waiting_job_ends_it_without_pictures(rows: Rows) -> None:
    job = await rows.jobs.add(make_job())
    ended = await rows.jobs.interrupt(job.id)
    assert (ended.status, ended.images, ended.interrupted) == (JobStatus.COMPLETED, (), True)
    assert await rows.jobs.claim(model="sdxl", worker="w", lease_seconds=30) is None
    assert await rows.jobs.interrupt(job.id) == ended
    with pytest.raises(JobNotFound):
        await rows.jobs.interrupt("nothing")


async def test_interrupt_outlives_the_death_of_a_worker(rows: Rows) -> None:
    job = await rows.jobs.add(make_job())
    taken = await claim(rows.jobs)
    await rows.jobs.interrupt(job.id)
    await rows.jobs.release(job.id, taken.token, worker_died=True)
    assert (await claim(rows.jobs)).job.interrupted
