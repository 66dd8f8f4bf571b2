"""Client of the simple API: ``POST /generate``, ``POST /generate/image``, ``DELETE /cache``."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

#: A picture of 150 steps on a CPU takes minutes.
DEFAULT_TIMEOUT = 600.0


class GenerateError(Exception):
    """The server refused or failed; ``status`` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A finished picture: PNG bytes, the model that drew it, and the seconds it took.

    ``seed`` and ``path`` (relative to the server's folder) are None from ``generate_image`` of
    servers that do not tell them.
    """

    data: bytes
    model: str
    seconds: float
    seed: int | None = None
    path: str | None = None

    def save(self, path: str | Path) -> None:
        """Write the PNG to a file."""
        Path(path).write_bytes(self.data)


def build_body(prompt: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON body; options that are None are left to the server."""
    return {"prompt": prompt, **{k: v for k, v in options.items() if v is not None}}


def parse_json_picture(response: httpx.Response) -> Picture:
    """The picture in the answer of ``/generate``. Raises ``GenerateError``."""
    raise_for_error(response)
    body = response.json()
    return Picture(
        data=base64.b64decode(body["image_base64"]),
        model=body["model_id"],
        seconds=body["generation_time"],
        seed=body.get("seed"),
        path=body.get("image_path"),
    )


def parse_binary_picture(response: httpx.Response) -> Picture:
    """The picture in the answer of ``/generate/image``. Raises ``GenerateError``."""
    raise_for_error(response)
    seed = response.headers.get("X-Seed")
    return Picture(
        data=response.content,
        model=response.headers["X-Model-Used"],
        seconds=float(response.headers["X-Generation-Time"]),
        seed=int(seed) if seed else None,
    )


def raise_for_error(response: httpx.Response) -> None:
    """Raise ``GenerateError`` with the server's own words unless the answer is a success."""
    if response.is_success:
        return
    try:
        message = response.json()["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text or response.reason_phrase
    raise GenerateError(response.status_code, message)


def _connection(base_url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    return {
        "base_url": base_url,
        "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
        "timeout": timeout,
    }


class GenerateClient:
    """The simple API, blocking.

    >>> with GenerateClient("http://localhost:8000") as client:
    ...     client.generate("a red circle", seed=42).save("circle.png")

    Options of ``generate`` and ``generate_image``: user_id, num_inference_steps (1 to 150),
    guidance_scale (1 to 20), width and height (256 to 1024), seed, negative_prompt, model.
    """

    def __init__(
        self,
        base_url: str = "http://localhost:8000",
        *,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        self._http = httpx.Client(**_connection(base_url, api_key, timeout))

    def generate(self, prompt: str, **options: Any) -> Picture:
        """A picture by ``POST /generate``. Raises ``GenerateError``."""
        return parse_json_picture(self._http.post("/generate", json=build_body(prompt, options)))

    def generate_image(self, prompt: str, **options: Any) -> Picture:
        """A picture by ``POST /generate/image``, as binary PNG. Raises ``GenerateError``."""
        body = build_body(prompt, options)
        return parse_binary_picture(self._http.post("/generate/image", json=body))

    def clear_cache(self) -> dict[str, Any]:
        """Drop idle weights on the server; what it says it evicted."""
        response = self._http.delete("/cache")
        raise_for_error(response)
        body: dict[str, Any] = response.json()
        return body

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncGenerateClient:
    """The simple API, asynchronous; see ``GenerateClient``."""

    def __init__(
        self,
        base_url: str = "http://localhost:8000",
        *,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        self._http = httpx.AsyncClient(**_connection(base_url, api_key, timeout))

    async def generate(self, prompt: str, **options: Any) -> Picture:
        """A picture by ``POST /generate``. Raises ``GenerateError``."""
        body = build_body(prompt, options)
        return parse_json_picture(await self._http.post("/generate", json=body))

    async def generate_image(self, prompt: str, **options: Any) -> Picture:
        """A picture by ``POST /generate/image``, as binary PNG. Raises ``GenerateError``."""
        body = build_body(prompt, options)
        return parse_binary_picture(await self._http.post("/generate/image", json=body))

    async def clear_cache(self) -> dict[str, Any]:
        """Drop idle weights on the server; what it says it evicted."""
        response = await self._http.delete("/cache")
        raise_for_error(response)
        body: dict[str, Any] = response.json()
        return body

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()
