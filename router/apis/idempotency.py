"""The ``Idempotency-Key`` header, the same on every POST that makes a job."""

from __future__ import annotations

import hashlib
from typing import Final

from starlette.requests import Request

from deployments.errors import InvalidRequest
from router.job import Idempotency

HEADER: Final = "Idempotency-Key"
#: The longest key, in characters.
MAX_LENGTH: Final = 255


async def idempotency_of(request: Request, said: bytes | None = None) -> Idempotency | None:
    """The caller's key and a digest of the path and the body; None without the header.

    ``said`` stands for the body where equal requests differ in bytes, as forms do by their
    boundary. Without it the body must have been read already (Starlette keeps it).
    """
    key = request.headers.get(HEADER)
    if not key:
        return None
    if len(key) > MAX_LENGTH:
        raise InvalidRequest(
            f"{HEADER} has {len(key)} characters; accepted: at most {MAX_LENGTH}", param=HEADER
        )
    body = await request.body() if said is None else said
    digest = hashlib.sha256(request.url.path.encode() + b"\0" + body)
    return Idempotency(key=key, digest=digest.hexdigest())
