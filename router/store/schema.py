"""The version of the schema: an empty database gets it, an older one is lifted to it."""

from __future__ import annotations

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


#: ``MIGRATIONS[k]`` leads from version k + 1 to k + 2; ``tables`` describes the last version.
MIGRATIONS: Final[tuple[Migration, ...]] = (_add_interrupts_and_options,)

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
