"""Database: the engine under the SQL stores, its transactions, and what its failures mean."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)

from deployments.errors import StorageFailure
from router.store.schema import MIGRATIONS, Migration, migrate

logger = logging.getLogger(__name__)

S = TypeVar("S", bound="_Stored")
P = ParamSpec("P")
T = TypeVar("T")

#: Seconds for which a write waits for another process's before it fails.
BUSY_SECONDS: Final = 10.0
#: Threads that read, and on PostgreSQL write, at once.
NUM_THREADS: Final = 8
#: Which driver serves a URL's scheme.
DRIVERS: Final[Mapping[str, str]] = {
    "sqlite": "sqlite+pysqlite",
    "sqlite+pysqlite": "sqlite+pysqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
#: What a driver's words tell a caller, who must not see paths and class names.
REASONS: Final[Mapping[str, str]] = {
    "locked": "the database is busy; try again",
    "timeout": "the database did not answer in time; try again",
    "disk is full": "the disk of the database is full",
    "No space left": "the disk of the database is full",
    "disk I/O error": "the disk of the database failed",
    "readonly database": "the database cannot be written",
    "read-only": "the database cannot be written",
    "unable to open": "the database cannot be opened",
    "not a database": "the file of the database is damaged, or is no database",
    "malformed": "the file of the database is damaged, or is no database",
    "authentication failed": "the database refuses the credentials",
}


class Database:
    """Rows in SQLite or PostgreSQL. Work on them runs in threads, a whole transaction in each.

    Args:
        url: ``sqlite:///relative/or//absolute.db`` or ``postgresql://user:password@host/name``.
        migrations: how older schemas become the present one.

    Raises:
        ValueError: the URL is neither.
        StorageFailure: PostgreSQL's driver is not installed.
    """

    def __init__(self, url: str, *, migrations: Sequence[Migration] = MIGRATIONS) -> None:
        self._url = _parse(url)
        self._migrations = migrations
        self._engine = _engine(self._url)
        isolation = {} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._reading = self._engine.execution_options(**isolation)
        self._writing = self._engine.execution_options(writing=True)
        self._readers = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="rows")
        # One writer at a time is SQLite's rule: queueing here is fair, its own waiting is not.
        self._writers = ThreadPoolExecutor(1, "row") if self.is_sqlite else self._readers

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite; else it is PostgreSQL."""
        return self._url.get_backend_name() == "sqlite"

    async def open(self) -> None:
        """Connect and bring the schema up to date."""
        if self.is_sqlite:
            await self._use_wal(str(self._url.database))
        await self.write(lambda connection: migrate(connection, self._migrations))

    async def close(self) -> None:
        """Let what has begun end, and release connections."""
        await asyncio.to_thread(self._close)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run statements that each see the newest committed rows.

        NOTE: work returns what it fetched, never an open result: its connection serves others next.
        """

        def run() -> T:
            with _translated(), self._reading.connect() as connection:
                return work(connection)

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run a transaction: all of it is kept, or none. What has begun ends, even when the caller
        is cancelled: a transaction left open would lock every other writer out."""

        def run() -> T:
            with _translated(), self._writing.begin() as connection:
                return work(connection)

        return await asyncio.get_running_loop().run_in_executor(self._writers, run)

    def _close(self) -> None:
        self._readers.shutdown()
        self._writers.shutdown()
        self._engine.dispose()

    async def _use_wal(self, file: str) -> None:
        with _translated():
            await asyncio.to_thread(Path(file).parent.mkdir, parents=True, exist_ok=True)
        # Changing the journal's mode ignores the busy timeout: replicas that start at once retry.
        for _ in range(100):
            try:
                await self.read(_set_wal)
                return
            except StorageFailure as error:
                if error.message != REASONS["locked"]:
                    raise
            await asyncio.sleep(0.05)
        raise StorageFailure(REASONS["locked"])


class _Stored(Protocol):
    _database: Database


def reads(
    method: Callable[Concatenate[S, Connection, P], T],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Makes statements over a connection an asynchronous method of a SQL store."""

    @wraps(method)
    async def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._database.read(lambda rows: method(self, rows, *args, **kwargs))

    return run


def writes(
    method: Callable[Concatenate[S, Connection, P], T],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """The same in a transaction."""

    @wraps(method)
    async def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._database.write(lambda rows: method(self, rows, *args, **kwargs))

    return run


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ValueError("the URL of the database cannot be read") from error
    driver = DRIVERS.get(parsed.drivername)
    if driver is None:
        raise ValueError(
            f"unknown kind of database {parsed.drivername!r}; known: sqlite:///path, "
            "postgresql://user:password@host/name"
        )
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ValueError("SQLite needs a file: sqlite:///atelier.db")
    return parsed.set(drivername=driver)


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        args: dict[str, Any] = {"timeout": BUSY_SECONDS, "check_same_thread": False}
        engine = create_engine(url, pool_size=NUM_THREADS + 1, connect_args=args)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    waits = {"connect_timeout": 5, "keepalives_idle": 30, "tcp_user_timeout": 15_000}
    args = {name: value for name, value in waits.items() if name not in url.query}
    try:
        return create_engine(url, pool_pre_ping=True, pool_size=NUM_THREADS, connect_args=args)
    except ModuleNotFoundError as error:
        raise StorageFailure(
            "PostgreSQL needs its driver: install it with pip install 'atelier[postgres]'"
        ) from error


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver is to begin nothing by itself
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _set_wal(connection: Connection) -> None:
    connection.exec_driver_sql("PRAGMA journal_mode=WAL").scalar()


def _begin_sqlite(connection: Connection) -> None:
    # A write takes the lock before it reads, or SQLite refuses it when another wrote meanwhile.
    if connection.get_execution_options().get("writing"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        raise _failure(error) from error


def _failure(error: Exception) -> StorageFailure:
    cause = error.orig if isinstance(error, DBAPIError) else error
    words = str(cause)
    logger.warning("database: %s: %s", type(cause).__name__, words.partition("\n")[0])
    for sign, reason in REASONS.items():
        if sign in words:
            return StorageFailure(reason)
    if isinstance(error, DBAPIError) and not isinstance(error, OperationalError | InterfaceError):
        return StorageFailure("the database refused the operation")
    return StorageFailure("the database cannot be reached")
