"""Uploading: pictures that clients send, and masks for pictures that are there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from deployments.errors import InvalidRequest
from router.apis.body import parse_json
from router.apis.comfyui.file_names import FileName, parse_kind, parse_name, split_annotation
from router.apis.comfyui.rendition import with_alpha_of
from router.apis.route import owner_of
from router.files import FileKind, Files
from router.pictures import inspect

#: Masks that are laid into pictures at once: either may take a quarter of a gigabyte.
MASKS_AT_ONCE: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A form of an upload, read whole."""

    data: bytes
    filename: str
    kind: FileKind
    subfolder: str
    is_overwriting: bool
    original_ref: str


class Uploading:
    """The handlers of ``/upload``. What ComfyUI refuses with an empty body is so refused here."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._masks = asyncio.Semaphore(MASKS_AT_ONCE)

    async def image(self, request: Request) -> Response:
        """``POST /upload/image``: keep a picture as it is."""
        upload = await _read(request)
        if upload is None:
            return Response(status_code=400)
        await asyncio.to_thread(inspect, upload.data)
        return await self._keep(request, upload, upload.data)

    async def mask(self, request: Request) -> Response:
        """``POST /upload/mask``: keep the colours of a picture that is there with the alpha of the
        one that is sent."""
        upload = await _read(request)
        if upload is None or (original := _parse_reference(upload.original_ref)) is None:
            return Response(status_code=400)
        kind, place = original
        owner = owner_of(request)
        kept = await self._files.find(
            owner=owner, kind=kind, subfolder=place.subfolder, name=place.name
        )
        async with self._masks:
            data = await asyncio.to_thread(with_alpha_of, await self._files.read(kept), upload.data)
        return await self._keep(request, upload, data)

    async def _keep(self, request: Request, upload: Upload, data: bytes) -> Response:
        try:
            place = parse_name(upload.filename, within=upload.subfolder)
        except InvalidRequest:
            return Response(status_code=400)
        keep = self._files.write if upload.is_overwriting else self._files.upload
        kept = await keep(
            data,
            owner=owner_of(request),
            kind=upload.kind,
            subfolder=place.subfolder,
            name=place.name,
        )
        told = {"name": kept.name, "subfolder": kept.subfolder, "type": kept.kind}
        return JSONResponse(told)


async def _read(request: Request) -> Upload | None:
    """The form; None when a part is missing, or no folder has its type."""
    try:
        async with request.form() as form:
            return await _parse(form)
    except (ValueError, UnicodeError):
        raise InvalidRequest("the body is not a valid multipart form") from None


async def _parse(form: FormData) -> Upload | None:
    image, kind = form.get("image"), parse_kind(_text(form, "type") or "input")
    if not isinstance(image, UploadFile) or not image.filename or kind is None:
        return None
    return Upload(
        data=await image.read(),
        filename=image.filename,
        kind=kind,
        subfolder=_text(form, "subfolder"),
        is_overwriting=_text(form, "overwrite") in ("true", "1"),
        original_ref=_text(form, "original_ref"),
    )


def _text(form: FormData, name: str) -> str:
    value = form.get(name)
    return value if isinstance(value, str) else ""


def _parse_reference(text: str) -> tuple[FileKind, FileName] | None:
    """The picture that ``{"filename", "subfolder", "type"}`` names; None when it names none."""
    try:
        reference: Any = parse_json(text)
        filename, annotated = split_annotation(reference["filename"])
        place = parse_name(filename, within=reference.get("subfolder") or "")
        kind = annotated or parse_kind(reference.get("type", "output"))
    except (TypeError, KeyError, AttributeError, InvalidRequest):
        return None
    return None if kind is None else (kind, place)
