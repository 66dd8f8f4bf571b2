"""OptionStore: what each owner set in an API that remembers settings. In memory, or in SQL."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final

from deployments.errors import InvalidRequest

#: The most that is kept of one owner in one API, in characters of JSON.
MAX_LENGTH: Final = 65_536


class OptionStore(ABC):
    """One JSON object per (owner, api). Every method is atomic; each may raise
    ``StorageFailure``."""

    @abstractmethod
    async def get(self, *, owner: str, api: str) -> dict[str, Any]:
        """What was set; empty when nothing was."""

    @abstractmethod
    async def update(self, changes: Mapping[str, Any], *, owner: str, api: str) -> None:
        """Set these names and leave the others as they are.

        Raises ``InvalidRequest`` where that would be more than ``MAX_LENGTH``; nothing is set.
        """


def merge(kept: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept after these changes. Raises ``InvalidRequest`` when that is too much."""
    merged = {**kept, **changes}
    if len(json.dumps(merged)) > MAX_LENGTH:
        raise InvalidRequest(f"options are too long; accepted: at most {MAX_LENGTH} characters")
    return merged


class MemoryOptionStore(OptionStore):
    """Options in a dictionary; nothing outlives the process."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], dict[str, Any]] = {}

    async def get(self, *, owner: str, api: str) -> dict[str, Any]:
        return dict(self._kept.get((owner, api), {}))

    async def update(self, changes: Mapping[str, Any], *, owner: str, api: str) -> None:
        self._kept[owner, api] = merge(self._kept.get((owner, api), {}), changes)
