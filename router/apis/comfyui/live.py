"""Live: the WebSocket's side of the API. Finds what concerns its clients on whichever gateway."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.responses import Response
from starlette.websockets import WebSocket

from deployments.errors import StorageFailure
from router.apis.comfyui.audience import OVERLAP_SECONDS, Audience
from router.apis.comfyui.entry import API
from router.apis.comfyui.sockets import Socket, Sockets, refuse
from router.job import Job, JobStand
from router.service import GenerationService

logger = logging.getLogger(__name__)

#: Seconds between looks at the store, while anybody is connected.
LOOK_SECONDS: Final = 0.15
#: The most sockets of one gateway: half of the ``max_ongoing_requests`` of its deployment.
MAX_SOCKETS: Final = 500


class Live:
    """The open WebSockets of this gateway.

    Args:
        features: the flags that clients are told; see ``/features``.
        max_sockets: open ones beyond which new ones are refused.
    """

    def __init__(
        self,
        service: GenerationService,
        *,
        features: Mapping[str, Any],
        max_sockets: int = MAX_SOCKETS,
    ) -> None:
        self._service = service
        self._max_sockets = max_sockets
        self._features = features
        self._sockets = Sockets()
        self._audiences: dict[str, Audience] = {}
        #: Owner -> how many connections of his are open, those not yet accepted included.
        self._num_open: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._looker: asyncio.Task[None] | None = None

    @property
    def owners(self) -> tuple[str, ...]:
        """Who has a socket."""
        return self._sockets.owners

    async def serve(self, websocket: WebSocket, *, owner: str) -> None:
        """One connection, from its handshake to its end."""
        if self._num_open.total() >= self._max_sockets:
            await refuse(websocket, _unavailable())
            return
        client_id = websocket.query_params.get("clientId") or uuid.uuid4().hex
        socket = Socket(websocket, owner=owner, client_id=client_id)
        self._num_open[owner] += 1
        try:
            # NOTE: first, so that what the client asks for once it is accepted cannot have ended
            # before it is listened for.
            await self._audience(owner).welcome(socket)
            self._begin_to_look()
            await websocket.accept()
            await socket.run(self._features)
        except StorageFailure as error:
            logger.warning("a socket of %s was refused: %s", owner, error)
            await refuse(websocket, _unavailable())
        finally:
            self._sockets.remove(socket)
            self._leave(owner)

    def tell(self, *jobs: Job) -> None:
        """Jobs were added or moved by a request to this gateway: their owner hears it at once."""
        for owner in {job.owner for job in jobs}:
            if self._sockets.has(owner, None):
                theirs = [job for job in jobs if job.owner == owner]
                self._spawn(owner, theirs)

    async def stop(self) -> None:
        """Leave off everything."""
        tasks = [*self._tasks, *filter(None, [self._looker])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for audience in self._audiences.values():
            await audience.stop()

    def _audience(self, owner: str) -> Audience:
        if owner not in self._audiences:
            self._audiences[owner] = Audience(owner, service=self._service, sockets=self._sockets)
        return self._audiences[owner]

    def _leave(self, owner: str) -> None:
        self._num_open[owner] -= 1
        if not self._num_open[owner]:
            del self._num_open[owner]
        self._drop_idle()

    def _drop_idle(self) -> None:
        self._audiences = {
            owner: audience
            for owner, audience in self._audiences.items()
            if owner in self._num_open or audience.is_busy
        }

    def _spawn(self, owner: str, jobs: Sequence[Job | JobStand]) -> None:
        # NOTE: in a context of its own; see ``Audience``.
        task = asyncio.create_task(self._hear(owner, jobs), context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hear(self, owner: str, jobs: Sequence[Job | JobStand]) -> None:
        try:
            if audience := self._audiences.get(owner):
                await audience.hear(jobs)
        except Exception as error:
            logger.warning("news of %s's prompts could not be told: %s", owner, error)
        finally:
            self._drop_idle()

    def _begin_to_look(self) -> None:
        if self._looker is None or self._looker.done():
            self._looker = asyncio.create_task(self._look(), context=contextvars.Context())

    async def _look(self) -> None:
        """Ask the store, once for all owners, as long as anybody is connected."""
        looked_at = time.time()
        while owners := self.owners:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.time()
            try:
                stands = await self._service.changed_since(
                    looked_at - OVERLAP_SECONDS, api=API, owners=owners
                )
            except Exception as error:
                logger.warning("changes of prompts could not be read, trying again: %s", error)
                continue
            looked_at = now
            theirs: defaultdict[str, list[JobStand]] = defaultdict(list)
            for stand in stands:
                theirs[stand.owner].append(stand)
            for owner, changed in theirs.items():
                await self._hear(owner, changed)
            self._drop_idle()


def _unavailable() -> Response:
    return Response(status_code=503, headers={"Retry-After": "5"})
