"""One socket's mailbox: what happens when its client reads slowly, or not at all."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.websockets import WebSocket

from router.apis.comfyui import sockets
from router.apis.comfyui.frames import Picture, text
from router.apis.comfyui.sockets import Socket


class Wire:
    """The far end of a socket, which takes nothing until it is let to."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.is_reading = asyncio.Event()
        self.hangs_up = asyncio.Event()
        self._is_new = True

    async def receive(self) -> Any:
        if self._is_new:
            self._is_new = False
            return {"type": "websocket.connect"}
        await self.hangs_up.wait()
        return {"type": "websocket.disconnect", "code": 1000}

    async def send(self, message: Any) -> None:
        if message["type"] == "websocket.send":
            await self.is_reading.wait()
        self.sent.append(message)

    async def socket(self, clock: Any) -> Socket:
        websocket = WebSocket({"type": "websocket", "headers": []}, self.receive, self.send)
        await websocket.accept()
        self.sent.clear()
        return Socket(websocket, owner="ann", client_id="me", clock=clock)


def picture(*, can_be_dropped: bool) -> Picture:
    return Picture(data=b"x", format="jpeg", node="1", prompt_id="p", can_be_dropped=can_be_dropped)


async def test_pictures_under_way_are_left_out_first() -> None:
    wire = Wire()
    socket = await wire.socket(lambda: 0.0)
    for _ in range(sockets.MAX_BEFORE_DROPPING):
        socket.send(text("progress", {}))
    socket.send(picture(can_be_dropped=True))
    socket.send(picture(can_be_dropped=False))
    wire.is_reading.set()
    running = asyncio.create_task(socket.run({}))
    await asyncio.sleep(0.05)
    wire.hangs_up.set()
    await running
    assert [("bytes" in message) for message in wire.sent] == [False] * 16 + [True]


async def test_a_socket_that_takes_nothing_is_closed() -> None:
    now = 0.0
    wire = Wire()
    socket = await wire.socket(lambda: now)
    running = asyncio.create_task(socket.run({}))
    await asyncio.sleep(0.01)
    for _ in range(sockets.MAX_WAITING + 2):
        socket.send(text("progress", {}))
    await asyncio.sleep(0.01)
    assert not running.done()
    now = sockets.MAX_STUCK_SECONDS + 1
    socket.send(text("progress", {}))
    await running
    assert wire.sent == [{"type": "websocket.close", "code": sockets.TOO_SLOW, "reason": ""}]


async def test_a_socket_that_owes_too_many_bytes_is_closed() -> None:
    wire = Wire()
    socket = await wire.socket(lambda: 0.0)
    running = asyncio.create_task(socket.run({}))
    frame = text("executed", "x" * 1_000_000)
    for _ in range(sockets.MAX_WAITING_BYTES // 1_000_000 + 2):
        socket.send(frame)
    await running
    assert wire.sent[-1]["code"] == sockets.TOO_SLOW


async def test_a_socket_that_hangs_up_is_left_alone() -> None:
    wire = Wire()
    socket = await wire.socket(lambda: 0.0)
    running = asyncio.create_task(socket.run({}))
    wire.hangs_up.set()
    await running
    socket.send(text("progress", {}))
    assert wire.sent == []
