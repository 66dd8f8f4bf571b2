"""How far a call is, as ``progress`` and ``/internal/progress`` tell it. Pure functions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from router.apis.sdapi.bodies import TaskProgress
from router.apis.sdapi.inputs import encode_base64
from router.job import Job, JobProgress, JobStatus


def newest(jobs: Sequence[Job], task: str | None = None) -> Job | None:
    """The job to speak of: the one of a task, else the newest that runs, else that waits."""
    if task:
        return next((job for job in jobs if task_of(job) == task), None)
    open_jobs = [job for job in jobs if not job.status.is_final]
    running = (job for job in open_jobs if job.status is JobStatus.IN_PROGRESS)
    return next(running, open_jobs[-1] if open_jobs else None)


def task_of(job: Job) -> str:
    """The id that the client gave, or the job's own."""
    return str(job.details.get("task_id") or job.id)


def render_progress(
    job: Job | None, news: JobProgress | None, *, has_image: bool = True
) -> dict[str, Any]:
    """``GET progress``. With nothing under way both ``progress`` and ``job_count`` are 0: clients
    wait for just that."""
    if job is None or job.status.is_final:
        return _answer(0.0, 0.0, _state(), None)
    share = share_of(news)
    count = len(job.requests)
    number = min(count - 1, int(share * count))
    steps = job.requests[0].request.params.num_inference_steps or 0
    state = _state(
        interrupted=job.interrupted,
        job=f"Batch {number + 1} out of {count}",
        job_count=count,
        job_timestamp=time.strftime("%Y%m%d%H%M%S", time.localtime(job.created_at)),
        job_no=number,
        sampling_step=int((share * count - number) * steps),
        sampling_steps=steps,
    )
    preview = news.preview if news and has_image else None
    image = encode_base64(preview) if preview else None
    return _answer(share, eta_of(job, share), state, image)


def render_task(job: Job | None, news: JobProgress | None, asked: TaskProgress) -> dict[str, Any]:
    """``POST /internal/progress``."""
    status = job.status if job else None
    is_active = status is JobStatus.IN_PROGRESS
    answer: dict[str, Any] = {
        "active": is_active,
        "queued": status is JobStatus.QUEUED,
        "completed": bool(status and status.is_final),
        "progress": None,
        "eta": None,
        "live_preview": None,
        "id_live_preview": -1,
        "textinfo": "In queue..." if status is JobStatus.QUEUED else "Waiting...",
    }
    if job is None or not is_active:
        return answer
    share = share_of(news)
    number = news.num_previews if news else 0
    answer |= {"progress": share, "eta": eta_of(job, share) or None, "textinfo": None}
    answer["id_live_preview"] = asked.id_live_preview
    if news and news.preview and asked.live_preview and number != asked.id_live_preview:
        answer["live_preview"] = f"data:image/jpeg;base64,{encode_base64(news.preview)}"
        answer["id_live_preview"] = number
    return answer


def share_of(news: JobProgress | None) -> float:
    """How much is done, 0 to 1."""
    return min(1.0, news.step / news.num_steps) if news and news.num_steps else 0.0


def eta_of(job: Job, share: float) -> float:
    """Seconds still to go at the pace so far; 0 when that cannot be told."""
    if not share or job.started_at is None:
        return 0.0
    elapsed = max(0.0, time.time() - job.started_at)
    return elapsed / share - elapsed


def _answer(
    progress: float, eta: float, state: dict[str, Any], image: str | None
) -> dict[str, Any]:
    return {
        "progress": progress,
        "eta_relative": eta,
        "state": state,
        "current_image": image,
        "textinfo": None,
    }


def _state(**told: Any) -> dict[str, Any]:
    return {
        "skipped": False,
        "interrupted": False,
        "stopping_generation": False,
        "job": "",
        "job_count": 0,
        "job_timestamp": "0",
        "job_no": 0,
        "sampling_step": 0,
        "sampling_steps": 0,
        **told,
    }
