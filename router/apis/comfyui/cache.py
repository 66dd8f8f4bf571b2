"""NodeCache: what nodes gave before, so that unchanged ones need not run again."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from router.apis.comfyui.values import is_remote, num_bytes_of

MAX_ENTRIES: Final = 4096
MAX_BYTES: Final = 512 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a node gave.

    Attributes:
        values: its outputs, in order.
        output: the ``output`` of its ``executed`` message; None when it showed nothing.
    """

    values: tuple[Any, ...] = ()
    output: Mapping[str, list[Any]] | None = None

    @property
    def is_remote(self) -> bool:
        """Whether a value lies with a model's host, and is lost when that dies."""
        return any(map(is_remote, self.values))

    @property
    def num_bytes(self) -> int:
        """What keeping it costs."""
        return sum(num_bytes_of(value) for value in self.values)


@dataclass(slots=True)
class NodeCache:
    """Of every owner, the newest used, up to a number of entries and of bytes.

    Nothing of one owner is ever found by another. It may be asked from any thread.
    """

    max_entries: int = MAX_ENTRIES
    max_bytes: int = MAX_BYTES
    _entries: OrderedDict[tuple[str, str], Given] = field(default_factory=OrderedDict)
    _num_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, owner: str, key: str) -> Given | None:
        """What the node with this key gave, or None."""
        with self._lock:
            if (given := self._entries.get((owner, key))) is not None:
                self._entries.move_to_end((owner, key))
            return given

    def add(self, owner: str, key: str, given: Given) -> None:
        """Remember what a node gave; one that alone is too large is not."""
        if given.num_bytes > self.max_bytes:
            return
        with self._lock:
            self._remove((owner, key))
            self._entries[owner, key] = given
            self._num_bytes += given.num_bytes
            while self._num_bytes > self.max_bytes or len(self._entries) > self.max_entries:
                self._remove(next(iter(self._entries)))

    def clear(self, owner: str) -> None:
        """Forget everything of an owner."""
        with self._lock:
            for place in [place for place in self._entries if place[0] == owner]:
                self._remove(place)

    def drop_remote(self, owner: str) -> None:
        """Forget what lies with models' hosts, one of which may be gone."""
        with self._lock:
            remote = [
                place
                for place, given in self._entries.items()
                if place[0] == owner and given.is_remote
            ]
            for place in remote:
                self._remove(place)

    def _remove(self, place: tuple[str, str]) -> None:
        if (given := self._entries.pop(place, None)) is not None:
            self._num_bytes -= given.num_bytes


#: NOTE: of this gateway's process, for a job's script is a function that nobody constructs.
CACHE: Final = NodeCache()


def key_of(
    class_type: str,
    literals: Mapping[str, Any],
    links: Mapping[str, tuple[str, int]],
    contents: Mapping[str, str],
) -> str:
    """The key of a node: equal for nodes that give the same.

    Args:
        literals: its inputs that the client wrote, by name.
        links: for each other input, the key of the node that it comes from, and which output it is.
        contents: what strings among the literals stand for: the content of a file, a model's start.
    """
    meant = {
        name: contents[value]
        for name, value in literals.items()
        if isinstance(value, str) and value in contents
    }
    asked = json.dumps([class_type, literals, links, meant], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()
