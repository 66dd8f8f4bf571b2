"""Sockets: the WebSockets. Each has a mailbox of its own, so that none delays another."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from router.apis.comfyui import frames
from router.apis.comfyui.frames import Frame, Picture

logger = logging.getLogger(__name__)

#: Frames that may wait for a slow socket before looks at pictures under way are left out.
MAX_BEFORE_DROPPING: Final = 16
#: Bytes that may wait before the socket is given up, and frames, while it takes none for so long.
MAX_WAITING_BYTES: Final = 128 * 1024 * 1024
MAX_WAITING: Final = 1000
MAX_STUCK_SECONDS: Final = 5.0
#: Close code of a socket that reads too slowly (RFC 6455's registry: "try again later").
TOO_SLOW: Final = 1013
#: Seconds that its closing may take.
CLOSE_SECONDS: Final = 1.0


class Socket:
    """One WebSocket, from before it is accepted.

    Attributes:
        owner: who connected.
        client_id: the name under which he did; the ``sid`` of its first frame.
        features: what the client said that it understands.
        missed: the jobs that ended shortly before it connected; it hears nothing of them.
    """

    def __init__(
        self,
        websocket: WebSocket,
        *,
        owner: str,
        client_id: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.owner = owner
        self.client_id = client_id
        self.features: Mapping[str, Any] = {}
        self.missed: frozenset[str] = frozenset()
        self._websocket = websocket
        self._waiting: deque[str | bytes] = deque()
        self._num_bytes = 0
        self._clock = clock
        self._delivered_at = clock()
        self._arrived = asyncio.Event()
        self._ended = asyncio.Event()

    def send(self, frame: Frame) -> None:
        """Put a frame in the mailbox; never waits."""
        if self._ended.is_set():
            return
        if isinstance(frame, Picture):
            if frame.can_be_dropped and len(self._waiting) >= MAX_BEFORE_DROPPING:
                return
            takes_metadata = self.features.get("supports_preview_metadata") is True
            message: str | bytes = frame.with_metadata() if takes_metadata else frame.plain()
        else:
            message = frame.text
        if not self._waiting:
            self._delivered_at = self._clock()
        self._waiting.append(message)
        self._num_bytes += len(message)
        if self._is_hopeless():
            self._ended.set()
        self._arrived.set()

    def _is_hopeless(self) -> bool:
        is_stuck = self._clock() - self._delivered_at > MAX_STUCK_SECONDS
        is_behind = len(self._waiting) > MAX_WAITING and is_stuck
        return is_behind or self._num_bytes > MAX_WAITING_BYTES

    async def run(self, features: Mapping[str, Any]) -> None:
        """Deliver and listen until either side closes; ``features`` are the server's own."""
        tasks = [
            asyncio.create_task(work)
            for work in (self._deliver(), self._listen(features), self._ended.wait())
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_too_slow = self._ended.is_set()
            self._ended.set()
            self._waiting.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if is_too_slow:
                await self._give_up()

    async def _give_up(self) -> None:
        logger.warning("a socket of %s was closed: it reads too slowly", self.owner)
        with suppress(RuntimeError, OSError, WebSocketDisconnect, TimeoutError):
            await asyncio.wait_for(self._websocket.close(TOO_SLOW), CLOSE_SECONDS)

    async def _deliver(self) -> None:
        with suppress(RuntimeError, OSError, WebSocketDisconnect):  # it went away meanwhile
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while self._waiting:
                    message = self._waiting.popleft()
                    self._num_bytes -= len(message)
                    if isinstance(message, str):
                        await self._websocket.send_text(message)
                    else:
                        await self._websocket.send_bytes(message)
                    self._delivered_at = self._clock()

    async def _listen(self, features: Mapping[str, Any]) -> None:
        """Notice that the client left. Only its first text message means anything."""
        is_first = True
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            said = message.get("text")
            if is_first and said is not None:
                is_first = False
                self._negotiate(said, features)

    def _negotiate(self, said: str, features: Mapping[str, Any]) -> None:
        understood = frames.parse_features(said)
        if understood is not None:
            self.features = understood
            self.send(frames.text("feature_flags", features))


async def refuse(websocket: WebSocket, response: Response) -> None:
    """Refuse a handshake, with the response where the server can send one, else with a 403."""
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(response)
    else:
        await websocket.close()


class Sockets:
    """The sockets by owner and client id; a newer one takes the place of an older while it is
    there."""

    def __init__(self) -> None:
        #: Owner -> client id -> sockets, of which the last one hears.
        self._sockets: dict[str, dict[str, list[Socket]]] = {}

    @property
    def owners(self) -> tuple[str, ...]:
        """Who has a socket."""
        return tuple(self._sockets)

    def add(self, socket: Socket) -> None:
        """From now on the socket gets what its client id gets."""
        mine = self._sockets.setdefault(socket.owner, {})
        mine.setdefault(socket.client_id, []).append(socket)

    def remove(self, socket: Socket) -> None:
        """Forget a socket, if it is there."""
        mine = self._sockets.get(socket.owner, {})
        same = mine.get(socket.client_id, [])
        if socket in same:
            same.remove(socket)
        if not same:
            mine.pop(socket.client_id, None)
        if not mine:
            self._sockets.pop(socket.owner, None)

    def has(self, owner: str, client_id: str | None) -> bool:
        """Whether a client is connected; None asks for any of the owner's."""
        return bool(self._of(owner, client_id))

    def want(self, job_id: str, owner: str, client_id: str | None) -> bool:
        """Whether a client is connected that has not missed a job; None asks for any of the
        owner's."""
        return any(job_id not in socket.missed for socket in self._of(owner, client_id))

    def send(self, frame: Frame, *, owner: str, client_id: str | None) -> None:
        """To one client; None is all of the owner's."""
        for socket in self._of(owner, client_id):
            socket.send(frame)

    def _of(self, owner: str, client_id: str | None) -> Sequence[Socket]:
        mine = self._sockets.get(owner, {})
        if client_id is None:
            return tuple(same[-1] for same in mine.values())
        return tuple(mine.get(client_id, ())[-1:])
