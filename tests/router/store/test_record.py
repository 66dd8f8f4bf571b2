"""What a record refuses: steps that only a mistake of ours could ask for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.job import JobStatus
from router.store.jobs import LeaseLost, Outcome
from router.store.record import JobRecord, check_new, next_turn, requeued_turn
from tests.router.store.making import make_job


def test_record_when_claimed_twice() -> None:
    claimed = JobRecord(job=make_job()).claimed(worker="w", now=1.0, lease_seconds=1.0)

    with pytest.raises(ValueError, match="in_progress cannot become in_progress"):
        claimed.claimed(worker="w", now=1.0, lease_seconds=1.0)


def test_record_when_finished_without_an_end() -> None:
    claimed = JobRecord(job=make_job()).claimed(worker="w", now=1.0, lease_seconds=1.0)

    with pytest.raises(ValueError, match="cannot end as queued"):
        claimed.finished(1, Outcome(status=JobStatus.QUEUED), now=1.0)


def test_record_when_it_is_held_by_nobody() -> None:
    with pytest.raises(LeaseLost):
        JobRecord(job=make_job()).check(0)


def test_new_job_when_it_is_not_queued() -> None:
    with pytest.raises(ValueError, match="a new job is queued"):
        check_new(replace(make_job(), status=JobStatus.FAILED))


@pytest.mark.parametrize(
    ("first", "running", "last", "turn"),
    [
        (None, None, None, 0),
        (4, None, None, 4),
        (4, 3, None, 4),
        (None, 7, None, 7),
        (2, 50, None, 50),
        (4, 3, 4, 5),
        (4, 3, 9, 10),
        (None, None, 0, 1),
    ],
)
def test_next_turn(first: int | None, running: int | None, last: int | None, turn: int) -> None:
    assert next_turn(first=first, running=running, last=last) == turn


@pytest.mark.parametrize(("turn", "first", "after"), [(5, None, 5), (5, 7, 5), (5, 3, 3)])
def test_requeued_turn(turn: int, first: int | None, after: int) -> None:
    assert requeued_turn(turn, first=first) == after
