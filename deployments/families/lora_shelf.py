"""Shelf: the LoRA files that a model can use: named ones, those of a folder, and owners' own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final, TypeAlias

from deployments.errors import GenerationFailed, InvalidRequest
from deployments.families.lora_digest import digest_of
from deployments.families.lora_file import Convert, Layers, is_lora, read_layers
from deployments.families.lora_place import EXTENSION, find_files, located, names_in, opened
from deployments.types import CheckedWeights

if TYPE_CHECKING:
    from torch.nn import Module

    from deployments.types import WeightsSource

logger = logging.getLogger(__name__)

#: Bytes of the files whose digests one look at the shelf works out, at least one file's.
DIGESTED_BYTES: Final = 256 * 2**20

#: What tells a file from another that takes its place: its number, size, and time of change.
Stamp: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Offered:
    """A file that fits, and how many numbers its factors have."""

    path: Path
    stamp: Stamp
    num_values: int


class Shelf:
    """Owns the table of a model's LoRA files. Any thread may call.

    Args:
        modules: part -> the base model's module.
        convert: knows the forms of the model's family.
        loras: name -> file, or hub id, as ``ModelConfig`` has it; each must fit.
        folder: whose files are offered, too, by their paths in it without the extension, but for
            those that do not fit, since many models may share one folder. A name in both is the
            former's.
    Raises:
        ValueError: see ``configure``.
    """

    def __init__(
        self,
        modules: Mapping[str, Module],
        convert: Convert,
        loras: Mapping[str, str] | None = None,
        folder: str | None = None,
    ) -> None:
        self._modules = dict(modules)
        self._convert = convert
        self._lock = Lock()
        self._looking = Lock()
        self._named: dict[str, Path] = {}
        self._folder: Path | None = None
        self._offered: dict[str, Offered] = {}
        self._refused: dict[Path, Stamp] = {}
        self._digests: dict[tuple[Path, Stamp], str] = {}
        self.configure(loras or {}, folder)
        self._digest()

    @property
    def names(self) -> tuple[str, ...]:
        """Names that requests may use, sorted."""
        with self._lock:
            return tuple(sorted(self._offered))

    @property
    def digests(self) -> tuple[tuple[str, str], ...]:
        """(name, digest) of those whose digest is known by now."""
        with self._lock:
            found = {n: self._digests.get((o.path, o.stamp)) for n, o in self._offered.items()}
        return tuple((name, digest) for name, digest in sorted(found.items()) if digest)

    def num_values(self, name: str) -> int:
        """How many numbers the factors of a file have; 0 of an unknown one."""
        with self._lock:
            offered = self._offered.get(name)
            return offered.num_values if offered else 0

    def stamp(self, name: str) -> Stamp | None:
        """Of the file as it was last looked at; None of an unknown one."""
        with self._lock:
            offered = self._offered.get(name)
            return offered.stamp if offered else None

    def configure(self, loras: Mapping[str, str], folder: str | None) -> frozenset[str]:
        """Offer other files; names of those that are gone or changed.

        Raises ``ValueError``, and stays as it was, when a named file cannot be read or is of
        another model, or when there is no such folder.
        """
        with self._looking:
            named, found = find_files(loras, folder)
            offered = {name: self._offer(name, path) for name, path in named.items()}
            self._named, self._folder = named, found
            return self._change({**self._listed(), **offered})

    def look(self) -> frozenset[str]:
        """Look at the files again: new ones are offered; names of those that are gone or changed.

        A named file that is not there, or that fits no more, stays as it was.
        """
        with self._looking:
            gone = self._change({**self._listed(), **dict(self._renewed())})
            self._digest()
            return gone

    def read(self, name: str, source: WeightsSource | None = None) -> Layers:
        """The layers of a LoRA, or of an owner's, where that is given.

        Raises ``InvalidRequest`` for an unknown name, ``GenerationFailed`` when it cannot be read.
        """
        try:
            if source is None:
                return self._read(self._find(name).path)
            with opened(source) as path:
                return self._read(path)
        except ValueError as error:
            logger.warning("LoRA %s: %s", name, error)
            raise GenerationFailed(f"LoRA {name!r} cannot be read: {error}") from error
        except OSError as error:
            logger.warning("LoRA %s is out of reach: %r", name, error)
            raise GenerationFailed(f"LoRA {name!r} is out of reach") from error

    def check(self, source: WeightsSource, max_bytes: int) -> CheckedWeights | None:
        """What a source holds, if it is a LoRA, by its header; None if it is not, or out of reach.

        Raises ``InvalidRequest`` for one that does not fit or has more bytes.
        """
        try:
            found = located(source, max_bytes)
            if found is None or not is_lora(names_in(found)):
                return None
            return self._check(found, max_bytes)
        except ValueError as error:
            raise InvalidRequest(f"the LoRA does not fit: {error}", param="weights") from error
        except OSError as error:
            logger.warning("LoRA %s is out of reach: %r", source.id, error)
            return None

    def _check(self, source: WeightsSource, max_bytes: int) -> CheckedWeights:
        with opened(source, is_header_enough=True) as path:
            num_bytes = path.stat().st_size
            if num_bytes > max_bytes:
                raise ValueError(f"it has {num_bytes} bytes; accepted: at most {max_bytes}")
            layers = self._read(path, is_meta=True)
        with opened(source) as path:
            digest = digest_of(path)
        return CheckedWeights(
            location=source.location,
            parts=tuple(part for part, own in layers.items() if own),
            num_bytes=num_bytes,
            is_lora=True,
            digest=digest,
            num_values=_num_values(layers),
        )

    def _find(self, name: str) -> Offered:
        with self._lock:
            offered = self._offered.get(name)
        if offered is None:
            known = ", ".join(self.names) or "none"
            raise InvalidRequest(f"unknown LoRA {name!r}; known: {known}", param="loras")
        return offered

    def _listed(self) -> dict[str, Offered]:
        """The folder's files that fit."""
        if self._folder is None:
            return {}
        listed = {}
        for path in sorted(self._folder.rglob(f"*{EXTENSION}")):
            name = path.relative_to(self._folder).with_suffix("").as_posix()
            stamp = _stamp(path)
            if stamp is None or self._refused.get(path) == stamp:
                continue
            try:
                listed[name] = self._offer(name, path)
            except ValueError as error:
                logger.warning("%s; it is left out", error)
                self._refused[path] = stamp
        return listed

    def _renewed(self) -> Iterator[tuple[str, Offered]]:
        """The named files; one that is not there, or fits no more, as it was."""
        for name, path in self._named.items():
            try:
                yield name, self._offer(name, path)
            except ValueError:
                yield name, self._offered[name]

    def _offer(self, name: str, path: Path) -> Offered:
        """The file, looked into unless it is as it was. Raises ``ValueError`` unless it fits."""
        stamp, known = _stamp(path), self._offered.get(name)
        if known is not None and (known.path, known.stamp) == (path, stamp):
            return known
        try:
            if stamp is None:
                raise ValueError("there is no such file")
            layers = self._read(path, is_meta=True)
        except ValueError as error:
            raise ValueError(f"LoRA {name!r} does not fit this model: {error}") from error
        return Offered(path, stamp, _num_values(layers))

    def _change(self, offered: dict[str, Offered]) -> frozenset[str]:
        with self._lock:
            before, self._offered = self._offered, offered
        return frozenset(name for name, one in before.items() if offered.get(name) != one)

    def _digest(self) -> None:
        """Work out digests that are not known yet, so many at once that nobody waits for long."""
        num_bytes = 0
        for offered in self._offered.values():
            place = offered.path, offered.stamp
            if place in self._digests or num_bytes > DIGESTED_BYTES:
                continue
            num_bytes += offered.stamp[1]
            try:
                self._digests[place] = digest_of(offered.path)
            except (OSError, ValueError):
                self._digests[place] = ""

    def _read(self, path: Path, *, is_meta: bool = False) -> Layers:
        return read_layers(path, self._modules, self._convert, is_meta=is_meta)


def _stamp(path: Path) -> Stamp | None:
    """None when there is no such file."""
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_ino, told.st_size, told.st_mtime_ns


def _num_values(layers: Layers) -> int:
    lows = (low for own in layers.values() for low in own.values())
    return sum(low.down.numel() + low.up.numel() for low in lows)
