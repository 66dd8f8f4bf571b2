"""The list of jobs, as the newest ComfyUI has it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.router.apis.comfyui.client import Comfy, wait_until
from tests.router.apis.comfyui.graphs import drawn, flat
from tests.router.apis.comfyui_gateway import SDXL, comfyui_gateway


@pytest.fixture(scope="module")
def comfy() -> Iterator[Comfy]:
    """Three jobs that completed, one that was cancelled, one that runs, and one that waits."""
    card = replace(SDXL, max_ongoing_requests=1)
    with comfyui_gateway(card, step_seconds=0.1) as served:
        comfy = Comfy(served.http)
        for color in range(3):
            workflow = {"extra_pnginfo": {"workflow": {"id": f"w{color % 2}"}}}
            comfy.entry(comfy.submit(flat(color), extra_data=workflow, prompt_id=f"done {color}"))
        comfy.submit(drawn(steps=150), prompt_id="cancelled")
        wait_until(lambda: comfy.running() == ["cancelled"])
        time.sleep(1.0)
        comfy.post("/interrupt")
        comfy.entry("cancelled")
        comfy.submit(drawn(steps=150), prompt_id="running")
        wait_until(lambda: comfy.running() == ["running"])
        comfy.submit(drawn(steps=150), prompt_id="waiting")
        yield comfy
        comfy.post("/queue", clear=True)
        comfy.post("/interrupt")


def ids(page: Any) -> list[str]:
    return [job["id"] for job in page["jobs"]]


def test_all_jobs_are_listed_newest_first(comfy: Comfy) -> None:
    page = comfy.get("/api/jobs")
    assert ids(page) == ["waiting", "running", "cancelled", "done 2", "done 1", "done 0"]
    assert page["pagination"] == {"offset": 0, "limit": None, "total": 6, "has_more": False}
    statuses = [job["status"] for job in page["jobs"]]
    assert statuses == ["pending", "in_progress", "cancelled", *["completed"] * 3]


def test_jobs_tell_their_times_and_outputs(comfy: Comfy) -> None:
    job = comfy.get("/api/jobs")["jobs"][-1]
    assert job["create_time"] <= job["execution_start_time"] <= job["execution_end_time"]
    assert (job["outputs_count"], job["previewable_outputs_count"]) == (1, 1)
    assert job["preview_output"]["nodeId"] == "9"
    assert job["preview_output"]["mediaType"] == "images"
    assert job["workflow_id"] == "w0"
    assert "execution_error" not in job


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"status": "pending,in_progress"}, ["waiting", "running"]),
        ({"status": "Cancelled"}, ["cancelled"]),
        ({"status": "failed"}, []),
        ({"workflow_id": "w1"}, ["done 1"]),
        ({"workflow_id": "w0", "sort_order": "asc"}, ["done 0", "done 2"]),
        ({"limit": 2, "offset": 1}, ["running", "cancelled"]),
        ({"limit": 1, "offset": -5}, ["waiting"]),
        ({"sort_by": "execution_duration", "limit": 1}, ["cancelled"]),
    ],
    ids=str,
)
def test_jobs_are_filtered_sorted_and_paged(
    comfy: Comfy, params: dict[str, Any], expected: list[str]
) -> None:
    page = comfy.get("/api/jobs", **params)
    assert ids(page) == expected
    assert page["pagination"]["limit"] == params.get("limit")
    assert page["pagination"]["has_more"] == ("limit" in params)


@pytest.mark.parametrize(
    "params",
    [
        {"status": "strange"},
        {"sort_by": "name"},
        {"sort_order": "up"},
        {"limit": 0},
        {"limit": "x"},
        {"offset": "x"},
    ],
    ids=str,
)
def test_bad_questions_are_refused_with_a_text(comfy: Comfy, params: dict[str, Any]) -> None:
    response = comfy.http.get("/api/jobs", params=params)
    assert response.status_code == 400
    assert isinstance(response.json()["error"], str)


def test_one_job_is_told_with_its_graph_and_what_came_of_it(comfy: Comfy) -> None:
    job = comfy.get("/api/jobs/done 1")
    assert job["workflow"]["prompt"] == flat(1)
    assert list(job["outputs"]) == ["9"]
    assert job["execution_status"]["completed"] is True
    running = comfy.get("/api/jobs/running")
    assert running["status"] == "in_progress"
    assert "outputs" not in running


def test_an_unknown_job_is_not_found(comfy: Comfy) -> None:
    response = comfy.http.get("/api/jobs/unknown")
    assert (response.status_code, response.json()) == (404, {"error": "Job not found"})


def test_cancelling_ends_what_runs_or_waits_and_nothing_else(comfy: Comfy) -> None:
    def cancel(name: str) -> Any:
        return comfy.http.post(f"/api/jobs/{name}/cancel").json()

    comfy.submit(drawn(), prompt_id="to cancel")
    assert cancel("to cancel") == {"cancelled": True}
    assert cancel("to cancel") == {"cancelled": False}
    assert cancel("done 0") == {"cancelled": False}
    assert cancel("unknown") == {"cancelled": False}
    assert "to cancel" not in comfy.get("/history")


def test_several_jobs_are_cancelled_at_once(comfy: Comfy) -> None:
    names = [comfy.submit(drawn()) for _ in range(2)]

    def cancel(ids: Any) -> Any:
        return comfy.http.post("/api/jobs/cancel", json={"job_ids": ids})

    assert cancel([*names, str(uuid.uuid4())]).json() == {"cancelled": True}
    assert cancel(names).json() == {"cancelled": False}
    assert cancel([]).json() == {"cancelled": False}
    response = cancel([str(uuid.uuid4()), "no uuid", {"a": 1}])
    assert response.status_code == 400
    assert response.json()["invalid_ids"] == ["no uuid", '{"a": 1}']
    for bad in ("x", None, 7):
        assert cancel(bad).json() == {"error": "job_ids must be a list"}
