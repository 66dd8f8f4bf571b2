"""One suite for every store of owners' options."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from router.store.database import Database
from router.store.options import MemoryOptionStore, OptionStore
from router.store.sql_jobs import SqlJobStore
from router.store.sql_options import SqlOptionStore


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def options(request: pytest.FixtureRequest, tmp_path: Path) -> OptionStore:
    """An empty store of each kind."""
    if request.param == "memory":
        return MemoryOptionStore()
    url = f"sqlite:///{tmp_path}/atelier.db"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").new_database()
    database = Database(url)
    await SqlJobStore(database).open()
    return SqlOptionStore(database)


async def test_options_when_nothing_was_set_are_empty(options: OptionStore) -> None:
    assert await options.get(owner="ann", api="sdapi") == {}


async def test_options_are_merged_and_belong_to_their_owner_and_api(options: OptionStore) -> None:
    await options.update({"a": 1, "b": [None, "é"]}, owner="ann", api="sdapi")
    await options.update({"a": {"c": 2.5}}, owner="ann", api="sdapi")
    await options.update({"a": 9}, owner="bob", api="sdapi")

    assert await options.get(owner="ann", api="sdapi") == {"a": {"c": 2.5}, "b": [None, "é"]}
    assert await options.get(owner="bob", api="sdapi") == {"a": 9}
    assert await options.get(owner="ann", api="comfyui") == {}


async def test_options_that_are_set_at_once_are_all_kept(options: OptionStore) -> None:
    names = [f"option {k}" for k in range(20)]
    updates = (options.update({name: name}, owner="ann", api="sdapi") for name in names)
    await asyncio.gather(*updates)
    assert await options.get(owner="ann", api="sdapi") == dict(zip(names, names, strict=True))


async def test_sql_options_outlive_their_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/atelier.db"
    first = Database(url)
    await first.open()
    await SqlOptionStore(first).update({"a": 1}, owner="ann", api="sdapi")
    await first.close()

    second = Database(url)
    await second.open()
    assert await SqlOptionStore(second).get(owner="ann", api="sdapi") == {"a": 1}
    await second.close()
