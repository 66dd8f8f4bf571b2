"""A gateway's WebSockets over a job store, and a worker elsewhere that the test plays itself."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect

from router.apis.comfyui.live import Live
from router.fake_models import FakeModels
from router.job import Job, JobError, JobProgress, JobStatus
from router.service import GenerationService
from router.store.images import MemoryImageStore
from router.store.jobs import Claim, JobStore, Outcome
from router.store.memory_jobs import MemoryJobStore
from tests.router.making import running

#: No gateway runs this model's jobs, so the test does.
ELSEWHERE = "elsewhere"
FEATURES = {"supports_preview_metadata": True}


@dataclass(kw_only=True)
class Client:
    """One open WebSocket."""

    connection: ClientConnection
    client_id: str = ""

    async def next(self, seconds: float = 5.0) -> Any:
        """The next frame: ``(type, data)``, or the bytes of a picture."""
        message = await asyncio.wait_for(self.connection.recv(), seconds)
        if isinstance(message, bytes):
            return message
        assert message.startswith('{"type": '), message
        frame = json.loads(message)
        assert list(frame) == ["type", "data"]
        return frame["type"], frame["data"]

    async def until(self, kind: str, **values: Any) -> list[Any]:
        """Every frame up to the first of a type whose data have these values, that included."""
        frames = []
        while True:
            frames.append(await self.next())
            if not isinstance(frames[-1], bytes):
                told, data = frames[-1]
                if told == kind and values.items() <= data.items():
                    return frames

    async def to_the_end(self, name: str) -> list[Any]:
        """Every frame up to the last of a prompt."""
        return await self.until("executing", node=None, prompt_id=name)

    async def hears_nothing(self, seconds: float = 0.5) -> None:
        """Fails when a frame arrives."""
        try:
            frame = await self.next(seconds)
        except TimeoutError:
            return
        raise AssertionError(f"heard {frame}")


@dataclass(kw_only=True)
class Stage:
    """One gateway's WebSockets, at an address."""

    url: str
    service: GenerationService
    live: Live
    jobs: JobStore

    @asynccontextmanager
    async def client(
        self, client_id: str = "", *, owner: str = "default", flags: Any = None, **options: Any
    ) -> AsyncIterator[Client]:
        """A client that has connected and heard so."""
        url = f"{self.url}/ws?clientId={client_id}&owner={owner}"
        async with connect(url, max_size=None, **options) as connection:
            client = Client(connection=connection)
            if flags is not None:
                await connection.send(json.dumps({"type": "feature_flags", "data": flags}))
            yield client

    async def submit(
        self,
        name: str,
        *,
        client_id: str | None = None,
        owner: str = "default",
        extra_data: Mapping[str, Any] | None = None,
        is_told: bool = True,
    ) -> Job:
        """Queue a prompt, as ``POST /prompt`` on this gateway does."""
        graph = {"9": {"class_type": "SaveImage", "inputs": {}}}
        job = await self.service.enqueue(
            "graph",
            {"graph": graph, "outputs": ["9"], "inputs": {}, "models": [], "width": 1},
            model=ELSEWHERE,
            api="comfyui",
            owner=owner,
            name=name,
            details={
                "number": 0,
                "client_id": client_id,
                "extra_data": dict(extra_data or {}),
                "create_time": 1,
            },
        )
        if is_told:
            self.live.tell(job)
        return job

    async def begin(self) -> Worker:
        """Claim the next prompt."""
        claim = await self.jobs.claim(model=ELSEWHERE, worker="test", lease_seconds=60)
        assert claim is not None
        return Worker(jobs=self.jobs, claim=claim)


@dataclass(kw_only=True)
class Worker:
    """Runs one prompt, step by step as the test says."""

    jobs: JobStore
    claim: Claim
    progress: JobProgress = field(default_factory=JobProgress)

    @property
    def name(self) -> str:
        return self.claim.job.name or ""

    async def note(self, *notes: Mapping[str, Any] | None, **fields: Any) -> None:
        """Tell watchers more."""
        notes = (*self.progress.notes, *notes)
        self.progress = replace(self.progress, notes=notes, **fields)
        await self.jobs.record_progress(self.claim.job.id, self.claim.token, self.progress)

    async def tell(self, kind: str, **data: Any) -> None:
        """Tell watchers of a frame."""
        await self.note(self.frame(kind, **data))

    def frame(self, kind: str, **data: Any) -> dict[str, Any]:
        return {"type": kind, "data": {**data, "prompt_id": self.name}}

    async def start(self) -> None:
        await self.note(
            self.frame("execution_start", timestamp=1),
            self.frame("execution_cached", nodes=[], timestamp=1),
        )

    async def end(
        self,
        ending: str = "execution_success",
        *,
        status: JobStatus = JobStatus.COMPLETED,
        error: JobError | None = None,
        **data: Any,
    ) -> Job:
        """End the prompt with the messages that were told."""
        told: Sequence[Any] = [note for note in self.progress.notes if note and "type" in note]
        messages = [[note["type"], note["data"]] for note in told[:2]]
        messages.append([ending, {"prompt_id": self.name, "timestamp": 2, **data}])
        result = {"outputs": {}, "meta": {}, "messages": messages}
        outcome = Outcome(status=status, result=result, error=error)
        return await self.jobs.finish(self.claim.job.id, self.claim.token, outcome)


@asynccontextmanager
async def staged(
    *,
    jobs: JobStore | None = None,
    images: MemoryImageStore | None = None,
    max_sockets: int = 100,
) -> AsyncIterator[Stage]:
    """A gateway's WebSockets, as long as the context is open."""
    jobs = jobs or MemoryJobStore()
    async with AsyncExitStack() as stack:
        inside = await stack.enter_async_context(running(FakeModels(), jobs=jobs, images=images))
        live = Live(inside.service, features=FEATURES, max_sockets=max_sockets)
        stack.push_async_callback(live.stop)
        url = await stack.enter_async_context(_listening(_app(live)))
        yield Stage(url=url, service=inside.service, live=live, jobs=jobs)


def names(frames: Sequence[Any]) -> list[str]:
    """The frames' types; ``binary`` for pictures."""
    return ["binary" if isinstance(frame, bytes) else frame[0] for frame in frames]


def remaining(frame: Any) -> int:
    """What a ``status`` frame tells."""
    kind, data = frame
    assert kind == "status"
    number: int = data["status"]["exec_info"]["queue_remaining"]
    return number


def _app(live: Live) -> FastAPI:
    app = FastAPI()

    @app.websocket("/ws")
    async def serve(websocket: WebSocket) -> None:
        await live.serve(websocket, owner=websocket.query_params["owner"])

    return app


@asynccontextmanager
async def _listening(app: FastAPI) -> AsyncIterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        deadline = time.monotonic() + 10
        while not server.started:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await serving
