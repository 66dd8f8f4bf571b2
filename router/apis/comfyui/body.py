"""Bodies of the API: JSON whatever its content type, of which unknown keys are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from deployments.errors import InvalidRequest


async def read_object(request: Request) -> Mapping[str, Any]:
    """The body as a JSON object. Raises ``InvalidRequest``."""
    body = await request.json()
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    return body


async def read_optional_object(request: Request) -> Mapping[str, Any]:
    """The same; an absent, empty or unreadable body is an empty object."""
    try:
        return await read_object(request)
    except InvalidRequest:
        return {}


def parse_ids(body: Mapping[str, Any], key: str) -> list[str]:
    """The strings of a list, each once; what is no string names nothing and is left out."""
    ids = body.get(key)
    if not isinstance(ids, list):
        return []
    return list(dict.fromkeys(name for name in ids if isinstance(name, str) and name))


def parse_whole(request: Request, key: str) -> int | None:
    """A whole number of the query; None when it is absent. Raises ``InvalidRequest``."""
    value = request.query_params.get(key)
    if value is None:
        return None
    try:
        return int(value)
    except ValueError:
        raise InvalidRequest(f"{key} must be an integer, got {value[:100]!r}", param=key) from None
