"""Owners' files: names in one store, bytes in the other."""

from __future__ import annotations

import asyncio

import pytest

from deployments.errors import Conflict, NotFound
from router.files import FileKind, Files, StoredFile
from router.job import input_key
from router.store.images import MemoryImageStore
from router.store.memory_files import MemoryFileStore
from tests.router.store.conftest import Clock

KIND: FileKind = "input"


class House:
    """Files on a clock, and the stores that they are in."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.images = MemoryImageStore(clock=self.clock)
        self.files = Files(files=MemoryFileStore(), images=self.images, clock=self.clock)

    async def upload(self, data: bytes, name: str = "a.png", owner: str = "ann") -> StoredFile:
        return await self.files.upload(data, owner=owner, kind=KIND, subfolder="", name=name)

    async def write(self, data: bytes, name: str, *, replace: bool = True) -> StoredFile:
        return await self.files.write(
            data, owner="ann", kind=KIND, subfolder="", name=name, replace=replace
        )

    async def names(self) -> list[str]:
        return [file.name for file in await self.files.list(owner="ann", kind=KIND)]

    async def find(self, name: str) -> StoredFile:
        return await self.files.find(owner="ann", kind=KIND, subfolder="", name=name)

    async def save(self, data: bytes, key: str, label: str) -> StoredFile:
        return await self.files.save(
            data,
            owner="ann",
            kind="output",
            subfolder="s",
            name="a_{number:05}_.png",
            key=key,
            job_id="job",
            label=label,
        )


async def test_file_is_written_found_read_and_removed() -> None:
    house = House()
    file = await house.write(b"one", "a.png")

    assert await house.find("a.png") == file
    assert (file.key, file.num_bytes, file.created_at) == (input_key(b"one"), 3, house.clock.now)
    assert await house.files.read(file) == b"one"

    await house.files.remove(file)
    with pytest.raises(NotFound, match=r"there is no file 'a\.png'"):
        await house.find("a.png")


async def test_write_replaces_unless_it_may_not() -> None:
    house = House()
    await house.write(b"one", "a.png")
    two = await house.write(b"two", "a.png")

    with pytest.raises(Conflict):
        await house.write(b"three", "a.png", replace=False)

    assert await house.find("a.png") == two


async def test_upload_of_a_name_that_is_taken_takes_the_next() -> None:
    house = House()
    names = [(await house.upload(data)).name for data in (b"1", b"2", b"1", b"3", b"2")]

    assert names == ["a.png", "a (1).png", "a.png", "a (2).png", "a (1).png"]
    assert (await house.upload(b"4", owner="bob")).name == "a.png"


async def test_upload_of_the_same_bytes_counts_as_written_now() -> None:
    house = House()
    await house.upload(b"1")
    house.clock.now += 50

    again = await house.upload(b"1")

    assert await house.find("a.png") == again
    assert again.created_at == house.clock.now


async def test_uploads_of_one_name_at_once_get_a_name_each() -> None:
    house = House()
    await asyncio.gather(*(house.upload(b"%d" % k, "x") for k in range(5)))
    assert await house.names() == ["x", "x (1)", "x (2)", "x (3)", "x (4)"]


async def test_move_gives_another_name() -> None:
    house = House()
    first = await house.write(b"one", "a")
    await house.write(b"two", "b")
    assert await house.files.move(first, subfolder="", name="a") == first
    with pytest.raises(Conflict):
        await house.files.move(first, subfolder="", name="b", replace=False)
    assert await house.names() == ["a", "b"]

    moved = await house.files.move(first, subfolder="", name="b")

    assert await house.names() == ["b"]
    assert await house.files.read(await house.find("b")) == await house.files.read(moved) == b"one"


async def test_file_that_a_job_saves_again_has_the_new_bytes() -> None:
    house = House()
    first = await house.save(b"one", "job/image_1.png", "0")
    other = await house.save(b"other", "job/image_2.png", "1")

    again = await house.save(b"two", "job/image_1.png", "0")

    assert [file.name for file in (first, other, again)] == [
        "a_00001_.png",
        "a_00002_.png",
        "a_00001_.png",
    ]
    assert await house.files.read(first) == b"two"


async def test_upload_that_a_job_needs_is_where_it_was() -> None:
    house = House()
    file = await house.upload(b"one")
    assert await house.files.pin(file) == file.key == input_key(b"one")


async def test_what_another_job_saved_is_copied_for_the_one_that_needs_it() -> None:
    house = House()
    file = await house.save(b"one", "job/image_1.png", "0")
    key = await house.files.pin(file)
    await house.images.delete([file.key])
    assert key == input_key(b"one")
    assert await house.images.get(key) == b"one"
    with pytest.raises(NotFound):
        await house.files.pin(file)
