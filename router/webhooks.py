"""Webhooks: tells the operator's address, or a request's own, how a job goes and how it ended."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

from deployments.errors import AtelierError, NotFound
from router.events import JobNews
from router.fetch import Fetcher
from router.job import Job, JobProgress
from router.store.deliveries import Delivery, DeliveryStore

logger = logging.getLogger(__name__)

#: A payload: of a job under way with its progress, of an ended job with None.
Render: TypeAlias = Callable[[Job, JobProgress | None], Mapping[str, Any]]

#: Seconds before each further try of the news that a job ended: ten tries in about sixteen hours.
RETRY_SECONDS: Final = (1.0, 5.0, 30.0, 120.0, 600.0, 1800.0, 5400.0, 18_000.0, 32_400.0)
#: The same for news of progress: old ones are worth nothing, and the end waits behind them.
PROGRESS_RETRY_SECONDS: Final = (1.0,)
#: Percentages at which progress is told.
MARKS: Final = (25, 50, 75)
#: Seconds between looks for what other replicas wrote, and for tries that are due.
IDLE_SECONDS: Final = 0.5
#: Seconds for which a claimed delivery is this worker's; longer than any post takes.
LEASE_SECONDS: Final = 60.0
#: Posts under way at once.
MAX_POSTS: Final = 16
#: Jobs followed at once for their progress: each that does not run here reads the store often.
MAX_FOLLOWED: Final = 32


class Webhooks:
    """Writes deliveries as rows and posts them: at least once, in order per job and address.

    Every post carries a Standard Webhooks signature. ``X-Webhook-Secret`` tells the secret itself,
    so it goes to the operator's own address and networks alone (``Fetcher``'s ``allow``).

    Args:
        render: makes the payload; its ``status`` names the event.
        url: the operator's address; it is not checked, loopback will do.
        secret: signs; ``whsec_`` and base64, or any text. Empty sends no signature.
        is_enabled: whether jobs without an address of their own are told to ``url``.
        marks: percentages at which progress is told; none turns that off.
        retry_seconds: waits between the tries of an ended job's news.
    """

    def __init__(
        self,
        *,
        deliveries: DeliveryStore,
        fetcher: Fetcher,
        render: Render,
        url: str = "",
        secret: str = "",
        is_enabled: bool = True,
        marks: Sequence[int] = MARKS,
        retry_seconds: Sequence[float] = RETRY_SECONDS,
    ) -> None:
        self._deliveries = deliveries
        self._fetcher = fetcher
        self._render = render
        self._url = url if is_enabled else ""
        self._secret = secret
        self._marks = tuple(sorted(marks))
        self._retry_seconds = tuple(retry_seconds)
        self._worker = secrets.token_hex(6)
        self._waker = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._posting: set[asyncio.Task[None]] = set()
        self._following: dict[str, asyncio.Task[None]] = {}

    # -- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to post, within the running event loop."""
        self._loop = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Stop; what was under way is posted again by whoever comes next."""
        tasks = [*self._posting, *self._following.values()]
        if self._loop:
            tasks.append(self._loop)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- what the API calls ---------------------------------------------------------------------

    async def check(self, url: str) -> None:
        """Whether a request may name this address. Raises ``InvalidRequest``."""
        await self._fetcher.check(url, param="webhook_url")

    def can_notify(self, webhook_url: str | None) -> bool:
        """Whether a job with this address of its own, or None, has anyone to tell."""
        return bool(webhook_url or self._url)

    def follow(self, job: Job, news: AsyncIterator[JobNews]) -> None:
        """Tell of the job's progress, and of its end without delay, as long as this process runs.

        The end itself needs no following: it is found in the store.
        """
        busy = len(self._following) >= MAX_FOLLOWED or job.id in self._following
        if self._marks and job.notify and not busy:
            task = asyncio.create_task(self._follow(job, news))
            self._following[job.id] = task
            task.add_done_callback(lambda _: self._following.pop(job.id, None))

    async def list(
        self, *, owner: str, job_id: str | None = None, limit: int = 50
    ) -> Sequence[Delivery]:
        """This owner's deliveries, newest first."""
        return await self._deliveries.list(owner=owner, job_id=job_id, limit=limit)

    async def resend(self, delivery_id: str, *, owner: str) -> Delivery:
        """Post a delivery of this owner again. Raises ``NotFound``."""
        delivery = await self._deliveries.get(delivery_id)
        if delivery.owner != owner:
            raise NotFound(f"there is no delivery {delivery_id!r}")
        delivery = await self._deliveries.resend(delivery_id)
        self._waker.set()
        return delivery

    # -- writing --------------------------------------------------------------------------------

    async def _follow(self, job: Job, news: AsyncIterator[JobNews]) -> None:
        left = list(self._marks)
        with suppress(AtelierError):
            async for item in news:
                if isinstance(item, Job):
                    break
                percent = 100 * item.step // max(1, item.num_steps)
                passed = [mark for mark in left if mark <= percent]
                if passed and percent < 100:
                    left = left[len(passed) :]
                    await self._deliveries.add(self._written(job, item))
                    self._waker.set()
        self._waker.set()

    async def _write_endings(self) -> None:
        while jobs := await self._deliveries.jobs_to_notify():
            for job in jobs:
                if follower := self._following.get(job.id):
                    follower.cancel()
                    await asyncio.gather(follower, return_exceptions=True)
                await self._deliveries.add(self._written(job, None), ends=job.id)

    def _written(self, job: Job, progress: JobProgress | None) -> Sequence[Delivery]:
        """The delivery as a row; none when there is no address any more."""
        url = job.webhook_url or self._url
        if not url:
            return []
        payload = self._render(job, progress)
        now = time.time()
        delivery = Delivery(
            id=f"msg_{secrets.token_hex(12)}",
            job_id=job.id,
            owner=job.owner,
            url=url,
            event=payload["status"],
            payload=json.dumps(payload, ensure_ascii=False),
            next_attempt_at=now,
            created_at=now,
        )
        return [delivery]

    # -- posting --------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            self._waker.clear()
            try:
                await self._write_endings()
                await self._post_due()
            except AtelierError as error:
                logger.warning("webhooks wait, trying again: %s", error)
            except Exception:
                logger.exception("webhooks failed, trying again")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._waker.wait(), IDLE_SECONDS)

    async def _post_due(self) -> None:
        while len(self._posting) < MAX_POSTS:
            delivery = await self._deliveries.claim(
                worker=self._worker, lease_seconds=LEASE_SECONDS
            )
            if delivery is None:
                return
            task = asyncio.create_task(self._post(delivery))
            self._posting.add(task)
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._posting.discard(task)
        self._waker.set()

    async def _post(self, delivery: Delivery) -> None:
        try:
            error = await self._try(delivery)
        except asyncio.CancelledError:
            await self._settle(delivery, "the gateway stopped", time.time())
            raise
        if not error:
            await self._settle(delivery, "", None)
            return
        await self._settle(delivery, error, self._retry_at(delivery))

    async def _try(self, delivery: Delivery) -> str:
        """Post once; what went wrong, or nothing."""
        body = delivery.payload.encode()
        try:
            status = await self._fetcher.post(
                delivery.url,
                body,
                headers=signed_headers(self._secret, delivery.id, int(time.time()), body),
                own_headers={"x-webhook-secret": self._secret} if self._secret else {},
                is_trusted=delivery.url == self._url,
            )
        except AtelierError as error:
            return error.message
        except Exception:
            logger.exception("job_id=%s delivery %s failed", delivery.job_id, delivery.id)
            return "an internal fault"
        return "" if 200 <= status < 300 else f"the receiver answered {status}"

    async def _settle(self, delivery: Delivery, error: str, retry_at: float | None) -> None:
        outcome = f"failed: {error}" if error else "delivered"
        logger.info("job_id=%s webhook %s %s", delivery.job_id, delivery.event, outcome)
        with suppress(AtelierError):  # then its lease runs out, and it is posted again
            await self._deliveries.settle(
                delivery.id, delivered=not error, error=error, retry_at=retry_at
            )

    def _retry_at(self, delivery: Delivery) -> float | None:
        """When to try again, never earlier than the table says; None gives up."""
        is_progress = delivery.event == "generating"
        waits = PROGRESS_RETRY_SECONDS if is_progress else self._retry_seconds
        if delivery.attempts > len(waits):
            return None
        return time.time() + waits[delivery.attempts - 1] * random.uniform(1.0, 1.2)


def signed_headers(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks; without a secret there is no signature."""
    headers = {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
    }
    if secret:
        headers["webhook-signature"] = sign(secret, message_id, timestamp, body)
    return headers


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """``v1,`` and the base64 of HMAC-SHA256 over ``id.timestamp.body``."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(signing_key(secret), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def signing_key(secret: str) -> bytes:
    """The bytes behind ``whsec_`` and base64; any other secret stands for its own bytes."""
    if secret.startswith("whsec_"):
        with suppress(binascii.Error):
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    return secret.encode()
