"""Internal: what ComfyUI's own pages ask for: logs, folders, the newest files."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from deployments.errors import InvalidRequest
from router.apis.comfyui.body import read_object
from router.apis.comfyui.discovery import FOLDERS
from router.apis.comfyui.entry import API
from router.apis.comfyui.file_names import parse_kind
from router.apis.route import owner_of
from router.job import Job
from router.service import GenerationService

#: How many of the caller's newest prompts the logs tell of.
NUM_PROMPTS: Final = 100
#: The terminal that ComfyUI's pages draw the logs in.
TERMINAL: Final = {"cols": 80, "rows": 24}


class Internal:
    """The handlers of ``/internal``. Logs tell of the caller's own prompts alone."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service

    async def logs(self, request: Request) -> Response:
        """``GET /internal/logs``: all lines as one text."""
        entries = await self._entries(request)
        return JSONResponse("".join(f"{entry['t']} - {entry['m']}" for entry in entries))

    async def raw_logs(self, request: Request) -> Response:
        """``GET /internal/logs/raw``: a time and a message each."""
        return JSONResponse({"entries": await self._entries(request), "size": TERMINAL})

    async def subscribe(self, request: Request) -> Response:
        """``PATCH /internal/logs/subscribe``: there are no lines but those that are asked for."""
        body = await read_object(request)
        if "clientId" not in body or "enabled" not in body:
            raise InvalidRequest("clientId and enabled are required")
        return Response()

    async def folder_paths(self) -> Response:
        """``GET /internal/folder_paths``: the names of the folders; where they lie is not told."""
        return JSONResponse({name: [] for name in FOLDERS})

    async def files(self, request: Request) -> Response:
        """``GET /internal/files/{kind}``: names of files that are in no subfolder, newest first."""
        kind = parse_kind(request.path_params["kind"])
        if kind is None:
            return JSONResponse({"error": "Invalid directory type"}, status_code=400)
        found = await self._service.files.list(owner=owner_of(request), kind=kind, subfolder="")
        newest = sorted(found, key=lambda file: file.created_at, reverse=True)
        return JSONResponse([file.name for file in newest])

    async def _entries(self, request: Request) -> list[dict[str, Any]]:
        page = await self._service.list(owner=owner_of(request), api=API, limit=NUM_PROMPTS)
        events = sorted(event for job in page.jobs for event in _events(job))
        return [
            {"t": datetime.fromtimestamp(moment, UTC).isoformat(), "m": f"{text}\n"}
            for moment, text in events
        ]


def _events(job: Job) -> list[tuple[float, str]]:
    """When the prompt was queued, when it began, and how it ended."""
    name = job.name or job.id
    events = [(job.created_at, f"got prompt {name}")]
    if job.started_at is not None:
        events.append((job.started_at, f"prompt {name} begins"))
    if job.ended_at is not None:
        reason = f": {job.error.message}" if job.error else ""
        events.append((job.ended_at, f"prompt {name} {job.status.value}{reason}"))
    return events
