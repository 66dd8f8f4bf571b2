"""What can go wrong with a workflow, as exceptions that say what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: What helps against a card without memory: documented for the course that this client is from.
OUT_OF_MEMORY_HELP = (
    "Ask for a smaller picture (768, then 512, then 384 pixels), wait half a minute between "
    "generations, or use a simpler workflow."
)


class ComfyUIError(Exception):
    """Base of everything that this client raises."""


class ServiceUnreachable(ComfyUIError):
    """No answer came in time, or nobody listens there."""

    def __init__(self, url: str, timeout: float, cause: Exception) -> None:
        super().__init__(
            f"{url} did not answer within {timeout:g} s ({type(cause).__name__}). Check the "
            f"address, or give it more time: create_client({url!r}, timeout={2 * timeout:g})"
        )


class ServiceRefused(ComfyUIError):
    """The server answered with an error; ``status`` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class WorkflowInvalid(ServiceRefused):
    """The server does not accept the workflow; ``node_errors`` is its own report, by node."""

    def __init__(self, status: int, message: str, node_errors: Mapping[str, Any]) -> None:
        super().__init__(status, message)
        self.node_errors = node_errors


class GenerationTimeout(ComfyUIError, TimeoutError):
    """The pictures were not there in time. The prompt goes on: wait for it again."""

    def __init__(self, prompt_id: str, seconds: float) -> None:
        super().__init__(
            f"Timeout après {seconds:g}s: prompt {prompt_id} has not ended. Wait again with a "
            "larger max_wait, or ask for fewer steps or a smaller picture."
        )
        self.prompt_id = prompt_id


class WorkflowFailed(ComfyUIError):
    """A node failed while the workflow ran; ``node_id`` and ``node_type`` name it."""

    def __init__(self, message: str, node_id: str = "", node_type: str = "") -> None:
        super().__init__(message)
        self.node_id = node_id
        self.node_type = node_type


class OutOfMemory(WorkflowFailed):
    """The picture did not fit the card's memory."""


class WorkflowInterrupted(ComfyUIError):
    """Somebody interrupted the prompt."""

    def __init__(self, prompt_id: str) -> None:
        super().__init__(f"prompt {prompt_id} was interrupted")


def explain_refusal(status: int, body: Any) -> ServiceRefused:
    """The exception for an answer that is not a success."""
    if status == 401:
        message = 'the server wants a key: ComfyUIClient(url, api_key="...")'
        return ServiceRefused(status, message)
    if not isinstance(body, Mapping):
        return ServiceRefused(status, f"HTTP {status}: {str(body)[:500]}")
    error = body.get("error")
    told = error.get("message") if isinstance(error, Mapping) else error
    node_errors = body.get("node_errors") or {}
    lines = [f"{told or f'HTTP {status}'}"]
    for node_id, node in node_errors.items():
        kind = node.get("class_type", "")
        lines += [_node_line(node_id, kind, fault) for fault in node.get("errors", ())]
    if isinstance(error, Mapping):
        return WorkflowInvalid(status, "\n".join(lines), node_errors)
    return ServiceRefused(status, lines[0])


def explain_failure(data: Mapping[str, Any]) -> WorkflowFailed:
    """The exception for the data of an ``execution_error``."""
    told, kind = str(data.get("exception_message", "")), str(data.get("exception_type", ""))
    node_id, node_type = str(data.get("node_id", "")), str(data.get("node_type", ""))
    message = f"node {node_id} ({node_type}): {told}"
    if "OutOfMemory" in kind or "memory" in told.lower():
        return OutOfMemory(f"{message}\n{OUT_OF_MEMORY_HELP}", node_id, node_type)
    return WorkflowFailed(message, node_id, node_type)


def _node_line(node_id: str, kind: str, fault: Mapping[str, Any]) -> str:
    line = f"node {node_id} ({kind}): {fault.get('message')}: {fault.get('details')}"
    if fault.get("type") == "value_not_in_list":
        line += (
            " (check the class_type: QwenVLCLIPLoader loads Qwen, CheckpointLoaderSimple others)"
        )
    return line
