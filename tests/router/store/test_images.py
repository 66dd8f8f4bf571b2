"""One suite for every store of pictures, and what becomes of each when its ground is lost."""

from __future__ import annotations

import asyncio
import io
import resource
import sys
import time
from pathlib import Path

import pytest

from deployments.errors import InvalidRequest, NotFound, StorageFailure
from router.store.images import ImageStore, MemoryImageStore
from router.store.object_images import ObjectImageStore
from tests.router.store.conftest import Bucket

BAD_KEYS = [
    "",
    "/etc/passwd",
    "..",
    "a/../../b",
    "a//b",
    "a/",
    "./a",
    "a\\b",
    "a\0b",
    "a\nb",
    "a#1",
    "\ud800",
    "x" * 300,
    "x/" * 600 + "x",
]


async def keys(images: ImageStore, prefix: str = "") -> list[str]:
    return sorted([kept.key async for kept in images.list(prefix)])


async def test_picture_when_put_is_kept(images: ImageStore) -> None:
    before = time.time()

    await images.put("img_1/image_1.png", b"bytes")
    await images.put("img_1/image_1.png", b"newer bytes")

    assert await images.get("img_1/image_1.png") == b"newer bytes"
    kept = await images.stat("img_1/image_1.png")
    assert kept is not None
    assert (kept.key, kept.num_bytes) == ("img_1/image_1.png", 11)
    assert abs(kept.modified_at - before) < 5
    assert [kept] == [found async for found in images.list()]


@pytest.mark.parametrize("data", [b"", bytes(12_000_000)], ids=["empty", "large"])
async def test_picture_when_it_is_of_any_size(images: ImageStore, data: bytes) -> None:
    await images.put("a", data)

    assert await images.get("a") == data


async def test_names_when_they_are_of_any_script(images: ImageStore) -> None:
    name = "été 100% ?&=+ 画像/~image (1).png"
    await images.put(name, b"x")

    assert await images.get(name) == b"x"
    assert await keys(images) == [name]
    await images.delete([name])
    assert await keys(images) == []


async def test_picture_when_absent(images: ImageStore) -> None:
    await images.put("a/b", b"x")

    assert not await images.has("b")
    for absent in ("b", "a"):
        with pytest.raises(NotFound):
            await images.get(absent)
        assert await images.stat(absent) is None


async def test_delete_when_some_are_absent(images: ImageStore) -> None:
    for number in range(30):
        await images.put(f"a/{number}", b"x")

    await images.delete(["none", *(f"a/{number}" for number in range(29)), "a/none"])
    await images.delete([])
    await images.delete(["a/none"])

    assert await keys(images) == ["a/29"]


async def test_list_when_given_a_folder(images: ImageStore) -> None:
    for key in ("a/1", "a/b/2", "ab/3", "4"):
        await images.put(key, b"x")

    assert await keys(images, "a") == ["a/1", "a/b/2"]
    assert await keys(images, "none") == []
    assert len(await keys(images)) == 4


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: ascii(key[:12]))
async def test_key_when_it_is_none(images: ImageStore, key: str) -> None:
    for refused in (images.put(key, b"x"), images.get(key), images.stat(key), images.delete([key])):
        with pytest.raises(InvalidRequest):
            await refused


async def test_puts_when_made_at_once_are_whole(images: ImageStore) -> None:
    versions = [bytes([number]) * 300_000 for number in range(8)]
    await images.put("a", versions[0])

    async def look() -> None:
        for _ in range(8):
            assert await images.get("a") in versions

    await asyncio.gather(look(), *(images.put("a", version) for version in versions))

    assert await keys(images) == ["a"]


async def test_disk_when_a_writer_is_killed_shows_nothing_of_its_file(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from router.store.object_images import ObjectImageStore\n"
        "asyncio.run(ObjectImageStore(sys.argv[1]).put('a', bytes(400_000_000)))\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(tmp_path))
    while process.returncode is None and not list(tmp_path.iterdir()):  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    process.kill()
    await process.wait()
    images = ObjectImageStore(str(tmp_path))

    kept = await images.stat("a")
    assert kept is None or kept.num_bytes == 400_000_000
    await images.put("a", b"again")
    assert await keys(images) == ["a"]


async def test_disk_when_it_is_full_fails_and_leaves_nothing(tmp_path: Path) -> None:
    images = ObjectImageStore(str(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # Python ignores SIGXFSZ
    try:
        with pytest.raises(StorageFailure) as caught:
            await images.put("a/b.png", bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert caught.value.message == "the store of pictures is full"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    await images.put("a/b.png", b"x")


async def test_disk_when_the_folder_is_lost_makes_it_again(tmp_path: Path) -> None:
    images = ObjectImageStore(f"file://{tmp_path}/pictures")
    (tmp_path / "pictures").rmdir()

    with pytest.raises(NotFound):
        await images.get("a")
    await images.put("a", b"x")

    assert (tmp_path / "pictures" / "a").read_bytes() == b"x"


async def test_disk_when_the_last_picture_goes_removes_its_folder(tmp_path: Path) -> None:
    images = ObjectImageStore(str(tmp_path))
    await images.put("a/b", b"x")
    await images.delete(["a/b"])

    assert list(tmp_path.iterdir()) == []


def test_disk_when_the_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StorageFailure) as caught:
        ObjectImageStore(f"{tmp_path}/file/pictures")
    assert str(tmp_path) not in caught.value.message


async def test_disk_when_a_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StorageFailure) as caught:
        await ObjectImageStore(str(tmp_path)).put("file/a", b"x")
    assert str(tmp_path) not in caught.value.message


async def test_s3_when_the_server_is_lost_fails_soon(bucket: Bucket) -> None:
    images = ObjectImageStore(bucket.url)
    await images.put("a", b"x")
    bucket.stop()
    began = time.monotonic()

    for lost in (images.put("a", b"x"), images.get("a"), images.stat("a"), images.delete(["a"])):
        with pytest.raises(StorageFailure) as caught:
            await lost
        assert caught.value.message == "the store of pictures cannot be reached"
    with pytest.raises(StorageFailure):
        await keys(images)
    assert time.monotonic() - began < 20


async def test_s3_when_the_bucket_does_not_exist(bucket: Bucket) -> None:
    images = ObjectImageStore(bucket.url.replace(bucket.name, "nowhere"))

    for lost in (images.put("a", b"x"), images.get("a")):
        with pytest.raises(StorageFailure, match="bucket of pictures does not exist"):
            await lost


async def test_s3_when_the_server_is_silent_times_out() -> None:
    async def ignore(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    server = await asyncio.start_server(ignore, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    query = "access_key_id=x&secret_access_key=x&region=us-east-1"
    url = f"s3://pictures?endpoint_url=http://127.0.0.1:{port}&{query}"

    with pytest.raises(StorageFailure, match="did not answer in time"):
        await ObjectImageStore(url, seconds=0.2).get("a")
    server.close()


async def test_s3_when_the_environment_names_it(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = bucket.url.partition("endpoint_url=")[2].partition("&")[0]
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    await ObjectImageStore(f"s3://{bucket.name}/a/b").put("c", b"x")

    assert await ObjectImageStore(bucket.url).get("c") == b"x"
    assert await keys(ObjectImageStore(f"s3://{bucket.name}/a")) == ["b/c"]


@pytest.mark.parametrize("url", ["ftp://x/y", "s3://b?colour=red"])
def test_url_when_it_is_of_no_known_kind(url: str) -> None:
    with pytest.raises(ValueError, match="accepted are a folder"):
        ObjectImageStore(url)


async def test_url_when_it_is_memory() -> None:
    images = ObjectImageStore("memory://")
    await images.put("a/b", b"x")

    assert await keys(images) == await keys(images, "a") == ["a/b"]


async def test_file_when_put_is_kept_from_where_it_stands(
    images: ImageStore, tmp_path: Path
) -> None:
    data = bytes(range(256)) * 50_000
    with (tmp_path / "weights").open("wb+") as file:
        file.write(data)
        file.seek(256)
        await images.put_file("weights/a b.safetensors", file)
    kept = await images.stat("weights/a b.safetensors")
    assert kept is not None
    assert kept.num_bytes == len(data) - 256
    assert await images.get("weights/a b.safetensors") == data[256:]
    with pytest.raises(InvalidRequest):
        await images.put_file("../weights", io.BytesIO(b"x"))


def test_urls_lead_other_processes_to_the_bytes_without_credentials(tmp_path: Path) -> None:
    assert MemoryImageStore().url("a") is None
    assert ObjectImageStore("memory://").url("a") is None
    disk = ObjectImageStore(str(tmp_path / "x y"))
    assert disk.url("a/b c") == f"file://{tmp_path}/x%20y/a/b%20c"
    query = "access_key_id=AKIA&secret_access_key=s3cr3t&session_token=t&region=us-east-1"
    bucket = ObjectImageStore(f"s3://bucket/in/side?endpoint_url=http://host:1&{query}")
    assert bucket.url("a/b c") == (
        "s3://bucket/in/side/a/b%20c?endpoint_url=http%3A%2F%2Fhost%3A1&region=us-east-1"
    )
