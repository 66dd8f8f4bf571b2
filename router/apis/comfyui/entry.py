"""How a prompt is told once it was accepted: its line in the queue, its entry in the history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from router.apis.comfyui.frames import milliseconds
from router.job import Job, JobStatus

#: The name of this API in the rows of jobs.
API: Final = "comfyui"


def client_of(job: Job) -> str | None:
    """The client that the prompt's frames go to; None when it named none."""
    client_id: str | None = job.details.get("client_id")
    return client_id


def has_previews(job: Job) -> bool:
    """Whether the client asked to see pictures while they are drawn; by default none are."""
    method = job.details.get("extra_data", {}).get("preview_method")
    return method not in (None, "", "none", "default")


def render_item(job: Job) -> list[Any]:
    """``[number, prompt_id, graph, extra_data, outputs]``, as queues and histories have it."""
    args = job.details["script_args"]
    return [
        job.details["number"],
        job.name,
        args["graph"],
        job.details["extra_data"],
        args["outputs"],
    ]


def render_entry(job: Job) -> dict[str, Any]:
    """What the history says of an ended prompt."""
    messages = messages_of(job)
    is_success = messages[-1][0] == "execution_success"
    return {
        "prompt": render_item(job),
        "outputs": job.result.get("outputs", {}),
        "status": {
            "status_str": "success" if is_success else "error",
            "completed": is_success,
            "messages": messages,
        },
        "meta": job.result.get("meta", {}),
    }


def messages_of(job: Job) -> Sequence[Sequence[Any]]:
    """``[type, data]`` of the ended prompt's frames that its history keeps; the last says how it
    ended.

    A prompt that ended without its script (it was cancelled, or no worker could run it) has the
    messages that the script would have told.
    """
    told: Sequence[Sequence[Any]] = job.result.get("messages", ())
    if told:
        return told
    begun = milliseconds(job.started_at or job.created_at)
    return [
        ["execution_start", {"prompt_id": job.name, "timestamp": begun}],
        ["execution_cached", {"nodes": [], "prompt_id": job.name, "timestamp": begun}],
        _ending(job),
    ]


def was_dequeued(job: Job) -> bool:
    """Whether the prompt was taken out of the queue before it began: no frame speaks of it."""
    return job.status is JobStatus.CANCELLED and job.started_at is None


def _ending(job: Job) -> list[Any]:
    args = job.details["script_args"]
    node = args["outputs"][0]  # none ran: tell which it was for
    data: dict[str, Any] = {
        "prompt_id": job.name,
        "node_id": node,
        "node_type": args["graph"][node]["class_type"],
        "executed": [],
    }
    timestamp: Mapping[str, int] = {"timestamp": milliseconds(job.ended_at)}
    if job.error is None:
        return ["execution_interrupted", {**data, **timestamp}]
    return [
        "execution_error",
        {
            **data,
            "exception_message": job.error.message,
            "exception_type": "RuntimeError",
            "traceback": [],
            "current_inputs": {},
            "current_outputs": [],
            **timestamp,
        },
    ]
