"""The database under the stores: its schema's versions, its failures, and what goes on after."""

from __future__ import annotations

import asyncio
import json
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Select, inspect, text

from deployments.errors import StorageFailure
from router.job import JobStatus
from router.store import queries
from router.store.database import Database
from router.store.sql_deliveries import SqlDeliveryStore
from router.store.sql_files import SqlFileStore
from router.store.sql_jobs import SqlJobStore
from router.store.sql_options import SqlOptionStore
from tests.router.store.making import make_file, make_job
from tests.router.store.postgres import PostgresServer


def add_column(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE jobs ADD COLUMN colour TEXT DEFAULT 'red'"))


def fail(connection: Connection) -> None:
    raise OSError("the power went")


async def colours(database: Database) -> list[str]:
    query = text("SELECT colour FROM jobs")
    return await database.read(lambda rows: list(rows.execute(query).scalars()))


async def test_schema_when_older_is_migrated_with_its_rows(sql_url: str) -> None:
    old = SqlJobStore(Database(sql_url, migrations=()))
    await old.open()
    job = await old.add(make_job())
    await old.close()

    database = Database(sql_url, migrations=(add_column,))
    new = SqlJobStore(database)
    for _ in range(2):
        await new.open()

    assert await colours(database) == ["red"]
    assert await new.get(job.id) == job
    await new.close()


#: What version 4 added, undone; and what versions 3 and 2 did.
VERSION_3 = (
    "DROP TABLE personal_models",
    "ALTER TABLE jobs DROP COLUMN skips",
    "UPDATE meta SET schema_version = 3",
)
VERSION_2 = (
    *VERSION_3,
    "DROP TABLE files",
    "DROP TABLE counters",
    "ALTER TABLE job_progress DROP COLUMN notes",
    "DROP INDEX jobs_named",
    "DROP INDEX jobs_name_unfinished",
    "DROP INDEX jobs_history",
    "DROP INDEX jobs_changed",
    "ALTER TABLE jobs DROP COLUMN name",
    "ALTER TABLE jobs DROP COLUMN hidden",
    "ALTER TABLE jobs DROP COLUMN updated_at",
    "UPDATE meta SET schema_version = 2",
)
VERSION_1 = (
    *VERSION_2,
    "DROP INDEX jobs_interrupted",
    "ALTER TABLE jobs DROP COLUMN interrupted",
    "DROP TABLE owner_options",
    "UPDATE meta SET schema_version = 1",
)


def make_older(rows: Connection, statements: Sequence[str]) -> None:
    """Undo newer versions: they keep ``updated_at`` in a column, and a job's ``result``."""
    for seq, moment, state in rows.execute(text("SELECT seq, updated_at, state FROM jobs")).all():
        older = {**json.loads(state), "updated_at": moment}
        del older["result"]
        change = text("UPDATE jobs SET state = :state WHERE seq = :seq")
        rows.execute(change, {"seq": seq, "state": json.dumps(older)})
    for statement in statements:
        rows.execute(text(statement))


def schema_of(rows: Connection) -> object:
    """Every table's columns (name, type, can be null) and every index (name, columns, unique)."""
    found = inspect(rows)
    return {
        table: (
            sorted(
                (column["name"], str(column["type"]), column["nullable"])
                for column in found.get_columns(table)
            ),
            sorted(
                (index["name"], index["column_names"], bool(index["unique"]))
                for index in found.get_indexes(table)
            ),
        )
        for table in found.get_table_names()
        if not table.startswith("sqlite")
    }


@pytest.mark.parametrize("older", [VERSION_2, VERSION_1], ids=["version 2", "version 1"])
async def test_schema_of_an_older_version_becomes_the_newest_with_its_rows(
    sql_url: str, older: Sequence[str]
) -> None:
    database = Database(sql_url)
    store = SqlJobStore(database)
    await store.open()
    newest = await database.read(schema_of)
    ended = await store.cancel((await store.add(make_job())).id)
    job = await store.add(replace(make_job(), updated_at=1234.5))
    await database.write(lambda rows: make_older(rows, older))
    await store.close()

    database = Database(sql_url)
    store = SqlJobStore(database)
    await store.open()
    assert await database.read(schema_of) == newest
    assert await store.get(ended.id) == ended
    assert await store.get(job.id) == job
    claim = await store.claim(model=job.model, worker="w", lease_seconds=30)
    assert claim is not None
    assert (await store.interrupt(job.id)).interrupted
    assert await store.interrupted("w") == {job.id}
    options = SqlOptionStore(database)
    await options.update({"a": 1}, owner="ada", api="sdapi")
    assert await options.get(owner="ada", api="sdapi") == {"a": 1}
    assert await store.history(owner="ada", api="openai") == [ended.id]
    assert await store.next_number(owner="ada", counter="prompts") == 0
    file = make_file(name="a_{number:05}_.png", label="a")
    assert (await SqlFileStore(database).reserve(file)).name == "a_00001_.png"
    await store.close()


async def test_schema_when_a_migration_fails_stays_as_it_was(sql_url: str) -> None:
    old = Database(sql_url, migrations=())
    await old.open()
    await old.close()
    broken = Database(sql_url, migrations=(add_column, fail))
    with pytest.raises(StorageFailure):
        await broken.open()
    await broken.close()

    database = Database(sql_url, migrations=(add_column,))
    await database.open()

    assert await colours(database) == []
    await database.close()


async def test_schema_when_newer_is_refused(sql_url: str) -> None:
    new = Database(sql_url, migrations=(add_column,))
    await new.open()
    await new.close()

    old = Database(sql_url, migrations=())
    with pytest.raises(StorageFailure, match=r"schema version 2.*up to 1: run the release"):
        await old.open()
    await old.close()


async def test_open_when_replicas_start_at_once(sql_url: str) -> None:
    stores = [SqlJobStore(Database(sql_url)) for _ in range(6)]

    await asyncio.gather(*(store.open() for store in stores))

    job = await stores[0].add(make_job())
    assert await stores[5].get(job.id) == job
    await asyncio.gather(*(store.close() for store in stores))


async def test_claims_when_made_by_several_processes_never_share_a_job(sql_url: str) -> None:
    jobs = SqlJobStore(Database(sql_url))
    await jobs.open()
    ids = [(await jobs.add(make_job(owner=f"o{n % 3}"))).id for n in range(60)]
    code = (
        "import asyncio, sys\n"
        "from router.store.database import Database\n"
        "from router.store.sql_jobs import SqlJobStore\n"
        "async def main():\n"
        "    jobs = SqlJobStore(Database(sys.argv[1]))\n"
        "    await jobs.open()\n"
        "    claim = lambda: jobs.claim(model='sdxl', worker='w', lease_seconds=60)\n"
        "    found = await asyncio.gather(*(claim() for _ in range(60)))\n"
        "    print(*(taken.job.id for taken in found if taken), sep='\\n')\n"
        "    await jobs.close()\n"
        "asyncio.run(main())\n"
    )
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, sql_url, stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    outputs = [(await process.communicate())[0] for process in processes]

    assert sorted(b"".join(outputs).decode().split()) == sorted(ids)
    assert await jobs.counts() == {("sdxl", JobStatus.IN_PROGRESS): 60}
    await jobs.close()


async def test_sqlite_when_opened_keeps_a_write_ahead_log(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/a/b/atelier.db")
    await database.open()

    def pragmas(rows: Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return [rows.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

    assert await database.read(pragmas) == await database.write(pragmas) == ["wal", 1, 1]
    await database.close()


async def test_sqlite_when_another_process_writes_waits(tmp_path: Path) -> None:
    jobs = SqlJobStore(Database(f"sqlite:///{tmp_path}/atelier.db"))
    await jobs.open()
    other = sqlite3.connect(tmp_path / "atelier.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    adding = asyncio.create_task(jobs.add(make_job()))
    await asyncio.sleep(0.2)
    assert not adding.done()
    assert (await jobs.list()).jobs == ()
    other.execute("COMMIT")

    assert (await jobs.list()).jobs == () or adding.done()
    await adding
    other.close()
    await jobs.close()


async def test_sqlite_when_the_disk_is_full_fails_clearly_and_goes_on(tmp_path: Path) -> None:
    jobs = SqlJobStore(Database(f"sqlite:///{tmp_path}/atelier.db"))
    await jobs.open()
    kept = await jobs.add(make_job())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # Python ignores SIGXFSZ
    try:
        with pytest.raises(StorageFailure) as caught:
            await jobs.add(make_job(details={"large": "x" * 500_000}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert "disk" in caught.value.message
    assert [job.id for job in (await jobs.list()).jobs] == [kept.id]
    await jobs.add(make_job())
    await jobs.close()


@pytest.mark.parametrize("content", [b"not a database" * 100, None], ids=["text", "folder"])
async def test_sqlite_when_the_file_is_none(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "atelier.db"
    file.mkdir() if content is None else file.write_bytes(content)
    database = Database(f"sqlite:///{file}")

    with pytest.raises(StorageFailure) as caught:
        await database.open()

    assert str(tmp_path) not in caught.value.message
    assert "Error" not in caught.value.message
    await database.close()


async def test_sqlite_when_the_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StorageFailure):
        await Database(f"sqlite:///{tmp_path}/file/atelier.db").open()


async def test_postgres_when_restarted_is_found_again(postgres: PostgresServer) -> None:
    jobs = SqlJobStore(Database(postgres.new_database()))
    await jobs.open()
    job = await jobs.add(make_job())
    postgres.stop()
    try:
        with pytest.raises(StorageFailure) as caught:
            await jobs.get(job.id)
    finally:
        postgres.start()

    assert caught.value.message == "the database cannot be reached"
    assert await jobs.get(job.id) == job
    await jobs.close()


async def test_postgres_when_nothing_listens() -> None:
    database = Database("postgres://atelier:secret@127.0.0.1:1/atelier")

    with pytest.raises(StorageFailure) as caught:
        await database.open()

    assert caught.value.message == "the database cannot be reached"
    await database.close()


def test_postgres_when_its_driver_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(StorageFailure, match=r"atelier\[postgres\]"):
        Database("postgresql://x/y")


@pytest.mark.parametrize(
    "url", ["mysql://user:secret@host/name", "nonsense", "sqlite://", "sqlite:///:memory:"]
)
def test_url_when_it_is_of_no_known_kind(url: str) -> None:
    with pytest.raises(ValueError, match=r"database|file") as caught:
        Database(url)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (queries.ready("m"), "jobs_queue (queue=?)"),
        (queries.first_turn(make_job()), "jobs_queue (queue=? AND priority=?)"),
        (queries.running_turn(make_job()), "jobs_running (model=? AND priority=?"),
        (queries.last_turn(make_job()), "(queue=? AND owner=? AND priority=?)"),
        (queries.due("m", 1.0), "jobs_delayed (model=?"),
        (queries.expired(1.0), "jobs_leased (lease_until<?)"),
        (queries.ended(1.0, 5), "jobs_ended (ended_at<?)"),
        (queries.to_notify(5), "jobs_untold"),
        (queries.page("ada", None, [JobStatus.QUEUED], 7), "jobs_unfinished_of_owner"),
        (queries.page("ada", "sdapi", [], 7), "jobs_of_owner (owner=? AND seq<?)"),
        (queries.named("p", "ada", "comfyui"), "jobs_named (owner=? AND api=? AND name=?)"),
        (queries.unfinished("ada", "comfyui"), "jobs_unfinished_of_owner (unfinished_of=?)"),
        (queries.history("ada", "comfyui", 5), "jobs_history (owner=? AND api=? AND hidden=?"),
        (
            queries.changed_since(1.0, "comfyui", ["ada", "bob"]),
            "jobs_changed (api=? AND owner=? AND updated_at>?)",
        ),
    ],
    ids=[
        "ready",
        "turn",
        "running",
        "last",
        "due",
        "expired",
        "ended",
        "notify",
        "unfinished",
        "page",
        "named",
        "line",
        "history",
        "changed",
    ],
)
async def test_query_when_planned_uses_its_index(
    tmp_path: Path, query: Select[Any], index: str
) -> None:
    database = Database(f"sqlite:///{tmp_path}/atelier.db")
    await database.open()

    def explain(rows: Connection) -> str:
        literal = query.compile(dialect=rows.dialect, compile_kwargs={"literal_binds": True})
        steps = rows.exec_driver_sql(f"EXPLAIN QUERY PLAN {literal}")
        return "; ".join(step[3] for step in steps)

    plan = await database.read(explain)
    assert index in plan
    assert "TEMP B-TREE" not in plan
    await database.close()


async def test_deliveries_when_the_database_is_shared(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/atelier.db")
    await SqlJobStore(database).open()

    assert await SqlDeliveryStore(database).claim(worker="w", lease_seconds=1) is None
    await database.close()
