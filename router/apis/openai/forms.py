"""Multipart forms: their texts and files, and which dialect the files' name speaks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from deployments.errors import InvalidRequest, RequestTooLarge
from router.apis.body import MAX_BODY_BYTES

#: ``openai``: files named ``image`` or ``image[]``. ``images``: files of that name.
Dialect: TypeAlias = Literal["openai", "images"]

#: Where a request's scope keeps its dialect, for whoever dresses a failure.
DIALECT_KEY: Final = "atelier.images_dialect"

_FORM_TYPES: Final = ("multipart/form-data", "application/x-www-form-urlencoded")
_PART_NAME: Final = re.compile(
    rb'content-disposition:[^\r\n]{0,200}?[; ]name="?(images?(?:\[\])?)["\r\n;]', re.IGNORECASE
)
#: Bytes kept of the chunk before, so that a part's name is found across the seam.
_OVERLAP: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form, read whole: texts by name (the last one counts), files in the order they came.

    Its dialect is the name of the pictures' field alone: OpenAI's wins, none at all is ``images``.
    """

    texts: dict[str, str]
    files: tuple[tuple[str, bytes], ...]
    dialect: Dialect

    def named(self, *names: str) -> tuple[bytes, ...]:
        """The files that came under any of these names."""
        return tuple(data for name, data in self.files if name in names)

    @property
    def digest(self) -> bytes:
        """A hash of what the form says, whatever its boundary."""
        whole = hashlib.sha256()
        for name, data in (*((n, t.encode()) for n, t in sorted(self.texts.items())), *self.files):
            whole.update(f"{len(name.encode())} {name} {len(data)} ".encode() + data)
        return whole.digest()


class PartNames:
    """Reads the names of pictures' parts out of a body that passes by."""

    def __init__(self) -> None:
        self._names: set[bytes] = set()
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        """Look at the next bytes of the body."""
        window = self._tail + chunk
        self._names.update(name.lower() for name in _PART_NAME.findall(window))
        self._tail = window[-_OVERLAP:]

    @property
    def dialect(self) -> Dialect:
        """The dialect, as far as the body has passed."""
        is_openai = any(not name.startswith(b"images") for name in self._names)
        return "openai" if is_openai else "images"


def is_form(request: Request) -> bool:
    """Whether the body says that it is a form."""
    content_type = request.headers.get("content-type", "").partition(";")[0]
    return content_type.strip().lower() in _FORM_TYPES


async def read_form(request: Request) -> Form:
    """The form, and its dialect kept in the scope even when it cannot be read.

    Raises ``InvalidRequest``, and ``RequestTooLarge`` for bodies beyond the limit.
    """
    names = PartNames()
    try:
        form = await _collect(await _parse(request, names))
    except RequestTooLarge:
        request.scope[DIALECT_KEY] = await peek_dialect(request, names)
        raise
    except (InvalidRequest, HTTPException):
        request.scope[DIALECT_KEY] = names.dialect
        raise
    # A form that was cut off has lost its last part, but that part's name has passed by.
    form = replace(form, dialect=form.dialect if form.files else names.dialect)
    request.scope[DIALECT_KEY] = form.dialect
    return form


async def peek_dialect(request: Request, names: PartNames | None = None) -> Dialect:
    """The dialect of a request that is refused: reads on, keeps nothing, and stops early.

    At most ``MAX_BODY_BYTES`` pass by; a body that is not a form speaks OpenAI's.
    """
    if not is_form(request):
        return "openai"
    names = names or PartNames()
    num_bytes = 0
    try:
        async for chunk in Request(request.scope, request.receive).stream():
            names.feed(chunk)
            num_bytes += len(chunk)
            if names.dialect == "openai" or num_bytes > MAX_BODY_BYTES or not chunk:
                break
    except ClientDisconnect:
        pass
    return names.dialect


async def _collect(data: FormData) -> Form:
    texts, files = {}, []
    for name, value in data.multi_items():
        if isinstance(value, UploadFile):
            files.append((name, await value.read()))
        else:
            texts[name] = value
    await data.close()
    is_openai = not {"image", "image[]"}.isdisjoint([*texts, *(name for name, _ in files)])
    return Form(texts=texts, files=tuple(files), dialect="openai" if is_openai else "images")


async def _parse(request: Request, names: PartNames) -> FormData:
    if not request.headers.get("content-type", "").lower().startswith("multipart/"):
        return await request.form(max_part_size=MAX_BODY_BYTES)

    async def watched() -> AsyncGenerator[bytes, None]:
        async for chunk in request.stream():
            names.feed(chunk)
            yield chunk

    try:
        parser = MultiPartParser(request.headers, watched(), max_part_size=MAX_BODY_BYTES)
        return await parser.parse()
    except (MultiPartException, ValueError, UnicodeError):
        raise InvalidRequest("the body is not a valid multipart form") from None
