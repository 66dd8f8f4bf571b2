"""ImageStore: the bytes of pictures. One interface; in memory, on disk or in an object store."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from typing import BinaryIO, Final

from deployments.errors import InvalidRequest, NotFound

#: Longest key in bytes of UTF-8, and longest name between two slashes: what S3 and disks take.
MAX_KEY_BYTES: Final = 1024
MAX_NAME_BYTES: Final = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """One kept object: its key, size in bytes and time of writing (Unix seconds)."""

    key: str
    num_bytes: int
    modified_at: float


class ImageStore(ABC):
    """Bytes by key. Every method raises ``InvalidRequest`` for a key that ``check_key`` refuses."""

    @abstractmethod
    async def put(self, key: str, data: bytes) -> None:
        """Keep bytes, whole or not at all, replacing what was there. Raises ``StorageFailure``."""

    @abstractmethod
    async def put_file(self, key: str, file: BinaryIO) -> None:
        """Keep what a file holds from where it stands, of any length, never whole in memory (but
        in a store that is memory); as ``put`` otherwise."""

    @abstractmethod
    def url(self, key: str) -> str | None:
        """Where other processes read the key's bytes, without credentials: those that a store needs
        come from its provider's usual environment variables. None when none can."""

    @abstractmethod
    async def get(self, key: str) -> bytes:
        """The bytes. Raises ``NotFound``, or ``StorageFailure`` when the store is out of reach."""

    @abstractmethod
    async def stat(self, key: str) -> StoredObject | None:
        """Size and time of a key; None when it is not kept."""

    async def has(self, key: str) -> bool:
        """Whether the key is kept."""
        return await self.stat(key) is not None

    @abstractmethod
    async def delete(self, keys: Collection[str]) -> None:
        """Remove keys; those that are not there are no error."""

    @abstractmethod
    def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        """Every object under a prefix (a folder name, without a slash at its end)."""


class MemoryImageStore(ImageStore):
    """Bytes in this process, for tests and for a gateway that need not outlive its process."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._objects: dict[str, tuple[bytes, float]] = {}

    async def put(self, key: str, data: bytes) -> None:
        check_key(key)
        self._objects[key] = (bytes(data), self._clock())

    async def put_file(self, key: str, file: BinaryIO) -> None:
        await self.put(key, file.read())

    def url(self, key: str) -> str | None:  # noqa: ARG002
        return None

    async def get(self, key: str) -> bytes:
        check_key(key)
        if key not in self._objects:
            raise NotFound("there is no such picture")
        return self._objects[key][0]

    async def stat(self, key: str) -> StoredObject | None:
        check_key(key)
        kept = self._objects.get(key)
        return kept and StoredObject(key=key, num_bytes=len(kept[0]), modified_at=kept[1])

    async def delete(self, keys: Collection[str]) -> None:
        for key in keys:
            check_key(key)
            self._objects.pop(key, None)

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        if prefix:
            check_key(prefix)
        for key, (data, modified_at) in list(self._objects.items()):
            if not prefix or key.startswith(f"{prefix}/"):
                yield StoredObject(key=key, num_bytes=len(data), modified_at=modified_at)


def is_key(key: str) -> bool:
    """Whether every store can keep bytes under this key, and nothing but that.

    A key is a relative path of printable names with ``/`` between them. ``#`` is refused because
    disks hold unfinished writes under names that end in ``#1``.
    """
    names = key.split("/")
    return (
        key.isprintable()
        and not any(sign in key for sign in "\\#")
        and len(key.encode(errors="replace")) <= MAX_KEY_BYTES
        and all(name not in ("", ".", "..") for name in names)
        and all(len(name.encode(errors="replace")) <= MAX_NAME_BYTES for name in names)
    )


def check_key(key: str) -> None:
    """Raise ``InvalidRequest`` unless ``is_key``."""
    if not is_key(key):
        raise InvalidRequest(
            f"{key[:80]!r} is no key; a key is a relative path of printable names, without '..', "
            "backslashes or '#'"
        )
