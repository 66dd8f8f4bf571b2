"""FileName: the names by which clients ask for files, and the path that each may stand for."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Final

from deployments.errors import InvalidRequest
from router.files import FileKind, Files, StoredFile

#: The longest name between two slashes, and the longest path, in bytes of UTF-8.
MAX_NAME_BYTES: Final = 240
MAX_PATH_BYTES: Final = 1024
#: What clients call the folders that pictures are in.
FOLDERS: Final[tuple[FileKind, ...]] = ("input", "output", "temp")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileName:
    """A name in a folder; ``subfolder`` as of ``StoredFile``."""

    subfolder: str
    name: str

    @property
    def path(self) -> str:
        """``subfolder/name``, or the name alone."""
        return posixpath.join(self.subfolder, self.name)


def parse_name(path: str, *, within: str = "") -> FileName:
    """The file that a relative path stands for, below a subfolder.

    Raises ``InvalidRequest`` where that is none, or not within.
    """
    folder = parse_folder(within)
    whole = parse_folder(posixpath.join(folder, _slashed(path)) if folder else path)
    subfolder, name = posixpath.split(whole)
    is_within = not folder or f"{subfolder}/".startswith(f"{folder}/")
    if not name or not is_within or path.endswith(("/", "\\")):
        raise _no_name(path)
    return FileName(subfolder=subfolder, name=name)


def parse_folder(path: str) -> str:
    """The subfolder that a relative path stands for; empty for the folder itself."""
    whole = posixpath.normpath(_slashed(path)) if path else "."
    parts = whole.split("/")
    is_safe = not whole.startswith("/") and parts[0] != ".." and whole.isprintable()
    is_short = all(num_bytes(part) <= MAX_NAME_BYTES for part in parts)
    if not is_safe or not is_short or num_bytes(whole) > MAX_PATH_BYTES:
        raise _no_name(path)
    return "" if whole == "." else whole


def parse_kind(name: str) -> FileKind | None:
    """The folder of this name; None when there is none."""
    return next((kind for kind in FOLDERS if kind == name), None)


def split_annotation(name: str) -> tuple[str, FileKind | None]:
    """A name without its ``[input]``, ``[output]`` or ``[temp]`` at the end, and what that said."""
    for kind in FOLDERS:
        if name.endswith(f" [{kind}]"):
            return name.removesuffix(f" [{kind}]"), kind
    return name, None


async def resolve_input(files: Files, owner: str, name: str) -> StoredFile:
    """The file that a node's input names: ``name`` or ``subfolder/name`` of an upload, or, with
    `` [output]`` or `` [temp]`` at its end, of what jobs saved.

    Raises ``NotFound``, and ``InvalidRequest`` for what can be no name.
    """
    path, kind = split_annotation(name)
    place = parse_name(path)
    return await files.find(
        owner=owner, kind=kind or "input", subfolder=place.subfolder, name=place.name
    )


def num_bytes(text: str) -> int:
    """The length of a text in UTF-8."""
    return len(text.encode(errors="replace"))


def _slashed(path: str) -> str:
    return path.replace("\\", "/")


def _no_name(path: str) -> InvalidRequest:
    return InvalidRequest(
        f"{path!r:.200} cannot name a file; accepted: a relative path of printable names of at "
        f"most {MAX_NAME_BYTES} bytes"
    )
