"""SqlPersonalModelStore: owners' registered weights in SQLite or PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from deployments.types import WeightsSource
from router.store import queries
from router.store.database import Database, reads, writes
from router.store.personal_models import (
    PersonalModel,
    PersonalModelStore,
    check_number,
    missing,
)
from router.store.record import is_storable
from router.store.tables import personal_models as models


class SqlPersonalModelStore(PersonalModelStore):
    """Models in the ``Database`` that the job store opens and closes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert: Any = sqlite.insert if database.is_sqlite else postgresql.insert
        new = insert(models)
        values = {column.name: new.excluded[column.name] for column in models.c}
        place = [models.c.owner, models.c.name]
        self._put = new.on_conflict_do_update(index_elements=place, set_=values)

    @writes
    def put(self, connection: Connection, model: PersonalModel) -> PersonalModel | None:
        others = models.c.owner == model.owner, models.c.name != model.name
        check_number(connection.scalar(select(func.count()).where(*others)) or 0)
        replaced = select(models).where(*_is(model.owner, model.name)).with_for_update()
        row = connection.execute(replaced).mappings().first()
        connection.execute(self._put, _row(model))
        return None if row is None else _parse(row)

    @reads
    def get(self, connection: Connection, *, owner: str, name: str) -> PersonalModel:
        if is_storable(name):
            query = select(models).where(*_is(owner, name))
            if (row := connection.execute(query).mappings().first()) is not None:
                return _parse(row)
        raise missing(name)

    @reads
    def list(self, connection: Connection, *, owner: str) -> Sequence[PersonalModel]:
        query = select(models).where(models.c.owner == owner).order_by(models.c.name)
        return [_parse(row) for row in connection.execute(query).mappings()]

    @writes
    def delete(self, connection: Connection, *, owner: str, name: str) -> PersonalModel:
        if is_storable(name):
            gone = delete(models).where(*_is(owner, name)).returning(*models.c)
            if (row := connection.execute(gone).mappings().first()) is not None:
                return _parse(row)
        raise missing(name)

    @reads
    def needed(self, connection: Connection, keys: Collection[str]) -> frozenset[str]:
        named: set[str] = set()
        for batch in queries.batches(keys):
            query = select(models.c.key).where(models.c.key.in_(batch)).distinct()
            named.update(connection.execute(query).scalars())
        return frozenset(named)


def _is(owner: str, name: str) -> tuple[ColumnElement[bool], ...]:
    return models.c.owner == owner, models.c.name == name


def _row(model: PersonalModel) -> dict[str, Any]:
    return {
        **asdict(model),
        "source": json.dumps(asdict(model.source)),
        "parts": json.dumps(model.parts),
    }


def _parse(row: RowMapping) -> PersonalModel:
    return PersonalModel(
        owner=row["owner"],
        name=row["name"],
        base=row["base"],
        source=WeightsSource(**json.loads(row["source"])),
        key=row["key"],
        parts=tuple(json.loads(row["parts"])),
        num_bytes=row["num_bytes"],
        created_at=row["created_at"],
    )
