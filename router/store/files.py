"""FileStore: the names of owners' files. Their bytes lie in the ``ImageStore``, by key."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import Literal, TypeAlias

from deployments.errors import InvalidRequest
from router.store.record import is_storable

#: What a client calls the folder: what it uploaded, what jobs saved for good or for a look, and
#: documents of its own.
FileKind: TypeAlias = Literal["input", "output", "temp", "userdata"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file of an owner.

    Attributes:
        owner, kind, subfolder, name: together they name it; ``subfolder`` is a relative path
            without slashes at its ends, or empty.
        key: where its bytes lie in the image store.
        num_bytes: their number.
        created_at: Unix seconds of the last writing.
        job_id: the job that saved it, or None.
        label: which of the job's files it is, so that another attempt finds it again; "" for none.
    """

    owner: str
    kind: FileKind
    subfolder: str
    name: str
    key: str
    num_bytes: int
    created_at: float
    job_id: str | None = None
    label: str = ""


class FileStore(ABC):
    """Rows of files. Every method is atomic; each may raise ``StorageFailure``, and those that keep
    a file ``InvalidRequest`` for a name that ``check_file`` refuses."""

    @abstractmethod
    async def get(
        self, *, owner: str, kind: FileKind, subfolder: str, name: str
    ) -> StoredFile | None:
        """The file, or None."""

    @abstractmethod
    async def add(self, file: StoredFile, *, replace: bool = False) -> bool:
        """Keep a file; False, and no change, when its name is taken and not to be replaced."""

    @abstractmethod
    async def reserve(self, file: StoredFile) -> StoredFile:
        """Keep a file of a job under the first free number.

        ``name`` holds ``{number:05}`` where the number goes: one more than the highest of the
        owner's files in the same folder whose names differ in nothing but the number, first 1.
        When a file with the same ``job_id`` and ``label`` is kept already, that one is returned,
        with the new key, size and time.
        """

    @abstractmethod
    async def list(
        self, *, owner: str, kind: FileKind, subfolder: str | None = None
    ) -> Sequence[StoredFile]:
        """An owner's files in the order of their names; None is every subfolder."""

    @abstractmethod
    async def of_job(self, job_id: str) -> Sequence[StoredFile]:
        """The files that a job saved."""

    @abstractmethod
    async def remove(self, files: Collection[StoredFile]) -> None:
        """Forget these very files: one that is gone, or was written anew, is no error and stays as
        it is. Their bytes stay: see ``Retention``."""

    @abstractmethod
    async def needed(self, keys: Collection[str]) -> frozenset[str]:
        """Those of the keys that a file names."""

    @abstractmethod
    async def older_than(
        self, moment: float, *, limit: int = 100, after: StoredFile | None = None
    ) -> Sequence[StoredFile]:
        """Files of no job written before a time (Unix seconds), the oldest first, from behind
        ``after`` on; a client's own documents (``userdata``) are not among them."""


def rewritten(kept: StoredFile, file: StoredFile) -> StoredFile:
    """The kept file with another's bytes."""
    return changed(kept, key=file.key, num_bytes=file.num_bytes, created_at=file.created_at)


def check_file(file: StoredFile) -> None:
    """Raise ``InvalidRequest`` unless every database can hold the file's names."""
    if not is_storable(file.name) or not is_storable(f"/{file.subfolder}"):
        raise InvalidRequest("a file's name is non-empty Unicode text without NUL characters")
