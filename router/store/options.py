"""OptionStore: what each owner set in an API that remembers settings. In memory, or in SQL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any


class OptionStore(ABC):
    """One JSON object per (owner, api). Every method is atomic; each may raise
    ``StorageFailure``."""

    @abstractmethod
    async def get(self, *, owner: str, api: str) -> dict[str, Any]:
        """What was set; empty when nothing was."""

    @abstractmethod
    async def update(self, changes: Mapping[str, Any], *, owner: str, api: str) -> None:
        """Set these names and leave the others as they are."""


class MemoryOptionStore(OptionStore):
    """Options in a dictionary; nothing outlives the process."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], dict[str, Any]] = {}

    async def get(self, *, owner: str, api: str) -> dict[str, Any]:
        return dict(self._kept.get((owner, api), {}))

    async def update(self, changes: Mapping[str, Any], *, owner: str, api: str) -> None:
        self._kept.setdefault((owner, api), {}).update(changes)
