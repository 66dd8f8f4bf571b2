"""SqlOptionStore: owners' options in SQLite or PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, select, update
from sqlalchemy.dialects import postgresql, sqlite

from router.store.database import Database, reads, writes
from router.store.options import OptionStore, merge
from router.store.tables import owner_options


class SqlOptionStore(OptionStore):
    """Options in the ``Database`` that the job store opens and closes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert: Any = sqlite.insert if database.is_sqlite else postgresql.insert
        self._begin = insert(owner_options).on_conflict_do_nothing()

    @reads
    def get(self, connection: Connection, *, owner: str, api: str) -> dict[str, Any]:
        query = select(owner_options.c.options).where(*_of(owner, api))
        kept = connection.scalar(query)
        return _parse(kept)

    @writes
    def update(
        self, connection: Connection, changes: Mapping[str, Any], *, owner: str, api: str
    ) -> None:
        connection.execute(self._begin, {"owner": owner, "api": api, "options": "{}"})
        query = select(owner_options.c.options).where(*_of(owner, api)).with_for_update()
        options = json.dumps(merge(_parse(connection.scalar(query)), changes))
        connection.execute(update(owner_options).where(*_of(owner, api)).values(options=options))


def _of(owner: str, api: str) -> tuple[ColumnElement[bool], ...]:
    return owner_options.c.owner == owner, owner_options.c.api == api


def _parse(kept: str | None) -> dict[str, Any]:
    options: dict[str, Any] = json.loads(kept) if kept else {}
    return options
