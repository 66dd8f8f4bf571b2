"""Holdings: what the nodes of a running graph gave, for as long as one that runs needs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from deployments.errors import InvalidRequest
from router.apis.comfyui.cache import Given
from router.apis.comfyui.values import buffers_of

#: The most bytes that the values of one graph may take at once, wherever they lie.
MAX_BYTES: Final = 2 * 2**30


class Holdings:
    """Values by node. Those that no node will ask for are not kept.

    Args:
        sources: of each node that is to run, the nodes whose values it takes.
        max_bytes: what all of them may take at once.

    Attributes:
        nodes: ids of the nodes that gave something, in the order in which they did.
    """

    def __init__(self, sources: Mapping[str, Iterable[str]], *, max_bytes: int = MAX_BYTES) -> None:
        self.nodes: list[str] = []
        self._sources = {node: frozenset(those) for node, those in sources.items()}
        self._max_bytes = max_bytes
        self._values: dict[str, tuple[Any, ...]] = {}
        self._num_takers: dict[str, int] = {}
        for those in self._sources.values():
            for source in those:
                self._num_takers[source] = self._num_takers.get(source, 0) + 1

    def add(self, node: str, given: Given) -> None:
        """Keep what a node gave. Raises ``InvalidRequest`` when all that is kept is too much."""
        if self._num_takers.get(node):
            self.check(given.values)
            self._values[node] = given.values
        self.nodes.append(node)

    def find(self, node: str, slot: int) -> Any:
        """An output of a node, counted from 0."""
        return self._values[node][slot]

    def release(self, taker: str) -> None:
        """A node has run: what was only kept for it is dropped."""
        for source in self._sources.pop(taker, ()):
            self._num_takers[source] -= 1
            if not self._num_takers[source]:
                del self._values[source]

    def check(self, more: Sequence[Any]) -> None:
        """Raise ``InvalidRequest`` when these values and all that are kept would be too much."""
        added = _sizes(more)
        if not added:
            return
        num_bytes = sum((_sizes([*self._values.values()]) | added).values())
        if num_bytes > self._max_bytes:
            raise InvalidRequest(
                f"the graph holds {num_bytes >> 20} MiB of pictures and masks at once; "
                f"accepted: at most {self._max_bytes >> 20} MiB"
            )


def _sizes(value: Any) -> dict[int, int]:
    """Of each piece of memory in a value, its size; what several values share counts once."""
    return dict(buffers_of(value))
