"""What the tests of the stores run on: memory, SQLite and PostgreSQL; memory, disk and S3."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from router.store.database import Database
from router.store.deliveries import DeliveryStore
from router.store.files import FileStore
from router.store.images import ImageStore, MemoryImageStore
from router.store.jobs import JobStore
from router.store.memory_deliveries import MemoryDeliveryStore
from router.store.memory_files import MemoryFileStore
from router.store.memory_jobs import MemoryJobStore
from router.store.object_images import ObjectImageStore
from router.store.sql_deliveries import SqlDeliveryStore
from router.store.sql_files import SqlFileStore
from router.store.sql_jobs import SqlJobStore
from tests.router.store.postgres import PostgresServer, find_programs


class Clock:
    """A clock that only a test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Rows:
    """The stores of rows under test, and the clock they read."""

    clock: Clock
    jobs: JobStore
    deliveries: DeliveryStore
    files: FileStore
    url: str | None = None
    opened: list[JobStore] = field(default_factory=list)

    async def another(self) -> JobStore:
        """A store of another replica over the same rows."""
        return (await self.replica())[0]

    async def replica(self) -> tuple[JobStore, FileStore]:
        """Another replica's stores of jobs and files over the same rows."""
        if self.url is None:
            return self.jobs, self.files
        database = Database(self.url)
        other = SqlJobStore(database, clock=self.clock)
        await other.open()
        self.opened.append(other)
        return other, SqlFileStore(database)


def missing(what: str) -> None:
    """Skip at home; in CI nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is not installed")
    pytest.skip(f"{what} is not installed")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    programs = find_programs()
    if programs is None:
        missing("PostgreSQL")
    assert programs is not None
    server = PostgresServer(programs)
    try:
        server.start()
        yield server
        server.stop()
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", "postgres"])
def sql_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/rows/atelier.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def rows(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rows]:
    """Open stores of rows of each kind."""
    clock = Clock()
    if request.param == "memory":
        memory = MemoryJobStore(clock=clock)
        webhooks = MemoryDeliveryStore(memory, clock=clock)
        yield Rows(clock=clock, jobs=memory, deliveries=webhooks, files=MemoryFileStore())
        return
    url = f"sqlite:///{tmp_path}/rows/atelier.db"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").new_database()
    database = Database(url)
    jobs = SqlJobStore(database, clock=clock)
    found = Rows(
        clock=clock,
        jobs=jobs,
        deliveries=SqlDeliveryStore(database, clock=clock),
        files=SqlFileStore(database),
        url=url,
        opened=[jobs],
    )
    await jobs.open()
    yield found
    for store in found.opened:
        await store.close()


@dataclass
class Bucket:
    """A bucket on a loopback server: its name, its store's URL, and a way to end the server."""

    name: str
    url: str
    stop: Callable[[], None]


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    """An empty bucket of a real S3 protocol server, whose buckets outlive it in this process."""
    try:
        import boto3
        from moto.server import ThreadedMotoServer
    except ImportError:
        missing("moto")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    secrets = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **secrets)
    name = f"pictures-{uuid4().hex}"
    client.create_bucket(Bucket=name)
    query = "access_key_id=test&secret_access_key=test&region=us-east-1"
    yield Bucket(name, f"s3://{name}/a/b?endpoint_url={endpoint}&{query}", server.stop)
    client.close()
    server.stop()


@pytest.fixture(params=["memory", "disk", "s3"])
def images(request: pytest.FixtureRequest, tmp_path: Path) -> ImageStore:
    """An empty store of pictures of each kind."""
    if request.param == "memory":
        return MemoryImageStore()
    if request.param == "disk":
        return ObjectImageStore(str(tmp_path / "generated images"))
    found: Bucket = request.getfixturevalue("bucket")
    return ObjectImageStore(found.url)
