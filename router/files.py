"""Files: what an owner keeps by name: uploads, pictures that jobs saved, data of a client's own."""

from __future__ import annotations

import asyncio
import itertools
import posixpath
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace as changed

from deployments.errors import Conflict, NotFound
from router.job import input_key
from router.store.files import FileKind, FileStore, StoredFile
from router.store.images import ImageStore

__all__ = ["FileKind", "Files", "StoredFile"]


class Files:
    """Names in a ``FileStore``, bytes in the ``ImageStore``; bytes always come first.

    Uploads lie under the hash of their content, as input pictures do, so that a job that needs one
    keeps it alive; what a job saves lies where its caller says.
    """

    def __init__(
        self, *, files: FileStore, images: ImageStore, clock: Callable[[], float] = time.time
    ) -> None:
        self._files = files
        self._images = images
        self._clock = clock

    async def find(self, *, owner: str, kind: FileKind, subfolder: str, name: str) -> StoredFile:
        """The file's row. Raises ``NotFound``."""
        file = await self._files.get(owner=owner, kind=kind, subfolder=subfolder, name=name)
        if file is None:
            raise NotFound(f"there is no file {posixpath.join(subfolder, name)!r}")
        return file

    async def read(self, file: StoredFile) -> bytes:
        """Its bytes. Raises ``NotFound`` when they were removed."""
        return await self._images.get(file.key)

    async def pin(self, file: StoredFile) -> str:
        """The key under which a job that needs the file keeps its bytes alive: what another job
        saved is copied, for it goes with that job. Raises ``NotFound``."""
        return file.key if file.job_id is None else await self._keep(await self.read(file))

    async def list(
        self, *, owner: str, kind: FileKind, subfolder: str | None = None
    ) -> Sequence[StoredFile]:
        """An owner's files in the order of their names; None is every subfolder."""
        return await self._files.list(owner=owner, kind=kind, subfolder=subfolder)

    async def write(
        self,
        data: bytes,
        *,
        owner: str,
        kind: FileKind,
        subfolder: str,
        name: str,
        replace: bool = True,
    ) -> StoredFile:
        """Keep a file, in place of another of that name, or else raise ``Conflict``."""
        file = await self._put(data, owner=owner, kind=kind, subfolder=subfolder, name=name)
        await self._add(file, replace=replace)
        return file

    async def upload(
        self, data: bytes, *, owner: str, kind: FileKind, subfolder: str, name: str
    ) -> StoredFile:
        """Keep a file; when its name is taken by other bytes, as ``name (1)``, ``name (2)``, ..."""
        file = await self._put(data, owner=owner, kind=kind, subfolder=subfolder, name=name)
        while not await self._files.add(file):
            folder = await self._files.list(owner=owner, kind=kind, subfolder=subfolder)
            keys = {kept.name: kept.key for kept in folder}
            free = next(other for other in _names(name) if keys.get(other) in (None, file.key))
            file = changed(file, name=free)
            if free in keys:
                await self._files.add(file, replace=True)  # the same bytes, written now
                break
        return file

    async def save(
        self,
        data: bytes,
        *,
        owner: str,
        kind: FileKind,
        subfolder: str,
        name: str,
        key: str,
        job_id: str,
        label: str,
    ) -> StoredFile:
        """Keep a job's file under the first free number; ``name`` holds ``{number:05}``.

        ``label`` says which of the job's files it is: an attempt that saves it again gets the file
        that an earlier one saved, with the new bytes.
        """
        await self._images.put(key, data)
        return await self._files.reserve(
            StoredFile(
                owner=owner,
                kind=kind,
                subfolder=subfolder,
                name=name,
                key=key,
                num_bytes=len(data),
                created_at=self._clock(),
                job_id=job_id,
                label=label,
            )
        )

    async def move(
        self, file: StoredFile, *, subfolder: str, name: str, replace: bool = True
    ) -> StoredFile:
        """Give a file another name, in place of another file of that name, or else raise
        ``Conflict``. Cut short, it leaves the file under both names."""
        moved = changed(file, subfolder=subfolder, name=name)
        if moved != file:
            await self._add(moved, replace=replace)
            await self._files.remove([file])
        return moved

    async def remove(self, file: StoredFile) -> None:
        """Forget a file."""
        await self._files.remove([file])

    async def _add(self, file: StoredFile, *, replace: bool) -> None:
        if not await self._files.add(file, replace=replace):
            raise Conflict(f"there is a file {posixpath.join(file.subfolder, file.name)!r} already")

    async def _put(
        self, data: bytes, *, owner: str, kind: FileKind, subfolder: str, name: str
    ) -> StoredFile:
        return StoredFile(
            owner=owner,
            kind=kind,
            subfolder=subfolder,
            name=name,
            key=await self._keep(data),
            num_bytes=len(data),
            created_at=self._clock(),
        )

    async def _keep(self, data: bytes) -> str:
        """Keep bytes as an input; their key."""
        key = await asyncio.to_thread(input_key, data)
        await self._images.put(key, data)
        return key


def _names(name: str) -> Iterator[str]:
    """A name, and those that stand in for it when it is taken."""
    yield name
    stem, extension = posixpath.splitext(name)
    for number in itertools.count(1):
        yield f"{stem} ({number}){extension}"
