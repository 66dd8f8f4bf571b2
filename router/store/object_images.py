"""ObjectImageStore: pictures on a disk, in S3 or in its like, through obstore."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore, from_url

from deployments.errors import NotFound, StorageFailure
from router.store.images import ImageStore, StoredObject, check_key

logger = logging.getLogger(__name__)

#: Seconds after which any one operation counts as failed, its retries included.
OPERATION_SECONDS: Final = 30.0
#: Seconds after which keeping a file of any length counts as failed.
FILE_SECONDS: Final = 3600.0
#: Parts of a URL's query that are secret.
SECRETS: Final = ("key", "secret", "token", "password", "credential")
#: How obstore tries again: a store that is gone shows within about ten seconds.
RETRY: Final[Any] = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=2),
        "base": 2,
    },
}
#: What a driver's words tell a caller, who must not see paths and class names.
REASONS: Final[Mapping[str, str]] = {
    "No space left": "the store of pictures is full",
    "quota exceeded": "the store of pictures is full",
    "File too large": "the store of pictures is full",
    "Read-only file system": "the store of pictures cannot be written",
    "Permission denied": "the store of pictures cannot be written",
    "Not a directory": "the store of pictures cannot be written",
    "NoSuchBucket": "the bucket of pictures does not exist",
    "AccessDenied": "the store of pictures refuses the credentials",
    "403 Forbidden": "the store of pictures refuses the credentials",
}


class ObjectImageStore(ImageStore):
    """Pictures under a URL.

    Args:
        url: a folder (``./generated_images``, ``file:///var/pictures``), ``s3://bucket/prefix`` or
            its like (``gs://``, ``az://``), or ``memory://``. Endpoint, region and credentials come
            from the provider's usual environment variables (``AWS_ENDPOINT_URL``, ...) or from the
            URL's query under the same names (``?endpoint_url=http://...``).
        seconds: bound of one operation.

    Raises:
        StorageFailure: the folder cannot be made.
        ValueError: the URL is of no known kind.
    """

    def __init__(self, url: str, *, seconds: float = OPERATION_SECONDS) -> None:
        self._seconds = seconds
        self._url = url
        self._store = _open(url)

    async def put(self, key: str, data: bytes) -> None:
        # NOTE: one request each: on disk obstore writes a file aside and renames it.
        check_key(key)
        async with self._bounded():
            try:
                await self._store.put_async(key, data, use_multipart=False)
            except FileNotFoundError as error:
                raise _failure(error) from error

    async def put_file(self, key: str, file: BinaryIO) -> None:
        # NOTE: the file is read in obstore's threads; disks write it aside and rename it, others
        # take it in parts and keep nothing until the last is there.
        check_key(key)
        async with _Bounded(FILE_SECONDS):
            try:
                await self._store.put_async(key, file)
            except FileNotFoundError as error:
                raise _failure(error) from error

    def url(self, key: str) -> str | None:
        check_key(key)
        return _public(self._url, key)

    async def get(self, key: str) -> bytes:
        check_key(key)
        async with self._bounded():
            try:
                found = await self._store.get_async(key)
                return bytes(await found.bytes_async())
            except FileNotFoundError as error:
                raise _missing(error) from error

    async def stat(self, key: str) -> StoredObject | None:
        check_key(key)
        async with self._bounded():
            try:
                return _stored(await self._store.head_async(key))
            except FileNotFoundError as error:
                if isinstance(_missing(error), NotFound):
                    return None
                raise _failure(error) from error

    async def delete(self, keys: Collection[str]) -> None:
        for key in keys:
            check_key(key)
        if not keys:
            return
        async with self._bounded():
            try:
                await self._store.delete_async(list(keys))
            except FileNotFoundError:  # some stores stop at a key that is not there: one by one
                for key in keys:
                    await self._remove(key)

    async def list(self, prefix: str = "") -> AsyncIterator[StoredObject]:
        if prefix:
            check_key(prefix)
        pages = self._store.list(prefix or None).__aiter__()
        while True:
            async with self._bounded():
                try:
                    page = await anext(pages, None)
                except FileNotFoundError as error:
                    raise _failure(error) from error
            if page is None:
                return
            for meta in page:
                yield _stored(meta)

    async def _remove(self, key: str) -> None:
        try:
            await self._store.delete_async(key)
        except FileNotFoundError as error:
            if not isinstance(_missing(error), NotFound):
                raise _failure(error) from error

    def _bounded(self) -> _Bounded:
        return _Bounded(self._seconds)


class _Bounded:
    """Bounds a block in time and turns what drivers raise into ``StorageFailure``."""

    def __init__(self, seconds: float) -> None:
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as late:
            raise StorageFailure("the store of pictures did not answer in time") from late
        if isinstance(error, BaseError | OSError):
            raise _failure(error) from error


def _open(url: str) -> ObjectStore:
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return MemoryStore()
    if parts.scheme in ("", "file"):
        folder = unquote(parts.path) if parts.scheme else url
        try:
            return LocalStore(Path(folder).expanduser(), mkdir=True, automatic_cleanup=True)
        except (BaseError, OSError) as error:
            raise _failure(error) from error
    config = {name.lower().removeprefix("aws_"): value for name, value in parse_qsl(parts.query)}
    options = _client_options(config.get("endpoint_url"), config.pop("allow_http", None))
    plain = parts._replace(query="").geturl()
    opened: Any = from_url  # its overloads know each provider's settings apart
    try:
        store: ObjectStore = opened(
            plain, config=config, client_options=options, retry_config=RETRY
        )
    except (BaseError, ValueError) as error:
        raise ValueError(
            f"the URL of the picture store ({parts.scheme}://...) cannot be used; accepted are a "
            "folder, file://, s3://bucket/prefix and its like, memory://"
        ) from error
    return store


def _public(url: str, key: str) -> str | None:
    """The URL of a key, its secrets left out; None for what is in this process's memory."""
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return None
    if parts.scheme in ("", "file"):
        folder = unquote(parts.path) if parts.scheme else url
        return (Path(folder).expanduser().resolve() / key).as_uri()
    settings = [
        (name, value)
        for name, value in parse_qsl(parts.query)
        if not any(secret in name.lower() for secret in SECRETS)
    ]
    path = "/".join((parts.path.rstrip("/"), quote(key)))
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, path=path, query=urlencode(settings)).geturl()


def _client_options(endpoint: str | None, allow_http: str | None) -> dict[str, object]:
    """Bounds of one request. An endpoint that is named with ``http://`` is meant so."""
    named = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    allowed = allow_http or os.environ.get("AWS_ALLOW_HTTP", "")
    return {
        "allow_http": (named or "").startswith("http://") or allowed.lower() in ("1", "true"),
        "connect_timeout": timedelta(seconds=5),
        "timeout": timedelta(seconds=20),
    }


def _stored(meta: Any) -> StoredObject:
    return StoredObject(
        key=meta["path"], num_bytes=meta["size"], modified_at=meta["last_modified"].timestamp()
    )


def _missing(error: FileNotFoundError) -> NotFound | StorageFailure:
    if "NoSuchBucket" in str(error):
        return _failure(error)
    return NotFound("there is no such picture")


def _failure(error: Exception) -> StorageFailure:
    words = str(error)
    logger.warning("picture store: %s", words.partition("\n")[0])
    for sign, reason in REASONS.items():
        if sign in words:
            return StorageFailure(reason)
    return StorageFailure("the store of pictures cannot be reached")
