"""ServeModels: the models that Ray Serve runs, found from Serve itself and called by handle."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from ray import serve
from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatusOverview

from deployments.errors import AtelierError, GenerationFailed, LatentsLost
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
from router.models import (
    Application,
    Deployment,
    Models,
    ModelStatus,
    Replica,
    WorkerDied,
    WorkerUnavailable,
)

logger = logging.getLogger(__name__)

#: Seconds between looks at what Serve runs: while something starts, and when all is up.
STARTING_SECONDS: Final = 0.5
READY_SECONDS: Final = 2.0
#: Seconds between questions to models what they offer, for that may change while they run.
OFFER_SECONDS: Final = 5.0
#: Seconds that replicas have to answer a call to all of them.
BROADCAST_SECONDS: Final = 10.0
#: Seconds that replicas have to tell people who look how busy they are, and for how long that is
#: told again.
LOOK_SECONDS: Final = 3.0
FRESH_SECONDS: Final = 1.0
#: Seconds that a replica has to look at the headers of weights, perhaps over a network.
CHECK_SECONDS: Final = 60.0
#: What Serve raises when no replica can take a call just now.
UNAVAILABLE: Final = (BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError)
#: Deployments that host a model; an application with none of them is not a model.
HOSTS: Final = ("ModelHost", "GeminiHost", "DescriberHost")


class ServeModels(Models):
    """Discovers models by Serve's status; a stanza more in the configuration is a model more.

    Args:
        gateway_app: name of the gateway's own application, which is not a model.
    """

    def __init__(self, gateway_app: str) -> None:
        self._gateway_app = gateway_app
        self._statuses: dict[str, ModelStatus] = {}
        self._handles: dict[str, DeploymentHandle] = {}
        self._deployed_at: dict[str, float] = {}
        self._overviews: Mapping[str, ApplicationStatusOverview] = {}
        self._looked_at = -FRESH_SECONDS
        self._looked: Sequence[Application] = ()
        self._looking = asyncio.Lock()
        self._watchers: tuple[asyncio.Task[None], ...] = ()

    def start(self) -> None:
        """Begin to watch Serve, within the running event loop."""
        watches = self._watch(), self._watch_offers()
        self._watchers = tuple(asyncio.create_task(watch) for watch in watches)

    def stop(self) -> None:
        """Stop watching."""
        for watcher in self._watchers:
            watcher.cancel()

    def statuses(self) -> Sequence[ModelStatus]:
        """What is configured, as last seen."""
        return tuple(self._statuses[name] for name in sorted(self._statuses))

    async def generate(
        self, model: str, request_id: str, request: GenerationRequest
    ) -> AsyncIterator[Progress | GenerationResult]:
        """Stream from one replica of the model."""
        handle = self._handles.get(model)
        if handle is None:
            raise WorkerUnavailable(f"model {model!r} is not deployed")
        stream = handle.options(stream=True).generate.remote(request_id, request)
        ended = False
        try:
            async for item in stream:
                if isinstance(item, LatentsLost):
                    raise WorkerDied(item.message)
                if isinstance(item, AtelierError):
                    raise item
                yield item
            ended = True
        except RayTaskError as error:
            raise _cause(error) from None
        except TaskCancelledError as error:
            raise WorkerUnavailable(str(error)) from error
        except RayError as error:  # the actor, its node, or the result with the node
            raise WorkerDied(str(error)) from error
        except UNAVAILABLE as error:
            raise WorkerUnavailable(str(error)) from error
        finally:
            if not ended:
                stream.cancel()

    async def cancel(self, model: str, prefix: str) -> None:
        """Tell every replica of the model; this passes Serve's limit of ongoing requests."""
        if model in self._handles:
            await self._broadcast(model, "cancel", prefix)

    async def check_weights(
        self, model: str, source: WeightsSource, max_bytes: int
    ) -> CheckedWeights:
        """Ask one replica of the model."""
        handle = self._handles.get(model)
        if handle is None:
            raise WorkerUnavailable(f"model {model!r} is not deployed")
        try:
            asked = handle.check_weights.remote(source, max_bytes)
            answer = await asyncio.wait_for(asked, CHECK_SECONDS)
        except RayTaskError as error:
            raise _cause(error) from None
        except RayError as error:
            raise WorkerDied(str(error)) from error
        except (*UNAVAILABLE, TimeoutError) as error:
            raise WorkerUnavailable(str(error)) from error
        if isinstance(answer, AtelierError):
            raise answer
        checked: CheckedWeights = answer
        return checked

    async def loads(self) -> Mapping[str, Load]:
        """Ask every replica of every ready model."""
        names = [status.id for status in self.statuses() if status.is_ready]
        loads = await asyncio.gather(*(self._broadcast(name, "load") for name in names))
        answers = zip(names, loads, strict=True)
        return {name: _sum(replicas) for name, replicas in answers if replicas}

    async def applications(self) -> Sequence[Application]:
        """Ask every replica of every model; whoever asks within a second gets the same answer."""
        async with self._looking:
            if time.monotonic() - self._looked_at >= FRESH_SECONDS:
                overviews = sorted(self._overviews.items())
                self._looked = await asyncio.gather(
                    *(self._look(name, overview) for name, overview in overviews)
                )
                self._looked_at = time.monotonic()
            return self._looked

    async def _look(self, name: str, overview: ApplicationStatusOverview) -> Application:
        loads: Sequence[Load] = ()
        if name in self._handles:
            loads = await self._broadcast(name, "load", seconds=LOOK_SECONDS)
        return _application(name, overview, loads)

    async def evict(self) -> Evicted:
        """Ask every replica of every ready model."""
        names = [status.id for status in self.statuses() if status.is_ready]
        answers = await asyncio.gather(*(self._broadcast(name, "evict") for name in names))
        evicted: list[tuple[str, Evicted]] = [
            (name, answer)
            for name, replicas in zip(names, answers, strict=True)
            for answer in replicas
        ]
        return Evicted(
            # The base model's own weights have no name but the model's.
            weights=tuple(own or name for name, answer in evicted for own in answer.weights),
            num_bytes=sum(answer.num_bytes for _, answer in evicted),
        )

    async def refresh(self) -> None:
        """Ask every replica of every ready model that takes LoRAs."""
        cards = (status.card for status in self.statuses() if status.is_ready)
        names = [card.id for card in cards if card is not None and card.takes_loras]
        answers = await asyncio.gather(*(self._broadcast(name, "card") for name in names))
        for name, told in zip(names, answers, strict=True):
            status = self._statuses.get(name)
            if told and status is not None and status.card is not None:
                card = _offered(status.card, told)
                self._statuses[name] = replace(status, card=card)

    async def _broadcast(
        self, name: str, method: str, *args: object, seconds: float = BROADCAST_SECONDS
    ) -> list[Any]:
        """What each replica answers; who fails, such as one that has just died, is left out."""
        try:
            response = self._handles[name].broadcast(method, *args)
            told = response.results_async(return_exceptions=True)
            answers = list(await asyncio.wait_for(told, seconds))
        except Exception as error:
            answers = [error]
        for failure in (answer for answer in answers if isinstance(answer, BaseException)):
            logger.warning("model=%s %s was not answered: %s", name, method, failure)
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def _watch(self) -> None:
        while True:
            try:
                await self._refresh()
            except Exception:
                logger.exception("cannot learn Serve's status, trying again")
            await asyncio.sleep(READY_SECONDS if self.are_ready else STARTING_SECONDS)

    async def _watch_offers(self) -> None:
        while True:
            await asyncio.sleep(OFFER_SECONDS)
            try:
                await self.refresh()
            except Exception:
                logger.exception("cannot learn what the models offer, trying again")

    async def _refresh(self) -> None:
        applications = (await asyncio.to_thread(serve.status)).applications
        self._overviews = applications
        statuses = {}
        for name, overview in applications.items():
            host = next((host for host in HOSTS if host in overview.deployments), None)
            if name == self._gateway_app or (overview.deployments and host is None):
                continue
            if overview.status == "DELETING":
                continue
            num_replicas = (
                overview.deployments[host].replica_states.get("RUNNING", 0) if host else 0
            )
            # NOTE: Serve tells the new time of deployment while the old replicas still answer.
            is_settled = overview.status == "RUNNING"
            deployed_at = overview.last_deployed_time_s if is_settled else None
            card = await self._card(name, deployed_at, num_replicas)
            statuses[name] = ModelStatus(
                id=name, card=card, num_replicas=num_replicas, message=overview.status
            )
        for gone in set(self._statuses) - set(statuses):
            self._handles.pop(gone, None)
            self._deployed_at.pop(gone, None)
        self._statuses = statuses

    async def _card(
        self, name: str, deployed_at: float | None, num_replicas: int
    ) -> ModelCard | None:
        """The model's card, asked for again when it was deployed again; None is right now."""
        known = self._statuses[name].card if name in self._statuses else None
        is_current = known is not None and self._deployed_at.get(name) == deployed_at
        if is_current or num_replicas == 0:
            return known
        try:
            handle = await asyncio.to_thread(serve.get_app_handle, name)
            card: ModelCard = await asyncio.wait_for(handle.card.remote(), timeout=10)
        except Exception as error:
            logger.warning("model=%s gave no card, trying again: %s", name, error)
            return known
        self._handles[name] = handle
        if deployed_at is not None:
            self._deployed_at[name] = deployed_at
        return card


def _offered(card: ModelCard, told: Sequence[ModelCard]) -> ModelCard:
    """The card with the LoRAs that all replicas have, and the weights of the configuration."""
    first, *others = told
    loras = tuple(name for name in first.loras if all(name in one.loras for one in others))
    digests = tuple(pair for pair in first.lora_digests if pair[0] in loras)
    return replace(
        card,
        loras=loras,
        lora_digests=digests,
        weights=first.weights,
        weights_digests=first.weights_digests,
    )


def _cause(error: RayTaskError) -> Exception:
    """The host's own failure out of Ray's wrapping."""
    cause = error.cause
    if isinstance(cause, AtelierError):
        return type(cause)(cause.message, param=cause.param, retry_after=cause.retry_after)
    logger.error("a model host failed unexpectedly", exc_info=error)
    return GenerationFailed("an internal fault; see the server's log")


def _application(
    name: str, overview: ApplicationStatusOverview, loads: Sequence[Load]
) -> Application:
    """An application as Serve tells it; its running replicas are those that told their loads."""
    return Application(
        id=name,
        status=overview.status.value,
        message=overview.message,
        deployments=tuple(
            Deployment(
                name=deployment,
                status=told.status.value,
                message=told.message,
                replicas=_replicas(told.replica_states, loads if deployment in HOSTS else ()),
            )
            for deployment, told in sorted(overview.deployments.items())
        ),
    )


def _replicas(states: Mapping[str, int], loads: Sequence[Load]) -> tuple[Replica, ...]:
    """Replicas by state; Serve counts them a little later than they answer, or stop to."""
    answered = [Replica(state="RUNNING", load=load) for load in sorted(loads, key=_place)]
    others = dict(states)
    others["RUNNING"] = others.get("RUNNING", 0) - len(answered)
    silent = [Replica(state=state) for state in sorted(others) for _ in range(others[state])]
    return (*answered, *silent)


def _place(load: Load) -> tuple[str, str]:
    return (load.device.node, load.device.id) if load.device else ("", "")


def _sum(replicas: Sequence[Load]) -> Load:
    memory = [load.memory_bytes for load in replicas]
    return Load(
        num_running=sum(load.num_running for load in replicas),
        num_waiting=sum(load.num_waiting for load in replicas),
        work=sum(load.work for load in replicas),
        resident_weights=tuple(sorted({n for load in replicas for n in load.resident_weights})),
        weight_bytes=sum(load.weight_bytes for load in replicas),
        lora_bytes=sum(load.lora_bytes for load in replicas),
        work_bytes=sum(load.work_bytes for load in replicas),
        picture_bytes=sum(load.picture_bytes for load in replicas),
        host_bytes=sum(load.host_bytes for load in replicas),
        memory_bytes=sum(told) if (told := [m for m in memory if m is not None]) else None,
    )
