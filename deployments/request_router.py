"""WeightsRouter: Serve's choice of a replica. One that holds a request's weights goes first."""

from __future__ import annotations

from typing import Any, Final

from ray.serve.request_router import (
    PendingRequest,
    ReplicaID,
    RequestRouter,
    RunningReplica,
)

from deployments.affinity import Candidate, ranks, weights_of

#: Names of weights of which it is remembered where their last request went.
MAX_REMEMBERED: Final = 10_000


class WeightsRouter(RequestRouter):  # type: ignore[misc]  # Serve's is untyped
    """Runs in every caller. Replicas tell what they hold once a second; until then, who was last
    sent a request for some weights is taken to hold them."""

    def initialize_state(self, **kwargs: Any) -> None:
        """Nothing is known at first."""
        super().initialize_state(**kwargs)
        self._sent: dict[str, ReplicaID] = {}

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """See ``affinity.ranks``."""
        weights = weights_of(pending_request.args) if pending_request else None
        if weights is None or len(candidate_replicas) < 2:
            return [candidate_replicas]
        by_id = {replica.replica_id: replica for replica in candidate_replicas}
        candidates = [
            Candidate(
                id=replica.replica_id,
                has_weights=self._sent.get(weights) == replica.replica_id
                or weights in replica.routing_stats.get("weights", ()),
                num_requests=self.replica_queue_len_cache.get(replica.replica_id),
            )
            for replica in candidate_replicas
        ]
        return [[by_id[one] for one in rank] for rank in ranks(candidates)]

    def on_request_routed(
        self,
        pending_request: PendingRequest,
        replica_id: ReplicaID,
        result: Any,  # noqa: ARG002
    ) -> None:
        """Remember where the weights are now, or soon."""
        if (weights := weights_of(pending_request.args)) is not None:
            self._sent.pop(weights, None)
            self._sent[weights] = replica_id
            if len(self._sent) > MAX_REMEMBERED:
                del self._sent[next(iter(self._sent))]
