"""Uploads: safetensors files of the gateway's store, read from where the store's URL says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

#: Bytes of the largest header that is read.
MAX_HEADER_BYTES: Final = 64 * 2**20


@contextmanager
def upload_file(url: str, *, is_header_enough: bool = False) -> Iterator[Path]:
    """The upload as a file, as long as the context is open.

    Args:
        url: ``file://``, or of an object store, whose credentials come from its provider's usual
            environment variables.
        is_header_enough: whether the tensors may be holes: then only the header is fetched.

    Raises ``OSError`` when it cannot be read.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        yield Path(unquote(parts.path))
        return
    with TemporaryDirectory(prefix="atelier-") as folder:
        path = Path(folder) / "upload.safetensors"
        try:
            store, key = _open(url)
            _fetch_header(store, key, path) if is_header_enough else _fetch(store, key, path)
        except (BaseError, ValueError) as error:
            raise OSError("the upload cannot be fetched") from error
        yield path


def _open(url: str) -> tuple[ObjectStore, str]:
    parts = urlsplit(url)
    folder, _, key = parts.path.rpartition("/")
    config = dict(parse_qsl(parts.query))
    options = {"allow_http": config.get("endpoint_url", "").startswith("http://")}
    opened: Any = from_url  # its overloads know each provider's settings apart
    plain = parts._replace(path=folder, query="").geturl()
    return opened(plain, config=config, client_options=options), unquote(key)


def _fetch(store: ObjectStore, key: str, path: Path) -> None:
    with path.open("wb") as file:
        for chunk in obstore.get(store, key):
            file.write(chunk)


def _fetch_header(store: ObjectStore, key: str, path: Path) -> None:
    """A file with the upload's header and size, and nothing between."""
    size = obstore.head(store, key)["size"]
    start = bytes(obstore.get_range(store, key, start=0, length=min(8, size)))
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError("the header is too long")
    header = bytes(obstore.get_range(store, key, start=0, length=min(8 + length, size)))
    with path.open("wb") as file:
        file.write(header)
        file.truncate(size)
