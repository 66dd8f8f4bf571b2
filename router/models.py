"""Models: the hosted models that the gateway can call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from deployments.types import (
    CheckedWeights,
    Evicted,
    GenerationRequest,
    GenerationResult,
    Load,
    ModelCard,
    Progress,
    WeightsSource,
)


class WorkerDied(Exception):
    """The replica that ran a request died; the request itself may be fine."""


class WorkerUnavailable(Exception):
    """No replica could take the request just now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """A configured model: its card once known, and how many replicas run."""

    id: str
    card: ModelCard | None
    num_replicas: int
    message: str = ""

    @property
    def is_starting(self) -> bool:
        """Whether the model has yet to say what it is, and may still."""
        return self.card is None and self.message != "DEPLOY_FAILED"

    @property
    def is_ready(self) -> bool:
        """Whether a request would find a running replica."""
        return self.card is not None and self.num_replicas > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One replica of a deployment.

    Attributes:
        state: in Serve's words: ``RUNNING``, ``STARTING`` and so on.
        load: how busy and how full it is; None when it hosts no model, or did not answer.
    """

    state: str
    load: Load | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One deployment of an application, ``status`` and ``message`` in Serve's words."""

    name: str
    status: str
    message: str = ""
    replicas: tuple[Replica, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """One application that the cluster runs, ``status`` and ``message`` in Serve's words."""

    id: str
    status: str
    message: str = ""
    deployments: tuple[Deployment, ...] = ()


class Models(ABC):
    """Every configured model of the cluster."""

    def start(self) -> None:  # noqa: B027 - fakes have nothing to start
        """Begin to follow the cluster, within the running event loop."""

    def stop(self) -> None:  # noqa: B027
        """Stop following it."""

    @abstractmethod
    def statuses(self) -> Sequence[ModelStatus]:
        """What is configured, as last seen; in the order of their ids."""

    @abstractmethod
    def generate(
        self, model: str, request_id: str, request: GenerationRequest
    ) -> AsyncIterator[Progress | GenerationResult]:
        """Progress, then one result. Closing the iterator cancels the work.

        Raises ``WorkerDied``, ``WorkerUnavailable``, or the host's own ``AtelierError``.
        """

    @abstractmethod
    async def cancel(self, model: str, prefix: str) -> None:
        """Stop every request of a model whose id begins so, on whichever replica it runs.

        For requests whose caller died: nobody closes their iterators.
        """

    @abstractmethod
    async def check_weights(
        self, model: str, source: WeightsSource, max_bytes: int
    ) -> CheckedWeights:
        """What a model's host finds in a source of weights, of which only headers are read.

        Raises ``InvalidRequest`` when they do not fit the model or have more bytes,
        ``UnsupportedField`` when the model takes none, ``WorkerDied``, ``WorkerUnavailable``.
        """

    @abstractmethod
    async def loads(self) -> Mapping[str, Load]:
        """How busy each ready model is, its replicas summed."""

    @abstractmethod
    async def applications(self) -> Sequence[Application]:
        """All that the cluster runs, models or not, replica by replica, as of a second ago; in the
        order of their ids."""

    @abstractmethod
    async def evict(self) -> Evicted:
        """Drop idle weights on every replica of every model."""

    async def refresh(self) -> None:  # noqa: B027 - fakes stay as they are
        """Learn anew what each ready model offers; what is not answered is as last told."""

    def cards(self) -> tuple[ModelCard, ...]:
        """The cards of the models that have started and can serve."""
        cards = (status.card for status in self.statuses())
        return tuple(card for card in cards if card is not None and not card.unavailable)

    @property
    def are_ready(self) -> bool:
        """Whether every configured model has a running replica, and there is one."""
        statuses = self.statuses()
        return bool(statuses) and all(status.is_ready for status in statuses)
