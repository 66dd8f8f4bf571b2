"""Retention keeps what is needed and removes what is not."""

from __future__ import annotations

import asyncio
from typing import Any

from deployments.errors import StorageFailure
from deployments.types import GenerationRequest
from router.job import Job, StoredRequest, input_key, new_job, output_key
from router.retention import BATCH, Retention
from router.store.files import StoredFile
from router.store.images import MemoryImageStore
from router.store.jobs import Outcome
from router.store.memory_files import MemoryFileStore
from router.store.memory_jobs import MemoryJobStore
from tests.router.store.conftest import Clock
from tests.router.store.making import completed

SIZE = 100


class House:
    """Both stores on one clock, and jobs that go through them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.jobs = MemoryJobStore(clock=self.clock)
        self.images = MemoryImageStore(clock=self.clock)
        self.files = MemoryFileStore()

    def retention(self, **settings: float | None) -> Retention:
        return Retention(self.jobs, self.images, self.files, clock=self.clock, **settings)  # type: ignore[arg-type]

    async def queue(self, job_id: str, *, inputs: tuple[bytes, ...] = ()) -> Job:
        keys = tuple(input_key(data) for data in inputs)
        for key, data in zip(keys, inputs, strict=True):
            await self.images.put(key, data)
        stored = StoredRequest(request=GenerationRequest(prompt="x"), image_keys=keys)
        return await self.jobs.add(new_job((stored,), api="a", owner="o", model="m", id=job_id))

    async def end(self, job_id: str, *, inputs: tuple[bytes, ...] = ()) -> Job:
        await self.queue(job_id, inputs=inputs)
        taken = await self.jobs.claim(model="m", worker="w", lease_seconds=1)
        assert taken is not None
        assert taken.job.id == job_id
        outcome: Outcome = completed(taken.job, num_bytes=SIZE)
        await self.images.put(outcome.images[0].key, bytes(SIZE))
        return await self.jobs.finish(job_id, taken.token, outcome)

    def file(self, **fields: Any) -> StoredFile:
        given = {"owner": "o", "kind": "input", "subfolder": "", "num_bytes": 1, **fields}
        return StoredFile(created_at=self.clock.now, **given)

    async def upload(self, data: bytes, *, kind: str = "input") -> StoredFile:
        """A file of no job, named after its content."""
        file = self.file(name=data.decode(), key=input_key(data), kind=kind)
        await self.images.put(file.key, data)
        await self.files.add(file)
        return file

    async def kept(self) -> set[str]:
        return {kept.key async for kept in self.images.list()}

    async def ids(self) -> list[str]:
        return [job.id for job in (await self.jobs.list()).jobs]


async def test_sweep_when_nothing_is_set_removes_nothing() -> None:
    house = House()
    await house.end("a", inputs=(b"1",))
    house.clock.now += 1e9

    assert await house.retention().sweep() == 0

    assert await house.ids() == ["a"]
    assert len(await house.kept()) == 2


async def test_sweep_when_jobs_are_old_removes_them_and_their_pictures() -> None:
    house = House()
    await house.end("old", inputs=(b"own", b"shared"))
    await house.images.put(output_key("old", 1, "png"), b"left by a worker that died")
    await house.images.put("old/notes.txt", b"not ours")
    house.clock.now += 5000
    young = await house.end("young", inputs=(b"shared",))
    house.clock.now += 5000

    assert await house.retention(max_age_seconds=6000).sweep() == 1

    assert await house.ids() == ["young"]
    assert await house.kept() == {*young.keys, young.images[0].key, "old/notes.txt"}


async def test_sweep_when_a_job_waits_keeps_all_it_needs() -> None:
    house = House()
    job = await house.queue("waiting", inputs=(b"1", b"2"))
    house.clock.now += 1e9

    await house.retention(max_age_seconds=1, max_total_bytes=0).sweep()

    assert await house.ids() == ["waiting"]
    assert await house.kept() == set(job.keys)


async def test_sweep_when_an_unfinished_job_shares_an_input_with_an_ended_one() -> None:
    house = House()
    await house.end("ended", inputs=(b"1",))
    await house.queue("waiting", inputs=(b"1",))
    house.clock.now += 1e9

    assert await house.retention(max_total_bytes=0).sweep() == 1

    assert await house.kept() == {input_key(b"1")}


async def test_sweep_when_the_store_is_too_large_removes_the_oldest_first() -> None:
    house = House()
    for name in ("a", "b", "c", "d"):
        house.clock.now += 1
        await house.end(name)
    house.clock.now += 100

    assert await house.retention(max_total_bytes=2 * SIZE).sweep() == 2

    assert await house.ids() == ["d", "c"]


async def test_sweep_when_a_job_has_just_ended_lets_its_reader_finish() -> None:
    house = House()
    await house.end("a")
    house.clock.now += 10

    assert await house.retention(max_age_seconds=1, max_total_bytes=0).sweep() == 0
    house.clock.now += 60
    assert await house.retention(max_age_seconds=1, max_total_bytes=0).sweep() == 1


async def test_sweep_when_an_input_has_no_row_yet_waits_for_it() -> None:
    house = House()
    key = input_key(b"early")
    await house.images.put(key, b"early")
    await house.images.put("inputs/readme.txt", b"not ours")
    retention = house.retention(max_age_seconds=1, grace_seconds=50)
    house.clock.now += 49

    await retention.sweep()
    assert await house.images.has(key)
    house.clock.now += 2
    await retention.sweep()

    assert await house.kept() == {"inputs/readme.txt"}


async def test_sweep_when_a_job_is_called_like_the_folder_of_inputs() -> None:
    house = House()
    waiting = await house.queue("waiting", inputs=(b"1",))
    await house.jobs.cancel((await house.queue("inputs")).id)
    await house.jobs.cancel((await house.queue("../etc")).id)
    house.clock.now += 1e9

    assert await house.retention(max_age_seconds=1).sweep() == 2

    assert await house.kept() == set(waiting.keys)


async def test_run_when_a_store_fails_goes_on() -> None:
    class Broken(MemoryJobStore):
        calls = 0

        async def ended_before(self, moment: float, *, limit: int = 100) -> list[Job]:
            self.calls += 1
            if self.calls == 3:
                thrice.set()
            raise StorageFailure("the database cannot be reached")

    thrice = asyncio.Event()
    jobs = Broken()
    task = asyncio.create_task(
        Retention(jobs, MemoryImageStore(), MemoryFileStore(), max_age_seconds=1).run(0.001)
    )
    await asyncio.wait_for(thrice.wait(), 5)
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()


# -- files --------------------------------------------------------------------------------------


async def test_sweep_when_a_job_goes_takes_what_it_saved_along() -> None:
    house = House()
    for name in ("old", "young"):
        job = await house.end(name)
        for key, kind in ((f"{name}/image_3.png", "output"), (f"{name}/temp_1.png", "temp")):
            await house.images.put(key, b"saved")
            await house.files.add(house.file(name=key, key=key, kind=kind, job_id=job.id))
        house.clock.now += 5000
    await house.images.put("old/temp_7.png", b"left by a worker that died")

    assert await house.retention(max_age_seconds=6000).sweep() == 1

    assert [file.key for file in await house.files.of_job("old")] == []
    assert len(await house.files.of_job("young")) == 2
    kept = {"young/image_1.png", "young/image_3.png", "young/temp_1.png"}
    assert await house.kept() == kept


async def test_sweep_when_a_job_named_anothers_bytes_leaves_them() -> None:
    house = House()
    await house.end("old")
    upload = await house.upload(b"1")
    await house.files.add(house.file(name="b", key=upload.key, job_id="old"))
    house.clock.now += 5000

    assert await house.retention(max_age_seconds=4000, grace_seconds=9000).sweep() == 1

    assert await house.kept() == {upload.key}


async def test_sweep_when_uploads_are_old_removes_those_that_no_job_needs() -> None:
    house = House()
    old = await house.upload(b"old")
    needed = await house.upload(b"needed")
    house.clock.now += 5000
    await house.queue("waiting", inputs=(b"needed",))
    young = await house.upload(b"young")
    await house.upload(b"document", kind="userdata")
    house.clock.now += 5000

    await house.retention(max_age_seconds=6000).sweep()

    left = [file.name for file in await house.files.list(owner="o", kind="input")]
    assert left == ["needed", "young"]
    documents = await house.files.list(owner="o", kind="userdata")
    assert await house.kept() == {needed.key, young.key, documents[0].key}
    assert old.key not in await house.kept()


async def test_sweep_when_more_uploads_are_needed_than_are_looked_at_at_once() -> None:
    house = House()
    inputs = tuple(b"%d" % k for k in range(BATCH + 5))
    for data in inputs:
        house.clock.now += 1
        await house.upload(data)
    await house.queue("waiting", inputs=inputs)
    await house.upload(b"unneeded")
    house.clock.now += 9000

    await house.retention(max_age_seconds=6000).sweep()

    left = await house.files.list(owner="o", kind="input")
    assert len(left) == len(inputs)


async def test_sweep_when_a_file_names_an_input_keeps_it() -> None:
    house = House()
    upload = await house.upload(b"1")
    await house.end("ended", inputs=(b"1", b"2"))
    house.clock.now += 1e9

    assert await house.retention(max_total_bytes=0).sweep() == 1

    assert await house.kept() == {upload.key}


async def test_sweep_for_size_leaves_owners_weights_out_of_account() -> None:
    house = House()
    await house.end("a")
    await house.images.put("weights/pm_1.safetensors", bytes(10 * SIZE))
    house.clock.now += 1000

    assert await house.retention(max_total_bytes=SIZE).sweep() == 0
    assert "weights/pm_1.safetensors" in await house.kept()
