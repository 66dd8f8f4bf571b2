"""The one way in and out, over in-memory stores and fake models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from deployments.errors import (
    Cancelled,
    Conflict,
    InvalidRequest,
    JobNotFound,
    NotFound,
    Overloaded,
    StorageFailure,
    UnknownModel,
    WorkerLost,
)
from deployments.types import GenerationRequest, SamplingParams, SecondPass
from router.fake_models import FakeModels, fake_card
from router.job import Idempotency, Job, JobProgress, JobStatus
from router.store.images import MemoryImageStore
from tests.router.making import running

ASKED = {"api": "generate", "owner": "ann"}


def request(prompt: str = "a star", **params: object) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, params=SamplingParams(**params))  # type: ignore[arg-type]


async def until(is_so: Callable[[], bool]) -> None:
    """Wait, a generous while, for something to become so."""
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)


async def test_run_returns_the_completed_job() -> None:
    async with running(FakeModels(fake_card())) as inside:
        job = await inside.service.run(request(num_images=2, seed=7), **ASKED)
        assert job.status is JobStatus.COMPLETED
        assert [image.seed for image in job.images] == [7, 8]
        assert (await inside.service.image(job, 1)).startswith(b"\x89PNG")


async def test_run_puts_the_pictures_of_several_requests_in_order() -> None:
    async with running(FakeModels(fake_card())) as inside:
        job = await inside.service.run(request(seed=1), request(seed=9, num_images=2), **ASKED)
        assert [image.seed for image in job.images] == [1, 9, 10]


async def test_the_same_seed_gives_the_same_bytes() -> None:
    async with running(FakeModels(fake_card())) as inside:
        first = await inside.service.run(request(seed=3), **ASKED)
        second = await inside.service.run(request(seed=3), **ASKED)
        assert await inside.service.images(first) == await inside.service.images(second)


async def test_submit_keeps_inputs_before_the_row() -> None:
    models = FakeModels(fake_card())
    async with running(models) as inside:
        asked = GenerationRequest(prompt="a star", images=(b"picture",), mask=b"mask")
        job = await inside.service.run(asked, **ASKED)
        assert await inside.images.get(job.keys[0]) == b"picture"
        assert models.calls[0].images == (b"picture",)
        assert models.calls[0].mask == b"mask"


async def test_a_job_is_only_its_owners() -> None:
    async with running(FakeModels(fake_card())) as inside:
        job = await inside.service.run(request(), **ASKED)
        with pytest.raises(JobNotFound):
            await inside.service.get(job.id, owner="bob")
        assert (await inside.service.list(owner="bob")).jobs == ()
        assert [j.id for j in (await inside.service.list(owner="ann")).jobs] == [job.id]


async def test_image_refuses_an_index_that_is_not_there() -> None:
    async with running(FakeModels(fake_card())) as inside:
        job = await inside.service.run(request(), **ASKED)
        with pytest.raises(NotFound, match="no image 2"):
            await inside.service.image(job, 1)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("  ", "prompt must not be empty"), ("x" * 20_001, "20001 characters")],
    ids=["blank", "endless"],
)
async def test_submit_refuses_prompts(prompt: str, message: str) -> None:
    async with running(FakeModels(fake_card())) as inside:
        with pytest.raises(InvalidRequest, match=message):
            await inside.service.submit(request(prompt), **ASKED)


async def test_submit_refuses_an_unknown_model_before_there_is_a_job() -> None:
    async with running(FakeModels(fake_card())) as inside:
        with pytest.raises(UnknownModel):
            await inside.service.submit(GenerationRequest(prompt="x", model="sdlx"), **ASKED)
        assert (await inside.service.list(owner="ann")).jobs == ()


async def test_a_resolved_alias_is_what_the_job_names() -> None:
    async with running(FakeModels(fake_card("turbo", aliases=("fast",)))) as inside:
        job = await inside.service.run(GenerationRequest(prompt="x", model="fast"), **ASKED)
        assert job.model == "turbo"


async def test_watch_tells_every_preview_and_the_end() -> None:
    models = FakeModels(fake_card(), step_seconds=0.02)
    async with running(models) as inside:
        asked = GenerationRequest(
            prompt="x", num_previews=2, params=SamplingParams(num_inference_steps=9)
        )
        job = await inside.service.submit(asked, **ASKED)
        news = [item async for item in inside.service.watch(job.id)]
    assert isinstance(news[-1], Job)
    assert news[-1].status is JobStatus.COMPLETED
    steps = [item.step for item in news if isinstance(item, JobProgress)]
    assert steps == sorted(steps)
    assert max(item.num_previews for item in news if isinstance(item, JobProgress)) == 2


async def test_watch_sees_steps_that_run_through_another_gateway() -> None:
    models = FakeModels(fake_card(), step_seconds=0.05)
    async with (
        running(models) as runs,
        running(FakeModels(), jobs=runs.jobs, images=runs.images) as watches,
    ):
        await watches.dispatcher.stop()
        job = await runs.service.submit(request(num_inference_steps=30), **ASKED)
        seen_at: dict[int, float] = {}
        loop = asyncio.get_running_loop()
        started = loop.time()
        async for item in watches.service.watch(job.id):
            if isinstance(item, JobProgress):
                seen_at[item.step] = loop.time() - started
    assert len(seen_at) >= 3
    assert all(at - step * 0.05 < 0.5 + 0.2 for step, at in seen_at.items())


async def test_cancel_stops_the_work_and_the_caller() -> None:
    models = FakeModels(fake_card(), step_seconds=0.05)
    async with running(models) as inside:
        job = await inside.service.submit(request(num_inference_steps=100), **ASKED)
        waiter = asyncio.create_task(inside.service.wait(job.id))
        await asyncio.sleep(0.2)
        await inside.service.cancel(job.id, owner="ann")
        with pytest.raises(Cancelled):
            await waiter
        await asyncio.sleep(0.1)
        assert len(models.cancelled) == 1
        assert (await inside.service.get(job.id, owner="ann")).status is JobStatus.CANCELLED


async def test_a_caller_that_disconnects_cancels_the_job() -> None:
    gone = False

    async def is_disconnected() -> bool:
        return gone

    models = FakeModels(fake_card(), step_seconds=0.05)
    async with running(models) as inside:
        call = asyncio.create_task(
            inside.service.run(
                request(num_inference_steps=100), is_disconnected=is_disconnected, **ASKED
            )
        )
        await asyncio.sleep(0.2)
        gone = True
        with pytest.raises(Cancelled):
            await call
        await asyncio.sleep(0.1)
        assert len(models.cancelled) == 1


async def test_a_cancelled_call_cancels_the_job() -> None:
    models = FakeModels(fake_card(), step_seconds=0.05)
    async with running(models) as inside:
        call = asyncio.create_task(inside.service.run(request(num_inference_steps=100), **ASKED))
        await asyncio.sleep(0.2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        jobs = (await inside.service.list(owner="ann")).jobs
        assert [job.status for job in jobs] == [JobStatus.CANCELLED]


async def test_a_worker_that_dies_three_times_fails_the_job() -> None:
    models = FakeModels(fake_card())
    async with running(models) as inside:
        with pytest.raises(WorkerLost, match="3 times"):
            await inside.service.run(request("fail:worker"), **ASKED)
        assert len(models.calls) == 3


async def test_a_model_that_is_busy_is_asked_again() -> None:
    models = FakeModels(fake_card())
    async with running(models) as inside:
        job = await inside.service.submit(request("fail:busy"), **ASKED)
        await until(lambda: len(models.calls) >= 2)
        assert not (await inside.service.get(job.id, owner="ann")).status.is_final


async def test_too_many_waiting_jobs_are_refused() -> None:
    models = FakeModels(fake_card(), step_seconds=0.2)
    async with running(models, max_queued_jobs=2, jobs_per_replica=1) as inside:
        for _ in range(3):
            await inside.service.submit(request(num_inference_steps=50), **ASKED)
        await until(lambda: inside.dispatcher.num_queued >= 2)
        with pytest.raises(Overloaded) as refused:
            await inside.service.submit(request(), **ASKED)
        assert refused.value.retry_after is not None


async def test_the_same_idempotency_key_returns_the_first_job() -> None:
    async with running(FakeModels(fake_card())) as inside:
        key = Idempotency(key="k", digest="d")
        first = await inside.service.run(request(), idempotency=key, **ASKED)
        second = await inside.service.run(request(), idempotency=key, **ASKED)
        assert first.id == second.id
        with pytest.raises(Conflict):
            await inside.service.submit(
                request(), idempotency=Idempotency(key="k", digest="other"), **ASKED
            )


async def test_a_stopped_gateway_gives_its_jobs_back() -> None:
    models = FakeModels(fake_card(), step_seconds=0.05)
    async with running(models) as inside:
        job = await inside.service.submit(request(num_inference_steps=20, seed=5), **ASKED)
        await asyncio.sleep(0.2)
        await inside.dispatcher.stop()
        assert (await inside.jobs.get(job.id)).status is JobStatus.QUEUED
        async with running(models, jobs=inside.jobs, images=inside.images) as other:
            done = await other.service.wait(job.id)
            assert done.attempts == 2


async def test_pictures_that_cannot_be_kept_fail_the_job_clearly() -> None:
    class FullStore(MemoryImageStore):
        async def put(self, key: str, data: bytes) -> None:
            raise StorageFailure("the image store is full")

    async with running(FakeModels(fake_card()), images=FullStore()) as inside:
        with pytest.raises(StorageFailure, match="full"):
            await inside.service.run(request(), **ASKED)


async def test_jobs_of_two_owners_take_turns() -> None:
    models = FakeModels(fake_card(), step_seconds=0.01)
    async with running(models, jobs_per_replica=1) as inside:
        for n in range(4):
            await inside.service.submit(request(f"ann {n}"), api="x", owner="ann")
        for n in range(2):
            await inside.service.submit(request(f"bob {n}"), api="x", owner="bob")
        await until(lambda: len(models.calls) == 6)
    order = [call.prompt.split()[0] for call in models.calls]
    assert order.index("bob") <= 2
    assert sorted(order) == ["ann"] * 4 + ["bob"] * 2


async def test_the_second_pass_is_judged_by_its_prompts_too() -> None:
    async with running(FakeModels(fake_card())) as inside:
        for text, message in (("x" * 20_001, "20001 characters"), ("a\0b", "NUL")):
            second = SecondPass(width=128, height=128, negative_prompt=text)
            asked = GenerationRequest(prompt="a star", second_pass=second)
            with pytest.raises(InvalidRequest, match=message):
                await inside.service.run(asked, **ASKED)


async def test_a_weighted_prompt_may_be_empty() -> None:
    async with running(FakeModels(fake_card())) as inside:
        asked = GenerationRequest(prompt="", is_weighted=True)
        assert len((await inside.service.run(asked, **ASKED)).images) == 1
