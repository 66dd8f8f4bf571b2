"""MemoryFileStore: the names of owners' files in this process; nothing outlives it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace as changed

from router.store.files import FileKind, FileStore, StoredFile, check_file, rewritten
from router.store.numbering import highest, numbered


class MemoryFileStore(FileStore):
    """Files in a dictionary. Nothing awaits inside a method, so each is atomic."""

    def __init__(self) -> None:
        #: (owner, kind, subfolder, name) -> the file
        self._files: dict[tuple[str, FileKind, str, str], StoredFile] = {}

    async def get(
        self, *, owner: str, kind: FileKind, subfolder: str, name: str
    ) -> StoredFile | None:
        return self._files.get((owner, kind, subfolder, name))

    async def add(self, file: StoredFile, *, replace: bool = False) -> bool:
        check_file(file)
        if _place(file) in self._files and not replace:
            return False
        self._files[_place(file)] = file
        return True

    async def reserve(self, file: StoredFile) -> StoredFile:
        check_file(file)
        kept = next((other for other in self._files.values() if _is_same(other, file)), None)
        if kept is None:
            folder = _place(file)[:3]
            names = [name for *place, name in self._files if tuple(place) == folder]
            number = highest(file.name, names) + 1
            reserved = changed(file, name=numbered(file.name, number))
        else:
            reserved = rewritten(kept, file)
        self._files[_place(reserved)] = reserved
        return reserved

    async def list(
        self, *, owner: str, kind: FileKind, subfolder: str | None = None
    ) -> Sequence[StoredFile]:
        found = [
            file
            for file in self._files.values()
            if (file.owner, file.kind) == (owner, kind) and subfolder in (None, file.subfolder)
        ]
        return sorted(found, key=_place)

    async def of_job(self, job_id: str) -> Sequence[StoredFile]:
        return [file for file in self._files.values() if file.job_id == job_id]

    async def remove(self, files: Collection[StoredFile]) -> None:
        for file in files:
            if self._files.get(_place(file)) == file:
                del self._files[_place(file)]

    async def needed(self, keys: Collection[str]) -> frozenset[str]:
        return frozenset(file.key for file in self._files.values()).intersection(keys)

    async def older_than(
        self, moment: float, *, limit: int = 100, after: StoredFile | None = None
    ) -> Sequence[StoredFile]:
        first = (float("-inf"), "") if after is None else (after.created_at, after.key)
        found = [
            file
            for file in self._files.values()
            if file.job_id is None
            and file.kind != "userdata"
            and first < (file.created_at, file.key)
            and file.created_at < moment
        ]
        return sorted(found, key=lambda file: (file.created_at, file.key))[:limit]


def _place(file: StoredFile) -> tuple[str, FileKind, str, str]:
    return file.owner, file.kind, file.subfolder, file.name


def _is_same(kept: StoredFile, file: StoredFile) -> bool:
    """Whether an earlier attempt of the job saved this very file."""
    return bool(file.label) and (kept.job_id, kept.label) == (file.job_id, file.label)
