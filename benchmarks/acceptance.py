"""How fast jobs are accepted: ``POST /api/images/generate`` against a no-op route of one gateway.

    python -m benchmarks.acceptance --url http://127.0.0.1:8000 --model slow

Both are measured in turns in one run, with the same clients, so that whatever else the machine does
falls on both. A job is accepted once its row is committed. ``--model`` should name a model so slow
that jobs wait (a stanza of the fake family with ``step_seconds: 5`` and ``max_ongoing_requests: 1``
will do): drawing would otherwise take the cores from accepting. The jobs are cancelled at the end.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx


def main() -> None:
    """Measure in turns and print the ratio."""
    args = parse_arguments()
    accepted: list[str] = []
    numbers = itertools.count()
    with httpx.Client(base_url=args.url, timeout=60) as client:

        def no_op() -> None:
            client.get("/health").raise_for_status()

        def submit() -> None:
            body = {"prompt": f"job {next(numbers)}", "model": args.model, "size": "512x512"}
            answer = client.post("/api/images/generate", json=body).raise_for_status()
            accepted.append(answer.json()["job_id"])

        turns = [
            (rate(no_op, args.jobs, args.clients), rate(submit, args.jobs, args.clients))
            for _ in range(args.turns)
        ]
        with ThreadPoolExecutor(args.clients) as pool:
            list(pool.map(lambda job_id: client.delete(f"/api/images/{job_id}"), accepted))
    for no_ops, jobs in turns:
        print(f"no-op {no_ops:7.1f}/s   jobs {jobs:7.1f}/s   jobs / no-op {jobs / no_ops:.2f}")
    median = statistics.median(jobs / no_ops for no_ops, jobs in turns)
    print(f"median jobs / no-op: {median:.2f}")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", required=True)
    parser.add_argument("--jobs", type=int, default=400, help="per turn")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--turns", type=int, default=5)
    return parser.parse_args()


def rate(call: Callable[[], None], times: int, clients: int) -> float:
    """Calls per second, made by so many clients at once."""
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        calls = [pool.submit(call) for _ in range(times)]
        for done in calls:
            done.result()
    return times / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
