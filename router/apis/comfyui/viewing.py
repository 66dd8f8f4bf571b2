"""Viewing: ``GET /view``, a stored file as it is, or a rendition of a picture."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, Literal

from starlette.requests import Request
from starlette.responses import Response

from deployments.errors import InvalidRequest, NotFound
from router.apis.comfyui.file_names import parse_folder, parse_kind, parse_name, split_annotation
from router.apis.comfyui.rendition import (
    PREVIEW_QUALITY,
    alpha_alone,
    to_preview,
    without_alpha,
)
from router.apis.comfyui.sending import disposition_of, send_file
from router.apis.route import owner_of
from router.files import Files, StoredFile

#: Pictures that are decoded at once: each may take a quarter of a gigabyte.
DECODED_AT_ONCE: Final = 2


class Viewing:
    """The handlers of ``/view`` and ``/view_metadata``. What ComfyUI refuses with an empty body is
    so refused here."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._decoding = asyncio.Semaphore(DECODED_AT_ONCE)

    async def view(self, request: Request) -> Response:
        """The file that ``filename``, ``subfolder`` and ``type`` name."""
        query = request.query_params
        if "filename" not in query:
            return Response(status_code=404)
        filename, annotated = split_annotation(query["filename"])
        kind = annotated or parse_kind(query.get("type", "output"))
        if kind is None or not filename or filename.startswith("/") or ".." in filename:
            return Response(status_code=400)
        try:
            subfolder = parse_folder(query.get("subfolder", ""))
        except InvalidRequest:
            return Response(status_code=403)
        try:
            name = parse_name(filename).name  # folders count in ``subfolder`` alone
            file = await self._files.find(
                owner=owner_of(request), kind=kind, subfolder=subfolder, name=name
            )
            data = await self._files.read(file)
        except (InvalidRequest, NotFound):
            return Response(status_code=404)
        return await self._send(request, file, data)

    async def metadata(self) -> Response:
        """What a file of weights says of itself: no folder of weights can be seen from here."""
        return Response(status_code=404)

    async def _send(self, request: Request, file: StoredFile, data: bytes) -> Response:
        query = request.query_params
        channel = query.get("channel", "rgba")
        if "preview" in query:
            image_format, quality = _parse_preview(query["preview"], query.get("channel", ""))
            is_opaque = image_format == "jpeg" or channel == "rgb"
            render = partial(
                to_preview, image_format=image_format, quality=quality, is_opaque=is_opaque
            )
            return await self._render(render, file, data, f"image/{image_format}")
        if channel == "rgb":
            return await self._render(without_alpha, file, data, "image/png")
        if channel == "a":
            return await self._render(alpha_alone, file, data, "image/png")
        return send_file(request, data, name=file.name)

    async def _render(
        self, render: Callable[[bytes], bytes], file: StoredFile, data: bytes, media_type: str
    ) -> Response:
        async with self._decoding:
            rendition = await asyncio.to_thread(render, data)
        headers = {"Content-Disposition": disposition_of(file.name)}
        return Response(rendition, media_type=media_type, headers=headers)


def _parse_preview(text: str, channel: str) -> tuple[Literal["webp", "jpeg"], int]:
    """Format and quality of ``webp;90``, ``jpeg;75`` or ``webp``; what is unknown, and what needs
    alpha, is WebP."""
    wanted, *_, last = text.split(";") if ";" in text else (text, "")
    is_number = last.isascii() and last.isdigit() and len(last) < 9
    quality = min(100, max(1, int(last))) if is_number else PREVIEW_QUALITY
    return ("jpeg" if wanted == "jpeg" and "a" not in channel else "webp"), quality
