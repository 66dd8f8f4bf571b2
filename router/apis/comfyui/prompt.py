"""The prompt: a graph is validated, gets its number and its inputs, and is queued."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import isfinite
from typing import Any, Final

from fastapi import Request
from starlette.responses import JSONResponse, Response

from deployments.errors import Conflict, InvalidRequest, JobNotFound, NotFound, UnknownModel
from router.apis.comfyui.body import read_object
from router.apis.comfyui.entry import API
from router.apis.comfyui.errors import PromptRefused, refusal
from router.apis.comfyui.file_names import resolve_input
from router.apis.comfyui.frames import milliseconds
from router.apis.comfyui.graph import Graph, named_files
from router.apis.comfyui.live import Live
from router.apis.comfyui.node import Offer
from router.apis.comfyui.nodes.loaders import LORA_EXTENSION
from router.apis.comfyui.saving import SECRETS
from router.apis.comfyui.validation import Refusal, ValidGraph, validate
from router.apis.route import owner_of
from router.files import StoredFile
from router.job import Job, JobStatus
from router.service import GenerationService

#: The longest id that a client may choose for its prompt, in characters.
MAX_ID: Final = 256
#: The most models that one graph's job may ask at once.
MAX_WIDTH: Final = 4
#: The most bytes of the files that one graph names: they are read at once when it begins.
MAX_INPUT_BYTES: Final = 512 * 1024 * 1024
#: The most characters of ``extra_data`` as JSON: it is in the history, and in every saved picture.
MAX_EXTRA_CHARACTERS: Final = 4 * 1024 * 1024


class Prompts:
    """The two verbs of ``/prompt``.

    Args:
        max_input_bytes: what the files that one graph names may have together.
    """

    def __init__(
        self, service: GenerationService, live: Live, *, max_input_bytes: int = MAX_INPUT_BYTES
    ) -> None:
        self._service = service
        self._live = live
        self._max_input_bytes = max_input_bytes

    async def remaining(self, request: Request) -> Any:
        """How many of the owner's prompts have not ended."""
        remaining = await self._service.unfinished_ids(owner=owner_of(request), api=API)
        return {"exec_info": {"queue_remaining": len(remaining)}}

    async def submit(self, request: Request) -> Response:
        """Queue a graph. It is durable when this answers."""
        body = await read_object(request)
        owner = owner_of(request)
        inputs = await self.inputs(owner, named_files(body.get("prompt")))
        own = await self._service.belongings(owner=owner)
        offer = Offer(cards=self._service.cards(), files=tuple(inputs), own=own)
        valid = await asyncio.to_thread(validate, body, offer)
        self._put_off_while_models_start(valid.node_errors)
        if isinstance(valid, Refusal):
            raise PromptRefused(valid.body)
        name = _parse_id(body)
        earlier = await self._earlier(name, owner) if "prompt_id" in body else None
        job = await self._enqueue(body, valid, offer, owner=owner, name=name, inputs=inputs)
        if earlier is not None:  # its entry would be taken for this prompt's
            await self._service.hide(owner=owner, api=API, job_ids=[earlier.id])
        self._live.tell(job)
        return JSONResponse(
            {
                "prompt_id": name,
                "number": job.details["number"],
                "node_errors": valid.node_errors,
            }
        )

    def _put_off_while_models_start(self, node_errors: Mapping[str, Any]) -> None:
        """Raise ``ModelNotReady`` when what is in no list may be a model that has yet to start."""
        complaints = (complaint for node in node_errors.values() for complaint in node["errors"])
        for complaint in complaints:
            if complaint["type"] == "value_not_in_list":
                with suppress(UnknownModel):
                    self._service.resolve(str(complaint["extra_info"]["received_value"])[:100])

    async def inputs(self, owner: str, names: Sequence[str]) -> dict[str, StoredFile]:
        """The files that nodes name; those that are not there are left out.

        Raises ``PromptRefused`` when they are too large together.
        """
        found = {}
        for name in names:
            try:
                found[name] = await resolve_input(self._service.files, owner, name)
            except (NotFound, InvalidRequest):
                continue
        sizes = {file.key: file.num_bytes for file in found.values()}
        if (num_bytes := sum(sizes.values())) > self._max_input_bytes:
            message = f"its files have {num_bytes} bytes; accepted: {self._max_input_bytes}"
            raise refusal("invalid_prompt", f"Cannot execute the prompt: {message}", message)
        return found

    async def _enqueue(
        self,
        body: Mapping[str, Any],
        valid: ValidGraph,
        offer: Offer,
        *,
        owner: str,
        name: str,
        inputs: Mapping[str, StoredFile],
    ) -> Job:
        extra_data = await asyncio.to_thread(_parse_extra_data, body)
        number, priority = await self._place(body, owner)
        files = [file for file in valid.graph.files() if file in inputs]
        args = await asyncio.to_thread(_script_args, valid.graph, files, offer)
        try:
            return await self._service.enqueue(
                "graph",
                args,
                model=await asyncio.to_thread(valid.graph.first_model, offer),
                api=API,
                owner=owner,
                name=name,
                input_keys=[await self._service.files.pin(inputs[file]) for file in files],
                priority=priority,
                details={
                    "number": number,
                    "client_id": extra_data.get("client_id"),
                    "extra_data": extra_data,
                    "create_time": extra_data["create_time"],
                },
            )
        except Conflict:
            message = "prompt_id is that of a prompt which still runs"
            raise refusal("invalid_prompt_id", message, name) from None

    async def _earlier(self, name: str, owner: str) -> Job | None:
        """The ended prompt of this id, which a client may use again."""
        try:
            job = await self._service.named(name, owner=owner, api=API)
        except JobNotFound:
            return None
        return job if job.status.is_final else None

    async def _place(self, body: Mapping[str, Any], owner: str) -> tuple[float, int]:
        """The prompt's number, and the rung of the queue that it stands for."""
        if body.get("number") is not None:
            number = _parse_number(body["number"])
            return number, await self._rung(number, owner)
        count = await self._service.next_number(owner=owner, counter=API)
        return (-count, 1) if body.get("front") else (count, 0)

    async def _rung(self, number: float, owner: str) -> int:
        """Lower numbers go first: before all that wait, behind all of them, or among them."""
        jobs = await self._service.unfinished(owner=owner, api=API)
        waiting: list[float] = [
            job.details["number"] for job in jobs if job.status is JobStatus.QUEUED
        ]
        if not waiting:
            return 0
        if number < min(waiting):
            return 1
        return -1 if number > max(waiting) else 0


def _script_args(graph: Graph, files: Sequence[str], offer: Offer) -> dict[str, Any]:
    """See ``executor.execute_graph``."""
    return {
        "graph": graph.nodes,
        "outputs": list(graph.outputs),
        "inputs": {file: index for index, file in enumerate(files)},
        "models": list(graph.models(offer)),
        "weights": [name.removesuffix(LORA_EXTENSION) for name in graph.loaded()],
        "width": _width(graph),
    }


def _parse_id(body: Mapping[str, Any]) -> str:
    name = body.get("prompt_id")
    if name is None:
        return str(uuid.uuid4())
    if not isinstance(name, str) or not 0 < len(name) <= MAX_ID:
        details = f"prompt_id must be a string of 1 to {MAX_ID} characters; omit it to be given one"
        raise refusal("invalid_prompt_id", "prompt_id must be a non-empty string", details)
    return name


def _parse_number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not isfinite(number):
        raise refusal("invalid_prompt", "number must be a number", f"number: {value!r:.100}")
    return number


def _parse_extra_data(body: Mapping[str, Any]) -> dict[str, Any]:
    """``extra_data`` as it is kept and told: with the client's id and the time, without secrets."""
    given = body.get("extra_data") or {}
    if not isinstance(given, dict):
        raise refusal("invalid_prompt", "extra_data must be an object")
    extra_data = {key: value for key, value in given.items() if key not in SECRETS}
    client_id = body.get("client_id", extra_data.get("client_id"))
    extra_data.pop("client_id", None)
    if client_id is not None:
        extra_data["client_id"] = str(client_id)
    if (length := len(json.dumps(extra_data))) > MAX_EXTRA_CHARACTERS:
        message = f"extra_data has {length} characters; accepted: at most {MAX_EXTRA_CHARACTERS}"
        raise refusal("invalid_prompt", message)
    extra_data["create_time"] = milliseconds()
    return extra_data


def _width(graph: Graph) -> int:
    """How many samplers can run at once: the most that follow on equally many others."""
    depths: dict[str, int] = {}
    samplers = set(graph.samplers())
    for node_id in graph.order:
        below = [depths.get(link.node, 0) for link in graph.links(node_id).values()]
        depths[node_id] = max(below, default=0) + (node_id in samplers)
    of_samplers = [depths[node_id] for node_id in samplers]
    return max(1, min(MAX_WIDTH, max(map(of_samplers.count, of_samplers), default=1)))
