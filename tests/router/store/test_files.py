"""One suite for every store of files: their names, their numbers, and whose they are."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection

from deployments.errors import InvalidRequest
from router.store.database import Database
from router.store.files import FileStore, StoredFile
from tests.router.store.conftest import Rows
from tests.router.store.making import make_file

SERIES = "ComfyUI_{number:05}_.png"


async def get(files: FileStore, file: StoredFile) -> StoredFile | None:
    return await files.get(
        owner=file.owner, kind=file.kind, subfolder=file.subfolder, name=file.name
    )


async def save(files: FileStore, label: str = "", **fields: object) -> str:
    return (await files.reserve(make_file(name=SERIES, label=label, **fields))).name


async def test_file_when_added_is_kept_whole(rows: Rows) -> None:
    file = make_file(subfolder="a/b", name="é ünïcode (1).png", label="9.0", num_bytes=2**40)

    assert await rows.files.add(file)

    assert await get(rows.files, file) == file
    assert await get((await rows.replica())[1], file) == file


@pytest.mark.parametrize(
    "other",
    [{"owner": "bob"}, {"kind": "temp"}, {"subfolder": "x"}, {"name": "A.png"}],
    ids=["owner", "kind", "subfolder", "name"],
)
async def test_file_is_named_by_owner_kind_subfolder_and_name(
    rows: Rows, other: dict[str, str]
) -> None:
    file = make_file()
    await rows.files.add(file)
    different = replace(file, **other)  # type: ignore[arg-type]

    assert await get(rows.files, different) is None
    assert await rows.files.add(different)


async def test_add_when_the_name_is_taken(rows: Rows) -> None:
    first, second = make_file(job_id=None), make_file(key="other", num_bytes=7, created_at=3.5)
    await rows.files.add(first)

    assert not await rows.files.add(second)
    assert await get(rows.files, first) == first

    assert await rows.files.add(second, replace=True)
    assert await get(rows.files, first) == second


@pytest.mark.parametrize(
    "fields", [{"name": ""}, {"name": "nul\0"}, {"subfolder": "\ud800"}], ids=ascii
)
async def test_name_that_cannot_be_kept(rows: Rows, fields: dict[str, str]) -> None:
    file = make_file(**fields)
    with pytest.raises(InvalidRequest):
        await rows.files.add(file)
    with pytest.raises(InvalidRequest):
        await rows.files.reserve(file)
    assert await get(rows.files, file) is None


async def test_numbers_rise_in_a_folder(rows: Rows) -> None:
    assert [await save(rows.files) for _ in range(3)] == [
        "ComfyUI_00001_.png",
        "ComfyUI_00002_.png",
        "ComfyUI_00003_.png",
    ]
    assert await save(rows.files, owner="bob") == "ComfyUI_00001_.png"
    assert await save(rows.files, kind="temp") == "ComfyUI_00001_.png"
    assert await save(rows.files, subfolder="x") == "ComfyUI_00001_.png"
    other = await rows.files.reserve(make_file(name="ComfyUI_{number:05}_.webp"))
    assert other.name == "ComfyUI_00001_.webp"


async def test_number_is_one_more_than_the_highest_whoever_gave_it(rows: Rows) -> None:
    for name in ("ComfyUI_00041_.png", "ComfyUI_00099_.jpg", "xComfyUI_00100_.png", "C_1_.png"):
        await rows.files.add(make_file(name=name))
    assert await save(rows.files) == "ComfyUI_00042_.png"
    await rows.files.add(make_file(name="ComfyUI_99999_.png"))
    assert await save(rows.files) == "ComfyUI_100000_.png"
    assert await save(rows.files) == "ComfyUI_100001_.png"


async def test_name_of_a_series_means_itself(rows: Rows) -> None:
    await rows.files.add(make_file(name="aXb%_00007_.png"))
    name = "a.b%_{number:05}_.png"
    assert (await rows.files.reserve(make_file(name=name))).name == "a.b%_00001_.png"


async def test_number_goes_to_the_last_place_that_is_meant_for_one(rows: Rows) -> None:
    name = "a{number:05}b_{number:05}_.png"
    await rows.files.add(make_file(name="a00001b_00001_.png"))
    for number in ("00001", "00002"):
        reserved = await rows.files.reserve(make_file(name=name))
        assert reserved.name == f"a{{number:05}}b_{number}_.png"


async def test_file_that_a_later_attempt_saves_again_keeps_its_name(rows: Rows) -> None:
    first = await rows.files.reserve(make_file(name=SERIES, label="9.0"))
    assert await save(rows.files, "9.1") == "ComfyUI_00002_.png"
    assert await save(rows.files, "9.0", job_id="another") == "ComfyUI_00003_.png"

    again = make_file(name=SERIES, label="9.0", key="job/b.png", num_bytes=11, created_at=2.0)
    second = await rows.files.reserve(again)

    assert second == replace(again, name=first.name)
    assert await get(rows.files, first) == second
    assert len(await rows.files.list(owner="ada", kind="output")) == 3


async def test_numbers_that_are_taken_at_once_differ(rows: Rows) -> None:
    stores = [rows.files, (await rows.replica())[1], (await rows.replica())[1]]
    saves = [save(stores[k % 3], f"l{k}", job_id=f"j{k % 5}") for k in range(40)]

    names = await asyncio.gather(*saves)

    assert sorted(names) == [f"ComfyUI_{k + 1:05}_.png" for k in range(40)]


async def test_file_that_two_attempts_save_at_once_is_one(rows: Rows) -> None:
    stores = [rows.files, (await rows.replica())[1]]

    names = await asyncio.gather(*(save(stores[k % 2], "9.0") for k in range(10)))

    assert set(names) == {"ComfyUI_00001_.png"}


async def test_list_is_in_the_order_of_names(rows: Rows) -> None:
    places = [("", "b"), ("", "B"), ("", "_"), ("x", "a"), ("", "a b"), ("", "ab"), ("", "é")]
    for subfolder, name in places:
        await rows.files.add(make_file(subfolder=subfolder, name=name))
    await rows.files.add(make_file(owner="bob"))
    await rows.files.add(make_file(kind="input"))

    everything = await rows.files.list(owner="ada", kind="output")

    assert [(file.subfolder, file.name) for file in everything] == sorted(places)
    top = await rows.files.list(owner="ada", kind="output", subfolder="")
    assert [file.name for file in top] == ["B", "_", "a b", "ab", "b", "é"]
    assert await rows.files.list(owner="ada", kind="output", subfolder="nul\0") == []


async def test_files_of_a_job(rows: Rows) -> None:
    mine = make_file()
    await rows.files.add(mine)
    await rows.files.add(make_file(name="b", job_id="another"))
    await rows.files.add(make_file(name="c", job_id=None))

    assert await rows.files.of_job("job") == [mine]
    assert await rows.files.of_job("absent") == await rows.files.of_job("nul\0") == []


async def test_remove_forgets_only_what_was_not_written_anew(rows: Rows) -> None:
    old, gone = make_file(), make_file(name="gone")
    new = replace(old, key="new", created_at=5.0)
    await rows.files.add(old)
    await rows.files.add(new, replace=True)

    await rows.files.remove([old, gone])
    assert await get(rows.files, old) == new

    await rows.files.remove([new])
    assert await get(rows.files, old) is None


async def test_needed_are_the_keys_that_a_file_names(rows: Rows) -> None:
    await rows.files.add(make_file(key="k1"))
    await rows.files.add(make_file(name="b", key="k1"))
    await rows.files.add(make_file(owner="bob", key="k2"))

    assert await rows.files.needed(["k1", "k2", "k3", "nul\0"]) == {"k1", "k2"}
    assert await rows.files.needed([]) == frozenset()


async def test_older_are_uploads_by_age(rows: Rows) -> None:
    for number, moment in enumerate((5.0, 1.0, 3.0, 2.0)):
        await rows.files.add(
            make_file(job_id=None, name=f"{number}", key=f"{number}", created_at=moment)
        )
    await rows.files.add(make_file(name="of a job", created_at=0.5))
    await rows.files.add(make_file(kind="userdata", job_id=None, name="w", created_at=0.5))

    first = await rows.files.older_than(5.0, limit=2)
    rest = await rows.files.older_than(5.0, limit=2, after=first[-1])

    assert [file.name for file in (*first, *rest)] == ["1", "3", "2"]
    assert await rows.files.older_than(5.0, after=rest[-1]) == []


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (
            "SELECT number FROM files WHERE owner='a' AND kind='output' AND subfolder=''"
            " AND series='x' ORDER BY number DESC LIMIT 1",
            "files_series (owner=? AND kind=? AND subfolder=? AND series=?)",
        ),
        ("SELECT * FROM files WHERE job_id='j' AND label='9.0'", "(job_id=? AND label=?)"),
        (
            "SELECT * FROM files WHERE job_id IS NULL AND kind != 'userdata' AND created_at < 5"
            " AND (created_at, key) > (1, 'k') ORDER BY created_at, key",
            "files_uploaded",
        ),
        ("SELECT key FROM files WHERE key IN ('a', 'b')", "ix_files_key (key=?)"),
    ],
    ids=["number", "label", "older", "needed"],
)
async def test_look_up_uses_its_index(tmp_path: Path, query: str, index: str) -> None:
    database = Database(f"sqlite:///{tmp_path}/atelier.db")
    await database.open()

    def explain(rows: Connection) -> str:
        return "; ".join(step[3] for step in rows.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}"))

    plan = await database.read(explain)
    assert index in plan
    assert "TEMP B-TREE" not in plan
    await database.close()
