"""build(args): the application of one model, the ``import_path`` of every model's stanza."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

import ray
from ray import ObjectRef, serve
from ray.exceptions import ObjectLostError
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from deployments.config import LiveConfig, ModelConfig
from deployments.describer import DescriberConfig, DescriberHost
from deployments.engine.device import usable_cores
from deployments.errors import AtelierError, LatentsLost
from deployments.gemini import GeminiConfig, GeminiHost
from deployments.host import ModelHost
from deployments.opening import Reserved
from deployments.types import (
    CheckedWeights,
    GenerationRequest,
    GenerationResult,
    Progress,
    WeightsSource,
)

T = TypeVar("T")
C = TypeVar("C", ModelConfig, DescriberConfig)


class ModelReplica(ModelHost):
    """A replica of a model's deployment; the model's id is its application's name."""

    def __init__(self, config: ModelConfig) -> None:
        _log_with_serve()
        context = serve.get_replica_context()
        # NOTE: Serve has no public way for a replica to learn its own limit.
        limit = context._deployment_config.max_ongoing_requests
        assigned = ray.get_runtime_context().get_assigned_resources()
        memory = round(assigned["memory"]) if "memory" in assigned else None
        reserved = Reserved(num_gpus=assigned.get("GPU", 0.0), memory=memory)
        super().__init__(with_threads(config, assigned), context.app_name, limit, reserved)

    async def generate(  # type: ignore[override]
        self, request_id: str, request: GenerationRequest
    ) -> AsyncIterator[Progress | GenerationResult | AtelierError]:
        """As the host's; a failure is the last item, for Serve logs a trace of what is raised.

        Latents stay in the object store of this replica's node: what is told of them, and what a
        request brings, is a reference.
        """
        try:
            request = await _with_array(request)
        except LatentsLost as error:
            yield error
            return
        async for item in _tell(super().generate(request_id, request)):
            yield _with_reference(item)

    async def check_weights(  # type: ignore[override]
        self, source: WeightsSource, max_bytes: int
    ) -> CheckedWeights | AtelierError:
        """As the host's; a failure is the answer, for Serve logs a trace of what is raised."""
        try:
            return await super().check_weights(source, max_bytes)
        except AtelierError as error:
            return error

    def record_routing_stats(self) -> dict[str, Any]:
        """What ``WeightsRouter`` hears of this replica."""
        return {"weights": list(self.resident_weights)}

    def reconfigure(self, user_config: dict[str, Any] | None) -> None:
        """Serve's call at the start and after a deployment that changed ``user_config`` alone."""
        self.configure(LiveConfig(**(user_config or {})))


class GeminiReplica(GeminiHost):
    """A replica of Gemini's deployment."""

    def __init__(self, config: GeminiConfig) -> None:
        _log_with_serve()
        super().__init__(config, serve.get_replica_context().app_name)

    async def generate(  # type: ignore[override]
        self, request_id: str, request: GenerationRequest
    ) -> AsyncIterator[Progress | GenerationResult | AtelierError]:
        """As the host's; see ``ModelReplica``."""
        async for item in _tell(super().generate(request_id, request)):
            yield item


class DescriberReplica(DescriberHost):
    """A replica of a describer's deployment."""

    def __init__(self, config: DescriberConfig) -> None:
        _log_with_serve()
        context = serve.get_replica_context()
        limit = context._deployment_config.max_ongoing_requests  # see ``ModelReplica``
        assigned = ray.get_runtime_context().get_assigned_resources()
        super().__init__(with_threads(config, assigned), context.app_name, limit)

    async def generate(  # type: ignore[override]
        self, request_id: str, request: GenerationRequest
    ) -> AsyncIterator[Progress | GenerationResult | AtelierError]:
        """As the host's; see ``ModelReplica``."""
        async for item in _tell(super().generate(request_id, request)):
            yield item


def build(args: dict[str, Any]) -> Application:
    """A model on hardware of ours. Raises ``ValidationError`` naming unknown and known keys."""
    routing = RequestRouterConfig(
        request_router_class="deployments.request_router.WeightsRouter",
        request_routing_stats_period_s=1.0,
    )
    deployment = serve.deployment(
        ModelReplica, name="ModelHost", max_ongoing_requests=16, request_router_config=routing
    )
    return deployment.bind(ModelConfig(**args))


def build_gemini(args: dict[str, Any]) -> Application:
    """Google's Gemini through its API; takes no accelerator."""
    deployment = serve.deployment(GeminiReplica, name="GeminiHost", max_ongoing_requests=16)
    return deployment.bind(GeminiConfig(**args))


def build_describer(args: dict[str, Any]) -> Application:
    """A model that tells what is on a picture, such as BLIP, on hardware of ours."""
    deployment = serve.deployment(DescriberReplica, name="DescriberHost", max_ongoing_requests=16)
    return deployment.bind(DescriberConfig(**args))


async def _with_array(request: GenerationRequest) -> GenerationRequest:
    """The request with its latents themselves. Raises ``LatentsLost`` when they are gone."""
    latents = request.latents
    if latents is None or not isinstance(latents.value, ObjectRef):
        return request
    try:
        value = await latents.value
    except ObjectLostError as error:
        raise LatentsLost("the latents are gone with the replica that kept them") from error
    return replace(request, latents=replace(latents, value=value))


def _with_reference(item: T) -> T | GenerationResult:
    if not isinstance(item, GenerationResult) or item.latents is None:
        return item
    reference = ray.put(item.latents.value)
    return replace(item, latents=replace(item.latents, value=reference))


async def _tell(
    news: AsyncIterator[Progress | GenerationResult],
) -> AsyncIterator[Progress | GenerationResult | AtelierError]:
    async with aclosing(news) as items:  # type: ignore[type-var]
        try:
            async for item in items:
                yield item
        except AtelierError as error:
            yield error


def with_threads(config: C, assigned: Mapping[str, float]) -> C:
    """Threads of a replica whose configuration names none; Ray would let it have one.

    Args:
        assigned: what Ray reserved for the replica, by its names of resources.
    """
    if config.num_threads is not None:
        return config
    return config.model_copy(
        update={"num_threads": int(assigned.get("CPU", 0.0)) or usable_cores()}
    )


def _log_with_serve() -> None:
    """Let our lines go where the replica's own go: Serve's file and the console."""
    logger = logging.getLogger("deployments")
    logger.setLevel(os.environ.get("LOG_LEVEL", "info").upper())
    logger.handlers = list(logging.getLogger("ray.serve").handlers)
