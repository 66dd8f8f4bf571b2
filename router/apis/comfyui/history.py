"""The history: the owner's ended prompts, the first to end first."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Request
from starlette.responses import Response

from deployments.errors import JobNotFound
from router.apis.comfyui.body import parse_ids, parse_whole, read_object
from router.apis.comfyui.entry import API, render_entry
from router.apis.comfyui.summary import summarize_ended
from router.apis.route import owner_of
from router.job import Job
from router.service import GenerationService

#: The most entries that are told (ComfyUI's ``MAXIMUM_HISTORY_SIZE``).
MAX_ENTRIES: Final = 10_000
#: Bytes of rendered entries that are kept for the next look: some clients look ten times a second.
MAX_KEPT_BYTES: Final = 64 * 1024 * 1024
#: Rows that one request reads at once.
READS_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An ended prompt, rendered: ``"name": {...}`` as JSON, and its line among the jobs."""

    name: str
    json: bytes
    summary: Mapping[str, Any]


class History:
    """The owner's ended prompts. What has ended never changes, so it is rendered once."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service
        self._kept: OrderedDict[str, Entry] = OrderedDict()
        self._num_bytes = 0

    async def show(self, request: Request) -> Response:
        """Every entry; ``max_items`` are the newest, or those from ``offset`` on."""
        limit, offset = parse_whole(request, "max_items"), parse_whole(request, "offset")
        newest = limit if limit is not None and (offset is None or offset < 0) else None
        entries = await self.entries(owner_of(request), newest=newest)
        if offset is not None and offset > 0:
            entries = entries[offset:]
        if limit is not None:
            entries = entries[: max(0, limit)]
        return _answer(entries)

    async def show_one(self, request: Request) -> Response:
        """The entry of one prompt; nothing while it has not ended, or is not known."""
        try:
            job = await self._service.named(
                request.path_params["prompt_id"], owner=owner_of(request), api=API
            )
        except JobNotFound:
            return _answer(())
        return _answer([self._entry(job)] if job.status.is_final else [])

    async def change(self, request: Request) -> Response:
        """``clear`` all of it, or ``delete`` some entries."""
        body, owner = await read_object(request), owner_of(request)
        if body.get("clear"):
            await self._service.hide(owner=owner, api=API, job_ids=None)
        ended = []
        for name in parse_ids(body, "delete"):
            try:
                job = await self._service.named(name, owner=owner, api=API)
            except JobNotFound:
                continue
            if job.status.is_final:
                ended.append(job.id)
        if ended:
            await self._service.hide(owner=owner, api=API, job_ids=ended)
        return Response()

    async def entries(self, owner: str, *, newest: int | None = None) -> Sequence[Entry]:
        """The owner's entries, of each id the last."""
        limit = MAX_ENTRIES if newest is None else max(0, min(MAX_ENTRIES, newest))
        job_ids = await self._service.history(owner=owner, api=API, limit=limit) if limit else ()
        places = asyncio.Semaphore(READS_AT_ONCE)
        missing = [job_id for job_id in job_ids if job_id not in self._kept]
        read = await asyncio.gather(*(self._read(job_id, owner, places) for job_id in missing))
        found = {job_id: self._kept[job_id] for job_id in job_ids if job_id in self._kept}
        found |= {job_id: entry for job_id, entry in zip(missing, read, strict=True) if entry}
        for job_id in found:
            if job_id in self._kept:
                self._kept.move_to_end(job_id)
        entries = (found[job_id] for job_id in job_ids if job_id in found)
        return list({entry.name: entry for entry in entries}.values())

    async def _read(self, job_id: str, owner: str, places: asyncio.Semaphore) -> Entry | None:
        async with places:
            try:
                return self._entry(await self._service.get(job_id, owner=owner))
            except JobNotFound:  # retention removed it meanwhile
                return None

    def _entry(self, job: Job) -> Entry:
        if kept := self._kept.get(job.id):
            return kept
        name = job.name or ""
        rendered = render_entry(job)
        line = f"{json.dumps(name)}: {json.dumps(rendered)}".encode()
        entry = Entry(name=name, json=line, summary=summarize_ended(job, rendered))
        self._kept[job.id] = entry
        self._num_bytes += len(line)
        while self._num_bytes > MAX_KEPT_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._num_bytes -= len(oldest.json)
        return entry


def _answer(entries: Sequence[Entry]) -> Response:
    body = b"{" + b", ".join(entry.json for entry in entries) + b"}"
    return Response(body, media_type="application/json")
