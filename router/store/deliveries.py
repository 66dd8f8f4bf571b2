"""DeliveryStore: the rows of webhook deliveries, kept beside the jobs they tell of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from router.job import Job


class DeliveryStatus(StrEnum):
    """Where a delivery stands; ``FAILED`` is given up, and can be sent again by hand."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message to one address.

    Attributes:
        id: ``msg_`` and 24 hexadecimal digits; the receiver sees it as ``webhook-id``.
        job_id, owner: the job it tells of, and whose it is.
        url: where it goes.
        event: ``completed``, ``failed`` or ``generating``.
        payload: the JSON text that is sent, fixed when the row is written.
        attempts: how often it was tried.
        next_attempt_at: Unix seconds before which it is not tried again.
        last_error: what the last try met, for a person; empty when none failed.
        created_at, delivered_at: Unix seconds.
    """

    id: str
    job_id: str
    owner: str
    url: str
    event: str
    payload: str
    status: DeliveryStatus = DeliveryStatus.PENDING
    attempts: int = 0
    next_attempt_at: float = 0.0
    last_error: str = ""
    created_at: float = 0.0
    delivered_at: float | None = None


class DeliveryStore(ABC):
    """Rows of deliveries: at least once, in order per job and address."""

    @abstractmethod
    async def jobs_to_notify(self, *, limit: int = 100) -> Sequence[Job]:
        """Ended jobs whose ``notify`` is set and whose last deliveries are not written yet."""

    @abstractmethod
    async def add(self, deliveries: Sequence[Delivery], *, ends: str | None = None) -> None:
        """Keep deliveries. With ``ends`` (a job id) clear that job's ``notify`` in the same
        transaction; if it is already clear nothing is kept, so two replicas cannot tell twice."""

    @abstractmethod
    async def claim(self, *, worker: str, lease_seconds: float) -> Delivery | None:
        """A due delivery none of whose elders (same job and address) is pending; leased, so that
        no other worker gets it before ``lease_seconds`` are over. ``attempts`` counts this try."""

    @abstractmethod
    async def settle(
        self, delivery_id: str, *, delivered: bool, error: str = "", retry_at: float | None = None
    ) -> None:
        """Record a try: delivered, to be tried again at ``retry_at``, or given up (neither).

        Changes nothing when the delivery is settled already. Raises ``NotFound``.
        """

    @abstractmethod
    async def get(self, delivery_id: str) -> Delivery:
        """The delivery. Raises ``NotFound``."""

    @abstractmethod
    async def list(
        self, *, owner: str | None = None, job_id: str | None = None, limit: int = 50
    ) -> Sequence[Delivery]:
        """Deliveries, newest first."""

    @abstractmethod
    async def resend(self, delivery_id: str) -> Delivery:
        """Make a delivery pending and due at once. Raises ``NotFound``."""


def settled(
    delivery: Delivery, *, delivered: bool, error: str, retry_at: float | None, now: float
) -> Delivery:
    """The delivery after a try; itself when an earlier try settled it."""
    if delivery.status is not DeliveryStatus.PENDING:
        return delivery
    error = error.replace("\0", "")
    if delivered:
        status = DeliveryStatus.DELIVERED
        return replace(delivery, status=status, delivered_at=now, last_error="")
    if retry_at is None:
        return replace(delivery, status=DeliveryStatus.FAILED, last_error=error)
    return replace(delivery, next_attempt_at=retry_at, last_error=error)


def resent(delivery: Delivery, *, now: float) -> Delivery:
    """The delivery pending once more, and due."""
    pending = DeliveryStatus.PENDING
    return replace(delivery, status=pending, next_attempt_at=now, delivered_at=None)
