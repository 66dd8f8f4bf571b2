"""ImageJobsClient: /api/images, where every request becomes a job. Needs httpx alone."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote

import httpx

#: Statuses after which nothing follows.
FINAL: Final = frozenset({"COMPLETED", "FAILED", "CANCELLED"})


class ImageJobError(Exception):
    """The server refused. ``status`` is HTTP's; the message is the server's own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class WebhookInvalid(Exception):
    """A webhook that was not sent by the server that knows the secret, or not lately."""


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request, for either kind of client."""

    method: str
    path: str
    json: Mapping[str, Any] | None = None
    params: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of httpx's ``request``."""
        return {
            "method": self.method,
            "url": self.path,
            "json": self.json,
            "params": self.params,
            "headers": self.headers,
        }


def build_submit(prompt: str, idempotency_key: str | None, fields: Mapping[str, Any]) -> Call:
    """``POST /api/images/generate``."""
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
    body = {"prompt": prompt, **fields}
    return Call("POST", "/api/images/generate", json=body, headers=headers)


def build_status(job_id: str) -> Call:
    """``GET /api/images/status/{id}``."""
    return Call("GET", f"/api/images/status/{quote(job_id, safe='')}")


def build_result(job_id: str) -> Call:
    """``GET /api/images/result/{id}``."""
    return Call("GET", f"/api/images/result/{quote(job_id, safe='')}")


def build_cancel(job_id: str) -> Call:
    """``DELETE /api/images/{id}``."""
    return Call("DELETE", f"/api/images/{quote(job_id, safe='')}")


def build_list(limit: int, cursor: str | None, status: str | None) -> Call:
    """``GET /api/images``."""
    params = {"limit": limit, "cursor": cursor, "status": status}
    given = {name: value for name, value in params.items() if value is not None}
    return Call("GET", "/api/images", params=given)


def build_download(image: Mapping[str, Any]) -> Call:
    """The picture of one entry of a result's ``images``, by its path on the client's own server."""
    return Call("GET", httpx.URL(image["url"]).raw_path.decode("ascii"))


def parse(response: httpx.Response) -> Any:
    """The body of a success. Raises ``ImageJobError``."""
    check(response)
    return response.json()


def check(response: httpx.Response) -> httpx.Response:
    """The response of a success. Raises ``ImageJobError``."""
    if response.is_success:
        return response
    try:
        message = response.json()["message"]
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {response.status_code}"
    raise ImageJobError(response.status_code, message)


class ImageJobsClient:
    """Submits jobs, waits for them, and reads their pictures.

    Args:
        base_url: where the gateway is.
        api_key: the gateway's key, if it has one.
        timeout: seconds for one HTTP call.
    """

    def __init__(self, base_url: str, api_key: str | None = None, *, timeout: float = 60.0) -> None:
        self._http = httpx.Client(base_url=base_url, headers=_headers(api_key), timeout=timeout)

    def submit(
        self, prompt: str, *, idempotency_key: str | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Start a job: ``num_images``, ``size``, ``format``, ``style``, ``quality``,
        ``input_image_url``, ``model``, ``seed``, ``webhook_url``, ... Its id is ``job_id``."""
        return self._json(build_submit(prompt, idempotency_key, fields))

    def status(self, job_id: str) -> dict[str, Any]:
        """How far the job is: ``status``, ``progress`` (0 to 100), ``message``."""
        return self._json(build_status(job_id))

    def wait(self, job_id: str, *, timeout: float = 300.0, interval: float = 0.5) -> dict[str, Any]:
        """Poll until the job has ended; its result. Raises ``TimeoutError``."""
        deadline = time.monotonic() + timeout
        while self.status(job_id)["status"] not in FINAL:
            if time.monotonic() + interval > deadline:
                raise TimeoutError(f"job {job_id} has not ended in {timeout} s")
            time.sleep(interval)
        return self.result(job_id)

    def result(self, job_id: str) -> dict[str, Any]:
        """The ended job's ``images`` and ``metadata``, or ``errors``; else its status."""
        return self._json(build_result(job_id))

    def download(self, image: Mapping[str, Any]) -> bytes:
        """The encoded bytes of one of a result's ``images``."""
        return check(self._http.request(**build_download(image).arguments())).content

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel the job; its status."""
        return self._json(build_cancel(job_id))

    def list(
        self, *, limit: int = 20, cursor: str | None = None, status: str | None = None
    ) -> dict[str, Any]:
        """Your ``jobs``, newest first; ``next_cursor`` asks for the next page."""
        return self._json(build_list(limit, cursor, status))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> ImageJobsClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _json(self, call: Call) -> dict[str, Any]:
        body: dict[str, Any] = parse(self._http.request(**call.arguments()))
        return body


class AsyncImageJobsClient:
    """``ImageJobsClient`` for asyncio: the same methods, awaited."""

    def __init__(self, base_url: str, api_key: str | None = None, *, timeout: float = 60.0) -> None:
        self._http = httpx.AsyncClient(
            base_url=base_url, headers=_headers(api_key), timeout=timeout
        )

    async def submit(
        self, prompt: str, *, idempotency_key: str | None = None, **fields: Any
    ) -> dict[str, Any]:
        """See ``ImageJobsClient.submit``."""
        return await self._json(build_submit(prompt, idempotency_key, fields))

    async def status(self, job_id: str) -> dict[str, Any]:
        """See ``ImageJobsClient.status``."""
        return await self._json(build_status(job_id))

    async def wait(
        self,
        job_id: str,
        *,
        timeout: float = 300.0,  # noqa: ASYNC109 - the name that the sync twin has
        interval: float = 0.5,
    ) -> dict[str, Any]:
        """See ``ImageJobsClient.wait``."""
        async with asyncio.timeout(timeout):
            while (await self.status(job_id))["status"] not in FINAL:  # noqa: ASYNC110
                await asyncio.sleep(interval)
        return await self.result(job_id)

    async def result(self, job_id: str) -> dict[str, Any]:
        """See ``ImageJobsClient.result``."""
        return await self._json(build_result(job_id))

    async def download(self, image: Mapping[str, Any]) -> bytes:
        """See ``ImageJobsClient.download``."""
        return check(await self._http.request(**build_download(image).arguments())).content

    async def cancel(self, job_id: str) -> dict[str, Any]:
        """See ``ImageJobsClient.cancel``."""
        return await self._json(build_cancel(job_id))

    async def list(
        self, *, limit: int = 20, cursor: str | None = None, status: str | None = None
    ) -> dict[str, Any]:
        """See ``ImageJobsClient.list``."""
        return await self._json(build_list(limit, cursor, status))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncImageJobsClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _json(self, call: Call) -> dict[str, Any]:
        body: dict[str, Any] = parse(await self._http.request(**call.arguments()))
        return body


def verify_webhook(
    body: bytes, headers: Mapping[str, str], secret: str, *, tolerance_seconds: float = 300.0
) -> dict[str, Any]:
    """The payload of a webhook, for its receiver. Raises ``WebhookInvalid``.

    Checks the Standard Webhooks signature over the raw body, in constant time. The same
    ``webhook-id`` may come more than once: the receiver is to keep those it has seen.
    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, sent_at = given["webhook-id"], int(given["webhook-timestamp"])
        signatures = given["webhook-signature"].split()
    except (KeyError, ValueError):
        raise WebhookInvalid("the webhook's headers are missing or malformed") from None
    if abs(time.time() - sent_at) > tolerance_seconds:
        raise WebhookInvalid("the webhook is too old, or from the future")
    signed = f"{message_id}.{sent_at}.".encode() + body
    digest = hmac.new(_signing_key(secret), signed, hashlib.sha256).digest()
    expected = f"v1,{base64.b64encode(digest).decode()}".encode()
    if not any(hmac.compare_digest(expected, signature.encode()) for signature in signatures):
        raise WebhookInvalid("the webhook's signature is not this secret's")
    payload: dict[str, Any] = json.loads(body)
    return payload


def _signing_key(secret: str) -> bytes:
    """The bytes behind ``whsec_`` and base64; any other secret stands for its own bytes."""
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            pass
    return secret.encode()


def _headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}
