"""Summary: one prompt as a line of the list of jobs (ComfyUI's ``comfy_execution/jobs.py``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from router.apis.comfyui.entry import render_item
from router.job import Job, JobStatus

#: Every status of a job.
STATUSES: Final = ("pending", "in_progress", "completed", "failed", "cancelled")
#: Kinds of output that clients can show.
SHOWABLE: Final = frozenset({"images", "video", "audio", "3d", "text"})
#: Characters of a text that stands for a job.
MAX_TEXT: Final = 1024


def summarize_unfinished(job: Job) -> dict[str, Any]:
    """A prompt that runs or waits."""
    status = "in_progress" if job.status is JobStatus.IN_PROGRESS else "pending"
    return _pruned(_common(job, status) | {"outputs_count": 0, "previewable_outputs_count": 0})


def summarize_ended(job: Job, entry: Mapping[str, Any]) -> dict[str, Any]:
    """An ended prompt, from its entry in the history."""
    messages = entry["status"]["messages"]
    kind, ending = messages[-1]
    status = {"execution_success": "completed", "execution_error": "failed"}.get(kind, "cancelled")
    outputs = list(_outputs(entry["outputs"]))
    times = {
        "execution_start_time": messages[0][1]["timestamp"],
        "execution_end_time": ending["timestamp"],
    }
    files = [output for output in outputs if "content" not in output]
    counts = {
        "outputs_count": len(files),
        "previewable_outputs_count": sum(output["mediaType"] in SHOWABLE for output in files),
    }
    told = {
        "execution_error": ending if status == "failed" else None,
        "preview_output": _most_telling(outputs),
    }
    return _pruned(_common(job, status) | times | counts | told)


def detail(job: Job, summary: Mapping[str, Any]) -> dict[str, Any]:
    """One job alone: with the graph that was asked."""
    _, _, graph, extra_data, _ = render_item(job)
    return {**summary, "workflow": {"prompt": graph, "extra_data": extra_data}}


def detail_ended(job: Job, summary: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """The same of an ended job: with what came of it."""
    came = {"outputs": entry["outputs"], "execution_status": entry["status"]}
    return detail(job, {**summary, **came})


def _common(job: Job, status: str) -> dict[str, Any]:
    extra_data = job.details["extra_data"]
    pnginfo = extra_data.get("extra_pnginfo")
    workflow = pnginfo.get("workflow") if isinstance(pnginfo, dict) else None
    return {
        "id": job.name,
        "status": status,
        "priority": job.details["number"],
        "create_time": extra_data.get("create_time"),
        "workflow_id": workflow.get("id") if isinstance(workflow, dict) else None,
    }


def _pruned(job: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in job.items() if value is not None}


def _outputs(outputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every output of a prompt with its node and kind; texts as their beginning."""
    for node, shown in outputs.items():
        for kind, items in shown.items():
            if kind == "animated" or not isinstance(items, list):
                continue
            for item in items:
                if isinstance(item, dict):
                    yield {**item, "nodeId": node, "mediaType": kind}
                elif kind == "text":
                    yield {**_cut(str(item)), "nodeId": node, "mediaType": kind}


def _cut(text: str) -> dict[str, Any]:
    if len(text) <= MAX_TEXT:
        return {"content": text}
    return {"content": text[:MAX_TEXT], "truncated": True}


def _most_telling(outputs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The output that stands for the job: saved pictures before others, those before texts."""
    showable = [output for output in outputs if output["mediaType"] in SHOWABLE]

    def rank(output: dict[str, Any]) -> tuple[bool, bool]:
        return output["mediaType"] == "text", output.get("type") != "output"

    return min(showable, key=rank, default=None)
