"""SqlFileStore: the names of owners' files in SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, fields
from dataclasses import replace as changed
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    delete,
    literal_column,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from router.store import queries
from router.store.database import Database, reads, writes
from router.store.files import FileKind, FileStore, StoredFile, check_file, rewritten
from router.store.numbering import highest, numbered
from router.store.record import is_storable
from router.store.tables import files


class SqlFileStore(FileStore):
    """Files in the ``Database`` that the job store opens and closes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert: Any = sqlite.insert if database.is_sqlite else postgresql.insert
        new = insert(files)
        place = [files.c.owner, files.c.kind, files.c.subfolder, files.c.name]
        values = {column.name: new.excluded[column.name] for column in files.c}
        self._add = new.on_conflict_do_nothing().returning(files.c.name)
        self._put = new.on_conflict_do_update(index_elements=place, set_=values)

    @reads
    def get(
        self, connection: Connection, *, owner: str, kind: FileKind, subfolder: str, name: str
    ) -> StoredFile | None:
        if not is_storable(name) or not is_storable(f"/{subfolder}"):
            return None
        query = select(files).where(*_in_folder(owner, kind, subfolder), files.c.name == name)
        row = connection.execute(query).mappings().first()
        return None if row is None else _parse(row)

    @writes
    def add(self, connection: Connection, file: StoredFile, *, replace: bool = False) -> bool:
        check_file(file)
        if replace:
            connection.execute(self._put, _row(file))
            return True
        return connection.scalar(self._add, _row(file)) is not None

    @writes
    def reserve(self, connection: Connection, file: StoredFile) -> StoredFile:
        check_file(file)
        while True:
            if (kept := self._labelled(connection, file)) is not None:
                again = rewritten(kept, file)
                change = update(files).where(*_is(kept)).values(**asdict(again))
                connection.execute(change)
                return again
            number = self._highest(connection, file) + 1
            reserved = changed(file, name=numbered(file.name, number))
            row = {**_row(reserved), "series": file.name, "number": number}
            # NOTE: another transaction may take the number, or save this very file, meanwhile:
            # then nothing is inserted, and the next look sees what it wrote.
            if connection.scalar(self._add, row) is not None:
                return reserved

    @reads
    def list(
        self, connection: Connection, *, owner: str, kind: FileKind, subfolder: str | None = None
    ) -> Sequence[StoredFile]:
        query = select(files).where(files.c.owner == owner, files.c.kind == kind)
        if subfolder is not None:
            if not is_storable(f"/{subfolder}"):
                return []
            query = query.where(files.c.subfolder == subfolder)
        query = query.order_by(files.c.subfolder, files.c.name)
        return [_parse(row) for row in connection.execute(query).mappings()]

    @reads
    def of_job(self, connection: Connection, job_id: str) -> Sequence[StoredFile]:
        if not is_storable(job_id):
            return []
        query = select(files).where(files.c.job_id == job_id)
        return [_parse(row) for row in connection.execute(query).mappings()]

    @writes
    def remove(self, connection: Connection, gone: Collection[StoredFile]) -> None:
        for file in gone:
            same = (files.c.key == file.key, files.c.created_at == file.created_at)
            connection.execute(delete(files).where(*_is(file), *same))

    @reads
    def needed(self, connection: Connection, keys: Collection[str]) -> frozenset[str]:
        named: set[str] = set()
        for batch in queries.batches(keys):
            query = select(files.c.key).where(files.c.key.in_(batch)).distinct()
            named.update(connection.execute(query).scalars())
        return frozenset(named)

    @reads
    def older_than(
        self,
        connection: Connection,
        moment: float,
        *,
        limit: int = 100,
        after: StoredFile | None = None,
    ) -> Sequence[StoredFile]:
        query = select(files).where(
            files.c.job_id.is_(None),
            files.c.kind != literal_column("'userdata'"),
            files.c.created_at < moment,
        )
        if after is not None:
            last = tuple_(after.created_at, after.key)
            query = query.where(tuple_(files.c.created_at, files.c.key) > last)
        query = query.order_by(files.c.created_at, files.c.key).limit(limit)
        return [_parse(row) for row in connection.execute(query).mappings()]

    def _labelled(self, connection: Connection, file: StoredFile) -> StoredFile | None:
        """What an earlier attempt of the file's job saved as this very file."""
        if not file.label:
            return None
        query = select(files).where(files.c.job_id == file.job_id, files.c.label == file.label)
        row = connection.execute(query).mappings().first()
        return None if row is None else _parse(row)

    def _highest(self, connection: Connection, file: StoredFile) -> int:
        """The highest number in the file's folder of names that differ in nothing else: of those
        that this store numbered by index, of the others, which are few, by looking at each."""
        folder = _in_folder(file.owner, file.kind, file.subfolder)
        last = select(files.c.number).where(*folder, files.c.series == file.name)
        of_series = connection.scalar(last.order_by(files.c.number.desc()).limit(1))
        others = select(files.c.name).where(*folder, files.c.series.is_(None))
        return max(of_series or 0, highest(file.name, connection.execute(others).scalars()))


def _in_folder(owner: str, kind: FileKind, subfolder: str) -> tuple[ColumnElement[bool], ...]:
    return files.c.owner == owner, files.c.kind == kind, files.c.subfolder == subfolder


def _is(file: StoredFile) -> tuple[ColumnElement[bool], ...]:
    return (*_in_folder(file.owner, file.kind, file.subfolder), files.c.name == file.name)


def _row(file: StoredFile) -> dict[str, Any]:
    return {**asdict(file), "series": None, "number": None}


def _parse(row: RowMapping) -> StoredFile:
    return StoredFile(**{field.name: row[field.name] for field in fields(StoredFile)})
