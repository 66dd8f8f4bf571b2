"""Scripts that draw the requests of a job, and what an interruption leaves of them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from PIL import Image

from deployments.errors import GenerationFailed
from deployments.types import GenerationRequest, GenerationResult, Progress, SamplingParams
from router.dispatch import Dispatcher
from router.events import EventHub
from router.fake_models import FakeModels, fake_card
from router.files import Files
from router.job import JobStatus
from router.scripts import SCRIPTS, find_script, width_of
from router.store.images import MemoryImageStore
from router.store.memory_files import MemoryFileStore
from router.store.memory_jobs import MemoryJobStore
from tests.router.making import Inside, running

ASKED = {"api": "sdapi", "owner": "ann"}


class FailingModels(FakeModels):
    """Fake models that cannot draw seed 13."""

    async def generate(
        self, model: str, request_id: str, request: GenerationRequest
    ) -> AsyncIterator[Progress | GenerationResult]:
        if request.params.seed == 13:
            await asyncio.sleep(0.1)
            raise GenerationFailed("a broken tile")
        async with aclosing(super().generate(model, request_id, request)) as stream:  # type: ignore[type-var]
            async for news in stream:
                yield news


def request(seed: int, steps: int = 2, **fields: Any) -> GenerationRequest:
    params = SamplingParams(seed=seed, num_inference_steps=steps, num_images=1)
    return GenerationRequest(prompt="a star", params=params, **fields)


def details(script: str, **args: Any) -> Mapping[str, Any]:
    return {"script": script, "script_args": args}


async def started(inside: Inside, *requests: GenerationRequest, **fields: Any) -> str:
    """The id of a job that has told its first step."""
    job = await inside.service.submit(*requests, **ASKED, **fields)
    async for news in inside.service.watch(job.id):
        assert not hasattr(news, "status"), "it ended too soon"
        return job.id
    raise AssertionError


@asynccontextmanager
async def elsewhere(jobs: MemoryJobStore, images: MemoryImageStore) -> AsyncIterator[Inside]:
    """Another gateway over the same stores, whose own dispatcher claims nothing."""
    async with running(FakeModels(), jobs=jobs, images=images) as inside:
        yield inside


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_is_found(name: str) -> None:
    assert callable(find_script(name))


async def test_unknown_script_fails_the_job() -> None:
    async with running(FakeModels(fake_card())) as inside:
        with pytest.raises(
            GenerationFailed, match="no script 'nonsense'; it has: in_turn, chain, mosaic"
        ):
            await inside.service.run(request(1), **ASKED, details=details("nonsense"))


async def test_chain_draws_each_over_the_last() -> None:
    models = FakeModels(fake_card())
    async with running(models) as inside:
        asked = [request(k, images=(b"first",)) for k in range(3)]
        chain = details("chain", length=3, keep="all")
        job = await inside.service.run(*asked, **ASKED, details=chain)
        pictures = await inside.service.images(job)
        assert [image.seed for image in job.images] == [0, 1, 2]
        assert [call.images for call in models.calls] == [
            (b"first",),
            (pictures[0],),
            (pictures[1],),
        ]


async def test_chain_may_keep_only_its_end() -> None:
    async with running(FakeModels(fake_card())) as inside:
        asked = [request(k) for k in range(4)]
        chain = details("chain", length=2, keep="last")
        job = await inside.service.run(*asked, **ASKED, details=chain)
        assert [(image.seed, image.place) for image in job.images] == [(1, 1), (3, 3)]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
async def test_mosaic_lays_its_tiles_into_one_picture(kind: str) -> None:
    async with running(FakeModels(fake_card())) as inside:
        texts = ((("parameters", "tile"),),)
        asked = [request(k, texts=texts, output_format=kind) for k in range(4)]
        corners = [[0, 0], [48, 0], [0, 48], [48, 48]]
        mosaic = details("mosaic", size=[112, 112], corners=corners)
        job = await inside.service.run(*asked, **ASKED, details=mosaic)
        alone = [await inside.service.run(request(k), **ASKED) for k in range(4)]
        (file,) = await inside.service.images(job)
        whole = Image.open(io.BytesIO(file))
        assert (whole.size, whole.format, job.images[0].format) == ((112, 112), kind.upper(), kind)
        for single, corner in zip(alone, [(2, 2), (109, 2), (2, 109), (109, 109)], strict=True):
            tile = Image.open(io.BytesIO(await inside.service.image(single, 0)))
            assert _near(whole.convert("RGB").getpixel(corner), tile.getpixel((0, 0)))
        if kind == "png":
            assert whole.text["parameters"] == "tile"  # type: ignore[attr-defined]


async def test_mosaic_fades_from_tile_to_tile() -> None:
    async with running(FakeModels(fake_card())) as inside:
        mosaic = details("mosaic", size=[112, 64], corners=[[0, 0], [48, 0]])
        job = await inside.service.run(request(0), request(1), **ASKED, details=mosaic)
        whole = Image.open(io.BytesIO(await inside.service.image(job, 0)))
        left, right = whole.getpixel((2, 2)), whole.getpixel((110, 2))
        middle = whole.getpixel((56, 32))
        halfway = tuple((a + b) // 2 for a, b in zip(left, right, strict=True))  # type: ignore[arg-type]
        assert _near(middle, halfway, by=12)
        assert _near(whole.getpixel((48, 32)), left, by=4)
        assert _near(whole.getpixel((63, 32)), right, by=4)


# -- interruption -------------------------------------------------------------------------------


async def test_interrupt_keeps_what_is_finished() -> None:
    models = FakeModels(fake_card(), step_seconds=0.02)
    async with running(models) as inside:
        asked = (request(1, steps=150), request(2, steps=1), request(3, steps=150))
        job_id = await started(inside, *asked)
        await asyncio.sleep(0.2)
        await inside.service.interrupt(job_id, owner="ann")
        job = await asyncio.wait_for(inside.service.wait(job_id), 1)
        assert job.status is JobStatus.COMPLETED
        assert [(image.seed, image.place) for image in job.images] == [(2, 1)]
        assert len(models.cancelled) == 2


async def test_requests_in_turn_begin_when_those_before_have_ended() -> None:
    models = FakeModels(fake_card(), step_seconds=0.02)
    async with running(models) as inside:
        asked = [request(k, steps=1) for k in range(4)] + [request(4, steps=150)]
        job_id = await started(inside, *asked, details=details("in_turn", at_once=2))
        assert len(models.calls) == 2
        await asyncio.sleep(0.3)
        assert len(models.calls) == 5
        await inside.service.interrupt(job_id, owner="ann")
        job = await asyncio.wait_for(inside.service.wait(job_id), 1)
        assert [(image.seed, image.place) for image in job.images] == [(k, k) for k in range(4)]


async def test_interrupt_of_a_chain_keeps_its_first_pictures() -> None:
    async with running(FakeModels(fake_card(), step_seconds=0.02)) as inside:
        asked = (request(1, steps=1), request(2, steps=150))
        chain = details("chain", length=2, keep="all")
        job_id = await started(inside, *asked, details=chain)
        await asyncio.sleep(0.2)
        await inside.service.interrupt(job_id, owner="ann")
        job = await asyncio.wait_for(inside.service.wait(job_id), 1)
        assert [image.seed for image in job.images] == [1]


async def test_interrupt_is_heeded_on_another_replica_within_half_a_second() -> None:
    jobs, images = MemoryJobStore(), MemoryImageStore()
    models = FakeModels(fake_card(), step_seconds=0.02)
    async with running(models, jobs=jobs, images=images) as inside:
        job_id = await started(inside, request(1, steps=150))
        async with elsewhere(jobs, images) as other:
            await other.service.interrupt(job_id, owner="ann")
            job = await asyncio.wait_for(inside.service.wait(job_id), 0.5)
        assert (job.status, job.images) == (JobStatus.COMPLETED, ())
        assert models.cancelled == [f"{job_id}.1.0"]


async def test_interrupt_of_a_waiting_job_ends_it_at_once() -> None:
    models = FakeModels(fake_card(), step_seconds=0.05)
    async with running(models, jobs_per_replica=1) as inside:
        await started(inside, request(1, steps=100))
        waiting = await inside.service.submit(request(2), **ASKED)
        job = await inside.service.interrupt(waiting.id, owner="ann")
        assert (job.status, job.images) == (JobStatus.COMPLETED, ())
        assert (await inside.service.wait(waiting.id)).id == waiting.id
        assert [call.params.seed for call in models.calls] == [1]


async def test_interrupted_job_whose_worker_died_is_not_begun_again() -> None:
    jobs = MemoryJobStore()
    models = FakeModels(fake_card())
    images = MemoryImageStore()
    files = Files(files=MemoryFileStore(), images=images)
    service_side = Dispatcher(
        models=models, jobs=jobs, images=images, files=files, events=EventHub()
    )
    async with running(models, jobs=jobs, images=images, jobs_per_replica=1) as inside:
        await inside.dispatcher.stop()
        job = await inside.service.submit(request(1), **ASKED)
        claim = await jobs.claim(model=job.model, worker="dead", lease_seconds=30)
        assert claim is not None
        await jobs.interrupt(job.id)
        await jobs.release(job.id, claim.token, worker_died=True)
        service_side.start()
        for _ in range(100):
            await asyncio.sleep(0.02)
            ended = await jobs.get(job.id)
            if ended.status.is_final:
                break
        await service_side.stop()
    assert (ended.status, ended.images, models.calls) == (JobStatus.COMPLETED, (), [])


# -- how much a job takes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "args", "width"),
    [
        ("", {}, 6),
        ("nonsense", {}, 6),
        ("in_turn", {"at_once": 2}, 2),
        ("in_turn", {"at_once": 40}, 6),
        ("chain", {"length": 3}, 1),
        ("mosaic", {"corners": [[0, 0], [8, 0], [16, 0]]}, 3),
    ],
)
def test_width_is_what_is_drawn_at_once(name: str, args: Mapping[str, Any], width: int) -> None:
    assert width_of(name, 6, args) == width


async def test_a_long_job_in_turn_leaves_room_for_others() -> None:
    models = FakeModels(fake_card(), step_seconds=0.02)
    async with running(models, jobs_per_replica=4) as inside:
        asked = [request(k, steps=50) for k in range(40)]
        await started(inside, *asked, details=details("in_turn", at_once=1))
        await asyncio.wait_for(inside.service.run(request(99), **ASKED), 1)
        assert [call.params.seed for call in models.calls] == [0, 99]


@pytest.mark.parametrize(
    ("script", "kept"),
    [
        (details("chain", length=1, keep="last"), [(0, 0)]),
        (details("mosaic", size=[64, 64], corners=[[0, 0]]), [(0, 0)]),
    ],
    ids=["chain", "mosaic"],
)
async def test_interrupt_keeps_finished_chains_and_mosaics(
    script: Mapping[str, Any], kept: list[tuple[int, int]]
) -> None:
    models = FakeModels(fake_card(), step_seconds=0.02)
    async with running(models) as inside:
        asked = [request(0, steps=2), request(1, steps=150), request(2, steps=150)]
        job_id = await started(inside, *asked, details=script)
        await asyncio.sleep(0.3)
        await inside.service.interrupt(job_id, owner="ann")
        job = await asyncio.wait_for(inside.service.wait(job_id), 1)
        assert [(image.seed, image.place) for image in job.images] == kept
        assert [call.params.seed for call in models.calls] == [0, 1]


async def test_a_tile_that_fails_ends_the_others() -> None:
    models = FailingModels(fake_card(), step_seconds=0.02)
    async with running(models) as inside:
        asked = [request(0, steps=150), request(1, steps=150), request(13, steps=1)]
        mosaic = details("mosaic", size=[64, 64], corners=[[0, 0], [8, 0], [16, 0]])
        with pytest.raises(GenerationFailed, match="a broken tile"):
            await asyncio.wait_for(inside.service.run(*asked, **ASKED, details=mosaic), 1)
        assert len(models.cancelled) == 2


def _near(one: Any, other: Any, by: int = 3) -> bool:
    return all(abs(a - b) <= by for a, b in zip(one, other, strict=True))
