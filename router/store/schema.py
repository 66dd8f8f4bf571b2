"""The version of the schema: an empty database gets it, an older one is lifted to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from sqlalchemy import Connection, inspect, select, text, update

from deployments.errors import StorageFailure
from router.store.tables import meta, metadata

#: Lifts the schema by one version, inside the transaction that records it.
Migration: TypeAlias = Callable[[Connection], None]


def _add_interrupts_and_options(connection: Connection) -> None:
    """To version 2: jobs can be asked to end early, and owners' options are kept."""
    for statement in (
        "ALTER TABLE jobs ADD COLUMN interrupted BOOLEAN NOT NULL DEFAULT FALSE",
        "CREATE INDEX jobs_interrupted ON jobs (worker)"
        " WHERE interrupted IS TRUE AND worker IS NOT NULL",
        "CREATE TABLE owner_options (owner TEXT NOT NULL, api TEXT NOT NULL,"
        " options TEXT NOT NULL, PRIMARY KEY (owner, api))",
    ):
        connection.execute(text(statement))


def _add_names_and_files(connection: Connection) -> None:
    """To version 3: jobs have clients' names and can be hidden; files and counters are kept."""
    is_sqlite = connection.dialect.name == "sqlite"
    sorted_text = "TEXT" if is_sqlite else 'TEXT COLLATE "C"'
    for statement in (
        "ALTER TABLE jobs ADD COLUMN name TEXT",
        "ALTER TABLE jobs ADD COLUMN hidden BOOLEAN NOT NULL DEFAULT FALSE",
        "ALTER TABLE jobs ADD COLUMN updated_at FLOAT NOT NULL DEFAULT 0",
        "UPDATE jobs SET updated_at = ended_at WHERE ended_at IS NOT NULL",
        "CREATE INDEX jobs_named ON jobs (owner, api, name, seq) WHERE name IS NOT NULL",
        "CREATE UNIQUE INDEX jobs_name_unfinished ON jobs (owner, api, name)"
        " WHERE name IS NOT NULL AND ended_at IS NULL",
        "CREATE INDEX jobs_history ON jobs (owner, api, hidden, ended_at, seq)"
        " WHERE ended_at IS NOT NULL",
        "CREATE INDEX jobs_changed ON jobs (api, owner, updated_at)",
        "ALTER TABLE job_progress ADD COLUMN notes TEXT NOT NULL DEFAULT '[]'",
        "CREATE TABLE counters (owner TEXT NOT NULL, counter TEXT NOT NULL,"
        " next BIGINT NOT NULL, PRIMARY KEY (owner, counter))",
        f"CREATE TABLE files (owner TEXT NOT NULL, kind VARCHAR(16) NOT NULL,"
        f" subfolder {sorted_text} NOT NULL, name {sorted_text} NOT NULL, series TEXT,"
        " number BIGINT, key TEXT NOT NULL, num_bytes BIGINT NOT NULL,"
        " created_at FLOAT NOT NULL, job_id TEXT, label TEXT NOT NULL,"
        " PRIMARY KEY (owner, kind, subfolder, name))",
        "CREATE INDEX ix_files_key ON files (key)",
        "CREATE INDEX files_series ON files (owner, kind, subfolder, series, number)"
        " WHERE series IS NOT NULL",
        "CREATE INDEX files_unnumbered ON files (owner, kind, subfolder) WHERE series IS NULL",
        "CREATE INDEX files_of_job ON files (job_id, label) WHERE job_id IS NOT NULL",
        "CREATE UNIQUE INDEX files_labelled ON files (job_id, label)"
        " WHERE job_id IS NOT NULL AND label != ''",
        "CREATE INDEX files_uploaded ON files (created_at, key)"
        " WHERE job_id IS NULL AND kind != 'userdata'",
    ):
        connection.execute(text(statement))
    unfinished = connection.execute(text("SELECT seq, state FROM jobs WHERE ended_at IS NULL"))
    for seq, state in unfinished.all():
        change = text("UPDATE jobs SET updated_at = :moment WHERE seq = :seq")
        connection.execute(change, {"seq": seq, "moment": json.loads(state)["updated_at"]})


def _add_personal_models_and_skips(connection: Connection) -> None:
    """To version 4: owners' registered weights are kept, and jobs can be asked to skip."""
    sorted_text = "TEXT" if connection.dialect.name == "sqlite" else 'TEXT COLLATE "C"'
    for statement in (
        f"CREATE TABLE personal_models (owner TEXT NOT NULL, name {sorted_text} NOT NULL,"
        " base TEXT NOT NULL, source TEXT NOT NULL, key TEXT NOT NULL, parts TEXT NOT NULL,"
        " num_bytes BIGINT NOT NULL, created_at FLOAT NOT NULL, PRIMARY KEY (owner, name))",
        "CREATE INDEX ix_personal_models_key ON personal_models (key)",
        "ALTER TABLE jobs ADD COLUMN skips INTEGER NOT NULL DEFAULT 0",
    ):
        connection.execute(text(statement))


#: ``MIGRATIONS[k]`` leads from version k + 1 to k + 2; ``tables`` describes the last version.
MIGRATIONS: Final[tuple[Migration, ...]] = (
    _add_interrupts_and_options,
    _add_names_and_files,
    _add_personal_models_and_skips,
)

#: Key of the PostgreSQL advisory lock under which one replica migrates: "atelier" in ASCII.
LOCK: Final = int.from_bytes(b"atelier", "big")


def migrate(connection: Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring the schema up to date; in a transaction that no other replica's can overlap.

    Raises:
        StorageFailure: the database was written by a newer version.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
    newest = 1 + len(migrations)
    if not inspect(connection).has_table(meta.name):
        metadata.create_all(connection)
        connection.execute(meta.insert().values(schema_version=newest))
        return
    version = connection.execute(select(meta.c.schema_version)).scalar_one()
    if version > newest:
        raise StorageFailure(
            f"the database has schema version {version}, and this release knows versions up to "
            f"{newest}: run the release that wrote it, or a newer one"
        )
    for migration in migrations[version - 1 :]:
        migration(connection)
    if version < newest:
        connection.execute(update(meta).values(schema_version=newest))
