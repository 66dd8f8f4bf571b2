"""An ASGI application on a real loopback socket, within the test's own event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn


@asynccontextmanager
async def serve(app: Any) -> AsyncIterator[str]:
    """Serves the application as long as the context is open; gives its base URL."""
    config = uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1)
    config.load()
    # The server's parts without its main loop, which handles signals and ends in tenths of seconds.
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.shutdown()
