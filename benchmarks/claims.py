"""How the time of a claim grows with the jobs that wait: from a thousand to a million rows.

    python -m benchmarks.claims [--rows 1000,10000] [--claims 300] [--url postgresql://...]

Rows are inserted in bulk; then jobs are claimed and finished one by one, and added one by one. The
database named by ``--url`` must be empty; without it a temporary SQLite file is used.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial

from sqlalchemy import Connection, text

from deployments.types import GenerationRequest
from router.job import Job, JobStatus, StoredRequest, new_job
from router.store import tables
from router.store.database import Database
from router.store.jobs import Outcome
from router.store.record import JobRecord
from router.store.rows import job_row
from router.store.sql_jobs import SqlJobStore

MODEL = "sdxl-turbo"
NUM_OWNERS = 100
#: Rows that one bulk statement inserts.
BULK = 5000


def make_job(number: int) -> Job:
    """A job of one of many owners."""
    request = GenerationRequest(prompt="a red cube on a blue table", model=MODEL)
    requests = (StoredRequest(request=request),)
    return new_job(requests, api="openai", owner=f"owner-{number % NUM_OWNERS}", model=MODEL)


async def fill(database: Database, first: int, last: int) -> None:
    """Insert queued jobs ``first`` to ``last`` as ``SqlJobStore.add`` would have."""
    for start in range(first, last, BULK):
        numbers = range(start, min(start + BULK, last))
        records = [JobRecord(job=make_job(n), turn=n // NUM_OWNERS) for n in numbers]
        rows = [job_row(record) for record in records]
        await database.write(partial(insert, rows=rows))
    await database.write(lambda connection: connection.execute(text("ANALYZE")).close())


def insert(connection: Connection, *, rows: list[dict[str, object]]) -> None:
    """Insert rows of jobs."""
    connection.execute(tables.jobs.insert(), rows)


async def milliseconds(work: Callable[[], Awaitable[object]], times: int) -> float:
    """Median time of one call."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        await work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000


async def measure(url: str, sizes: list[int], num_claims: int) -> list[tuple[int, float, float]]:
    """(rows, milliseconds of claim and finish, milliseconds of add) for each size."""
    database = Database(url)
    jobs = SqlJobStore(database)
    await jobs.open()

    async def claim_and_finish() -> None:
        taken = await jobs.claim(model=MODEL, worker="benchmark", lease_seconds=60)
        assert taken is not None
        await jobs.finish(taken.job.id, taken.token, Outcome(status=JobStatus.COMPLETED))

    async def add() -> None:
        await jobs.add(make_job(0))

    results = []
    num_rows = 0
    for size in sizes:
        await fill(database, num_rows, size)
        num_rows = size
        await milliseconds(claim_and_finish, 20)  # caches warm up
        adding = await milliseconds(add, num_claims)
        claiming = await milliseconds(claim_and_finish, num_claims)
        results.append((size, claiming, adding))
    await jobs.close()
    return results


def render(results: list[tuple[int, float, float]]) -> str:
    """The table of a report; ratios are to the smallest size."""
    _, claim0, add0 = results[0]
    lines = [f"{'queued rows':>12} {'claim+finish':>14} {'ratio':>6} {'add':>10} {'ratio':>6}"]
    lines += [
        f"{size:>12,} {claim:>11.2f} ms {claim / claim0:>6.2f} {add:>7.2f} ms {add / add0:>6.2f}"
        for size, claim, add in results
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="1000,10000,100000,1000000")
    parser.add_argument("--claims", type=int, default=300)
    parser.add_argument("--url")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    sizes = [int(size) for size in args.rows.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        url = args.url or f"sqlite:///{folder}/claims.db"
        print(render(asyncio.run(measure(url, sizes, args.claims))))


if __name__ == "__main__":
    main()
