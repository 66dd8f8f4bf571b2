"""One suite for every store of personal models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deployments.errors import NotFound, Overloaded
from deployments.types import WeightsSource
from router.store import personal_models
from router.store.database import Database
from router.store.personal_models import (
    MemoryPersonalModelStore,
    PersonalModel,
    PersonalModelStore,
)
from router.store.sql_jobs import SqlJobStore
from router.store.sql_personal_models import SqlPersonalModelStore
from tests.router.store.test_database import VERSION_3, make_older


def make_model(name: str = "sks", **fields: Any) -> PersonalModel:
    given = {
        "owner": "ada",
        "base": "sd15",
        "source": WeightsSource(id=f"pm_{name}", kind="upload", location="file:///é.safetensors"),
        "key": f"weights/{name}.safetensors",
        "parts": ("unet", "text_encoder"),
        "num_bytes": 2**40,
        "created_at": 1_800_000_000.25,
        **fields,
    }
    return PersonalModel(name=name, **given)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> PersonalModelStore:
    """An empty store of each kind."""
    if request.param == "memory":
        return MemoryPersonalModelStore()
    url = f"sqlite:///{tmp_path}/atelier.db"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").new_database()
    database = Database(url)
    await SqlJobStore(database).open()
    return SqlPersonalModelStore(database)


async def test_model_when_put_is_kept_for_its_owner_alone(store: PersonalModelStore) -> None:
    mine, his = make_model(), make_model(owner="bob", key="")
    assert await store.put(mine) is None
    assert await store.put(his) is None
    assert await store.get(owner="ada", name="sks") == mine
    assert await store.list(owner="ada") == [mine]
    assert await store.list(owner="eve") == []
    with pytest.raises(NotFound):
        await store.get(owner="eve", name="sks")


async def test_model_when_put_again_replaces_and_is_told(store: PersonalModelStore) -> None:
    first, second = make_model(), make_model(key="weights/other.safetensors", parts=())
    await store.put(first)
    assert await store.put(second) == first
    assert await store.list(owner="ada") == [second]
    assert await store.needed({first.key, second.key}) == {second.key}


async def test_models_are_listed_in_the_order_of_their_names(store: PersonalModelStore) -> None:
    for name in ("b", "C", "a"):
        await store.put(make_model(name))
    assert [model.name for model in await store.list(owner="ada")] == ["C", "a", "b"]


async def test_model_when_deleted_is_told_once(store: PersonalModelStore) -> None:
    await store.put(make_model())
    assert await store.delete(owner="ada", name="sks") == make_model()
    for name in ("sks", "\0", "\ud800"):
        with pytest.raises(NotFound, match="no personal model"):
            await store.delete(owner="ada", name=name)
        with pytest.raises(NotFound):
            await store.get(owner="ada", name=name)


async def test_owner_may_have_so_many_models(
    store: PersonalModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(personal_models, "MAX_PER_OWNER", 2)
    for name in ("a", "b", "b"):
        await store.put(make_model(name))
    with pytest.raises(Overloaded, match="there are 2 personal models"):
        await store.put(make_model("c"))
    await store.put(make_model("c", owner="bob"))


async def test_database_of_version_3_learns_of_models(sql_url: str) -> None:
    database = Database(sql_url)
    await database.open()
    await database.write(lambda rows: make_older(rows, VERSION_3))
    await database.close()

    database = Database(sql_url)
    await database.open()
    store = SqlPersonalModelStore(database)
    await store.put(make_model())
    assert await store.list(owner="ada") == [make_model()]
    await database.close()
