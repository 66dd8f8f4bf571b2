"""Request bodies, read within limits: bytes, nesting, and JSON numbers that are no numbers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any, Final

from starlette.requests import Request

from deployments.errors import InvalidRequest, RequestTooLarge

#: The largest body, in bytes.
MAX_BODY_BYTES: Final = 64 * 1024 * 1024
#: The most values, roughly: Python parses no more than some millions a second, on the event loop.
MAX_JSON_COMMAS: Final = 200_000
#: The deepest JSON.
MAX_JSON_DEPTH: Final = 64


class LimitedRequest(Request):
    """A request whose body is bounded, and whose JSON is strict."""

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The body's chunks. Raises ``RequestTooLarge`` as soon as the limit is passed."""
        declared = self.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
            raise _too_large()
        num_bytes = 0
        async for chunk in super().stream():
            num_bytes += len(chunk)
            if num_bytes > MAX_BODY_BYTES:
                raise _too_large()
            yield chunk

    async def json(self) -> Any:
        """The body as JSON, whatever its content type. Raises ``InvalidRequest``."""
        return parse_json(await self.body())


def parse_json(body: bytes | str) -> Any:
    """JSON without NaN and infinity, at most ``MAX_JSON_DEPTH`` deep."""
    if body.count(b"," if isinstance(body, bytes) else ",") > MAX_JSON_COMMAS:  # type: ignore[arg-type]
        raise InvalidRequest(f"JSON holds too many values; accepted: at most {MAX_JSON_COMMAS}")
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep() from None
    except (ValueError, UnicodeDecodeError):
        raise InvalidRequest("the body is not valid JSON") from None
    _check_values(value)
    return value


def _refuse_constant(name: str) -> Any:
    raise InvalidRequest(f"JSON holds {name}; accepted: finite numbers")


def layers(value: Any) -> Iterator[list[Any]]:
    """The values of JSON by their depth, the keys of objects among them."""
    layer = [value]
    while layer:
        yield layer
        following: list[Any] = []
        for item in layer:
            if isinstance(item, dict):
                following.extend((*item, *item.values()))
            elif isinstance(item, list):
                following.extend(item)
        layer = following


def _check_values(value: Any) -> None:
    for depth, layer in enumerate(layers(value), 1):
        if depth > MAX_JSON_DEPTH:
            raise _too_deep()
        for item in layer:
            if isinstance(item, float) and item in (float("inf"), float("-inf")):
                _refuse_constant("Infinity")  # such as 1e999
            elif isinstance(item, str) and not _is_text(item):
                raise InvalidRequest(
                    "JSON holds NUL or half a surrogate pair; accepted: Unicode text"
                )


def _is_text(value: str) -> bool:
    """Whether a string can be stored: PostgreSQL takes no NUL, UTF-8 no lone surrogate."""
    if "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"JSON is nested too deeply; accepted: at most {MAX_JSON_DEPTH} levels")


def _too_large() -> RequestTooLarge:
    return RequestTooLarge(f"the body is too large; accepted: at most {MAX_BODY_BYTES} bytes")
