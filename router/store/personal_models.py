"""PersonalModelStore: which weights owners have registered, by name. In memory, or in SQL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from deployments.errors import NotFound, Overloaded
from deployments.types import WeightsSource
from router.job import OwnWeights

#: The most that one owner may have registered.
MAX_PER_OWNER = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalModel:
    """Weights of one owner's, or a LoRA, for one hosted model.

    Attributes:
        owner, name: together they name it.
        base: id of the hosted model whose modules the weights replace, or the LoRA adapts.
        source: where the weights are read from.
        key: where an upload's bytes lie in the image store; "" for other sources.
        parts: names of those modules.
        num_bytes: of the files that hold them.
        created_at: Unix seconds.
    """

    owner: str
    name: str
    base: str
    source: WeightsSource
    key: str
    parts: tuple[str, ...]
    num_bytes: int
    created_at: float

    @property
    def own(self) -> OwnWeights:
        """What jobs keep of it."""
        source = replace(self.source, key=self.key)
        return OwnWeights(name=self.name, base=self.base, source=source)


class PersonalModelStore(ABC):
    """Rows of personal models. Every method is atomic; each may raise ``StorageFailure``."""

    @abstractmethod
    async def put(self, model: PersonalModel) -> PersonalModel | None:
        """Keep a model; returns the one whose place it took, or None.

        Raises ``Overloaded`` for an owner who has ``MAX_PER_OWNER`` others.
        """

    @abstractmethod
    async def get(self, *, owner: str, name: str) -> PersonalModel:
        """The owner's model of this name. Raises ``NotFound``."""

    @abstractmethod
    async def list(self, *, owner: str) -> Sequence[PersonalModel]:
        """An owner's models in the order of their names."""

    @abstractmethod
    async def delete(self, *, owner: str, name: str) -> PersonalModel:
        """Forget the owner's model of this name, and return it. Raises ``NotFound``."""

    @abstractmethod
    async def needed(self, keys: Collection[str]) -> frozenset[str]:
        """Those of the keys of uploads that a model names."""


class MemoryPersonalModelStore(PersonalModelStore):
    """Models in a dictionary; nothing outlives the process."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str], PersonalModel] = {}

    async def put(self, model: PersonalModel) -> PersonalModel | None:
        place = model.owner, model.name
        others = [other for other in await self.list(owner=model.owner) if other.name != model.name]
        check_number(len(others))
        replaced = self._models.get(place)
        self._models[place] = model
        return replaced

    async def get(self, *, owner: str, name: str) -> PersonalModel:
        if (model := self._models.get((owner, name))) is None:
            raise missing(name)
        return model

    async def list(self, *, owner: str) -> Sequence[PersonalModel]:
        return [model for (_, _), model in sorted(self._models.items()) if model.owner == owner]

    async def delete(self, *, owner: str, name: str) -> PersonalModel:
        model = await self.get(owner=owner, name=name)
        del self._models[owner, name]
        return model

    async def needed(self, keys: Collection[str]) -> frozenset[str]:
        return frozenset(model.key for model in self._models.values()).intersection(keys)


def check_number(num_others: int) -> None:
    """Raise ``Overloaded`` when an owner who has so many others may have no further one."""
    if num_others >= MAX_PER_OWNER:
        raise Overloaded(f"there are {num_others} personal models; accepted: {MAX_PER_OWNER}")


def missing(name: str) -> NotFound:
    """What is raised for a name that the owner has not registered."""
    return NotFound(f"there is no personal model {name!r}", param="name")
