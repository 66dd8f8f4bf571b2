"""Owners' weights behind the APIs: what is swept, and what a host that is not there means."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Sequence

import pytest

from deployments.errors import Conflict, ModelNotReady, StorageFailure, UnknownModel
from deployments.types import CheckedWeights, GenerationRequest, WeightsSource
from router.fake_models import FakeModels, fake_card
from router.job import Idempotency, Job, JobStatus
from router.models import WorkerUnavailable
from router.personal_models import GRACE_SECONDS, PersonalModel, PersonalModels
from router.store.images import MemoryImageStore
from router.store.memory_jobs import MemoryJobStore
from router.store.personal_models import MemoryPersonalModelStore
from tests.router.making import running
from tests.router.store.conftest import Clock
from tests.router.store.making import make_job


class SharedImages(MemoryImageStore):
    """A store whose bytes others can read."""

    def url(self, key: str) -> str:
        return f"s3://bucket/{key}"


class Busy(FakeModels):
    """No replica has time to look at weights."""

    async def check_weights(
        self, model: str, source: WeightsSource, max_bytes: int
    ) -> CheckedWeights:
        raise WorkerUnavailable("all are busy")


def personal(
    models: FakeModels,
    images: MemoryImageStore,
    clock: Clock,
    jobs: MemoryJobStore | None = None,
) -> PersonalModels:
    store, jobs = MemoryPersonalModelStore(), jobs or MemoryJobStore()
    return PersonalModels(store=store, images=images, jobs=jobs, models=models, clock=clock)


def file() -> io.BytesIO:
    return io.BytesIO((2).to_bytes(8, "little") + b"{}")


async def kept(images: MemoryImageStore) -> set[str]:
    listed: AsyncIterator = images.list()  # type: ignore[type-arg]
    return {one.key async for one in listed}


async def test_sweep_removes_uploads_without_a_row_after_a_while() -> None:
    clock = Clock()
    images = SharedImages(clock=clock)
    own = personal(FakeModels(fake_card("sd")), images, clock)
    first = await own.put_upload(file(), owner="ann", name="sks", base="sd")
    second = await own.put_upload(file(), owner="ann", name="sks", base="sd")
    await images.put("inputs/other", b"")
    await own.sweep()
    assert await kept(images) == {first.key, second.key, "inputs/other"}
    clock.now += GRACE_SECONDS + 1
    await own.sweep()
    assert await kept(images) == {second.key, "inputs/other"}


async def test_upload_that_nobody_can_check_is_to_be_tried_again() -> None:
    clock = Clock()
    images = SharedImages(clock=clock)
    own = personal(Busy(fake_card("sd")), images, clock)
    with pytest.raises(ModelNotReady, match="cannot check the weights just now"):
        await own.put_upload(file(), owner="ann", name="sks", base="sd")
    assert await kept(images) == set()


async def test_an_upload_stays_when_nobody_knows_whether_its_row_does() -> None:
    class Silent(MemoryPersonalModelStore):
        """It keeps a row, and is gone before it can say so."""

        async def put(self, model: PersonalModel) -> PersonalModel | None:
            await super().put(model)
            raise StorageFailure("the database cannot be reached")

    clock = Clock()
    images, rows = SharedImages(clock=clock), Silent()
    models, jobs = FakeModels(fake_card("sd")), MemoryJobStore()
    own = PersonalModels(store=rows, images=images, jobs=jobs, models=models, clock=clock)
    with pytest.raises(StorageFailure):
        await own.put_upload(file(), owner="ann", name="sks", base="sd")
    model = await own.get(owner="ann", name="sks")
    clock.now += GRACE_SECONDS + 1
    await own.sweep()
    assert await kept(images) == {model.key}


async def test_the_store_is_not_asked_for_what_models_names_mean() -> None:
    class Counting(MemoryPersonalModelStore):
        num_lists = 0

        async def list(self, *, owner: str) -> Sequence[PersonalModel]:
            self.num_lists += 1
            return await super().list(owner=owner)

    rows = Counting()
    models = FakeModels(fake_card("sd", aliases=("sd15",)))
    async with running(models, personal_rows=rows) as inside:
        for name in ("sd", "sd15"):
            request = GenerationRequest(prompt="a", model=name)
            assert (await inside.service.meant(request, owner="ann")).model == "sd"
            await inside.service.submit(request, api="test", owner="ann")
        assert rows.num_lists == 0
        with pytest.raises(UnknownModel):
            await inside.service.variant("sks", owner="ann")
        assert rows.num_lists == 1


async def test_name_is_found_for_its_base_alone() -> None:
    clock = Clock()
    sd, other = fake_card("sd", aliases=("sd15",)), fake_card("other")
    own = personal(FakeModels(sd, other), SharedImages(clock=clock), clock)
    model = await own.put_upload(file(), owner="ann", name="sks", base="sd15")
    assert model.base == "sd"
    anns, bobs = await own.belongings(owner="ann"), await own.belongings(owner="bob")
    assert anns.weights("sks", sd) == model.own
    assert anns.weights("sks", other) is None
    assert bobs.weights("sks", sd) is None


async def test_an_upload_stays_for_as_long_as_an_unfinished_job_names_it() -> None:
    clock, jobs = Clock(), MemoryJobStore()
    images = SharedImages(clock=clock)
    own = personal(FakeModels(fake_card("sd")), images, clock, jobs)
    first = await own.put_upload(file(), owner="ann", name="sks", base="sd")
    second = await own.put_upload(file(), owner="ann", name="wool", base="sd")
    job = await jobs.add(make_job(own=(first.own,)))
    for name in ("sks", "wool"):
        await own.delete(owner="ann", name=name)
    assert await kept(images) == {first.key}
    assert not await own.are_kept([first.key])
    clock.now += GRACE_SECONDS + 1
    await own.sweep()
    assert await kept(images) == {first.key}
    await jobs.cancel(job.id)
    await own.sweep()
    assert await kept(images) == set()
    assert second.key != first.key


async def test_a_job_that_comes_as_its_upload_goes_is_refused() -> None:
    """The upload is removed after the job's weights were found, before its row is there."""

    class Late(MemoryJobStore):
        async def add(self, job: Job, *, idempotency: Idempotency | None = None) -> Job:
            await inside.service.personal.delete(owner="ann", name="sks")
            return await super().add(job, idempotency=idempotency)

    images = SharedImages(clock=Clock())
    async with running(FakeModels(fake_card("sd")), jobs=Late(), images=images) as inside:
        await inside.service.personal.put_upload(file(), owner="ann", name="sks", base="sd")
        request = GenerationRequest(prompt="a", model="sks")
        with pytest.raises(Conflict, match="removed just now"):
            await inside.service.submit(request, api="test", owner="ann")
        [job] = (await inside.service.list(owner="ann")).jobs
        assert job.status is JobStatus.CANCELLED
        assert await kept(images) == set()


async def test_names_of_loras_and_of_models_cannot_be_taken() -> None:
    clock = Clock()
    sd = fake_card("sd", aliases=("sd15",), loras=("ink",), weights=("eve",))
    own = personal(FakeModels(sd), SharedImages(clock=clock), clock)
    for name, words in (("ink", "a LoRA 'ink'"), ("eve", "weights 'eve'"), ("sd15", "is called")):
        with pytest.raises(Conflict, match=words):
            await own.put_upload(file(), owner="ann", name=name, base="sd")


async def test_sweeping_goes_on_when_the_store_fails(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(SharedImages):
        def list(self, prefix: str = "") -> AsyncIterator:  # type: ignore[type-arg]
            raise RuntimeError(prefix)

    clock = Clock()
    own = personal(FakeModels(), Broken(clock=clock), clock)
    task = asyncio.create_task(own.run(0.001))
    await asyncio.sleep(0.05)
    assert not task.done()
    task.cancel()
    assert "trying again" in caplog.text
