"""Sources: where personal weights are read from, by the names that an engine knows them by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from threading import Lock

from deployments.config import locate
from deployments.errors import InvalidRequest
from deployments.types import GenerationRequest, WeightsSource


class Sources:
    """Owns the table of sources: the configuration's, which may change, and those that requests
    bring. What a name stands for never changes: an entry of the configuration that is changed gets
    another name inside. Every method may be called from any thread.

    Args:
        table: the configuration's: user -> folder, file, or hub id.
    """

    def __init__(self, table: Mapping[str, str] | None = None) -> None:
        self._lock = Lock()
        self._table: dict[str, str] = {}
        self._names: dict[str, str] = {}  # the configuration's -> the engine's
        self._sources: dict[str, WeightsSource] = {}
        self._num_changes = 0
        self.configure(table or {})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the configuration, sorted."""
        with self._lock:
            return tuple(sorted(self._table))

    @property
    def digests(self) -> tuple[tuple[str, str], ...]:
        """Those names, each with a hash of where its weights are from."""
        with self._lock:
            table = sorted(self._table.items())
        return tuple((name, sha256(origin.encode()).hexdigest()[:12]) for name, origin in table)

    def configure(self, table: Mapping[str, str]) -> None:
        """Replace the configuration's table; requests in flight keep what they have."""
        with self._lock:
            for name, weights in table.items():
                if self._table.get(name) == weights:
                    continue
                inside = name
                if name in self._names:
                    self._num_changes += 1
                    inside = f"{name}#{self._num_changes}"
                self._names[name] = inside
                self._sources[inside] = _configured(inside, weights)
            self._table = dict(table)

    def resolve(self, request: GenerationRequest) -> GenerationRequest:
        """The request with its weights by the engine's name. Raises ``InvalidRequest``."""
        source = request.weights_source
        with self._lock:
            if source is not None:
                self._sources[source.id] = source
                return replace(request, weights=source.id)
            if request.weights is None or request.weights in self._table:
                return replace(request, weights=request.weights and self._names[request.weights])
        known = ", ".join(self.names) or "none"
        message = f"unknown weights {request.weights!r}; known: {known}"
        raise InvalidRequest(message, param="weights")

    def name_of(self, name: str) -> str:
        """The configuration's name of what the engine calls so; else the name itself."""
        with self._lock:
            return next((outside for outside, own in self._names.items() if own == name), name)

    def get(self, name: str) -> WeightsSource:
        """The source by the engine's name. Raises ``InvalidRequest``."""
        with self._lock:
            if (source := self._sources.get(name)) is not None:
                return source
        known = ", ".join(self.names) or "none"
        raise InvalidRequest(f"unknown weights {name!r}; known: {known}", param="weights")


def _configured(name: str, weights: str) -> WeightsSource:
    located = locate(weights)
    is_path = Path(located).is_absolute()
    return WeightsSource(id=name, kind="path" if is_path else "hub", location=located)
