"""UserData: documents that a client keeps here, such as its workflows; each owner has his own."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from deployments.errors import Conflict, InvalidRequest, NotFound
from router.apis.comfyui.file_names import FileName, parse_folder, parse_name
from router.apis.comfyui.sending import send_file
from router.apis.route import owner_of
from router.files import FileKind, Files, StoredFile

KIND: Final[FileKind] = "userdata"
PATH: Final = "/userdata/"


class UserData:
    """The handlers of ``/userdata``; refusals are ComfyUI's, plain text or empty."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def list(self, request: Request) -> Response:
        """``GET /userdata?dir=``: the files of a folder, with ``recurse=true`` of those in it."""
        query = request.query_params
        if not query.get("dir"):
            return PlainTextResponse("Directory not provided", status_code=400)
        try:
            folder = parse_folder(unquote(query["dir"]))
        except InvalidRequest:
            return PlainTextResponse("Invalid directory", status_code=403)
        found = await self._below(request, folder)
        if not found and folder:
            return PlainTextResponse("Directory not found", status_code=404)
        listed = []
        for file in found:
            path = _path(file).removeprefix(f"{folder}/")
            is_hidden = any(part.startswith(".") for part in path.split("/"))
            if not is_hidden and (_is_set(request, "recurse") or "/" not in path):
                listed.append(_told(request, file, path, may_split=True))
        return JSONResponse(listed)

    async def tree(self, request: Request) -> Response:
        """``GET /v2/userdata?path=``: everything below a folder, folders first."""
        try:
            folder = parse_folder(unquote(request.query_params.get("path", "")))
        except InvalidRequest:
            return PlainTextResponse("Invalid path requested", status_code=400)
        found = await self._below(request, folder)
        if not found and folder:
            if any(_path(file) == folder for file in await self._below(request, "")):
                return PlainTextResponse("Requested path is not a directory", status_code=400)
            return PlainTextResponse("Requested path not found", status_code=404)
        entries: list[dict[str, Any]] = [
            {"name": posixpath.basename(path), "path": path, "type": "directory"}
            for path in _folders(found, below=folder)
        ]
        entries.extend(
            {
                "name": file.name,
                "path": _path(file),
                "type": "file",
                "size": file.num_bytes,
                "modified": file.created_at,
            }
            for file in found
        )
        entries.sort(key=lambda entry: (entry["type"] != "directory", entry["name"].lower()))
        return JSONResponse(entries)

    async def get(self, request: Request) -> Response:
        """``GET /userdata/{file}``: never shown in the page, for anything may be in it."""
        try:
            file = await self._find(request, _parse_paths(request)[0])
            data = await self._files.read(file)
        except InvalidRequest:
            return Response(status_code=403)
        except NotFound:
            return Response(status_code=404)
        return send_file(request, data, name=file.name, disposition="attachment")

    async def post(self, request: Request) -> Response:
        """``POST /userdata/{file}`` keeps the body; ``POST /userdata/{file}/move/{dest}`` moves."""
        try:
            source, destination = _parse_paths(request)
        except InvalidRequest:
            return Response(status_code=403)
        try:
            if destination is None:
                kept = await self._write(request, source)
            else:
                kept = await self._move(request, source, destination)
        except NotFound:
            return Response(status_code=404)
        except Conflict:
            return PlainTextResponse("File already exists", status_code=409)
        return JSONResponse(_told(request, kept, _path(kept)))

    async def delete(self, request: Request) -> Response:
        """``DELETE /userdata/{file}``."""
        try:
            file = await self._find(request, _parse_paths(request)[0])
        except InvalidRequest:
            return Response(status_code=403)
        except NotFound:
            return Response(status_code=404)
        await self._files.remove(file)
        return Response(status_code=204)

    async def _write(self, request: Request, place: FileName) -> StoredFile:
        return await self._files.write(
            await request.body(),
            owner=owner_of(request),
            kind=KIND,
            subfolder=place.subfolder,
            name=place.name,
            replace=_is_overwriting(request),
        )

    async def _move(self, request: Request, source: FileName, destination: FileName) -> StoredFile:
        return await self._files.move(
            await self._find(request, source),
            subfolder=destination.subfolder,
            name=destination.name,
            replace=_is_overwriting(request),
        )

    async def _find(self, request: Request, place: FileName) -> StoredFile:
        return await self._files.find(
            owner=owner_of(request), kind=KIND, subfolder=place.subfolder, name=place.name
        )

    async def _below(self, request: Request, folder: str) -> Sequence[StoredFile]:
        """Every file in a folder and in those within."""
        files = await self._files.list(owner=owner_of(request), kind=KIND)
        if not folder:
            return files
        return [file for file in files if f"{file.subfolder}/".startswith(f"{folder}/")]


def _parse_paths(request: Request) -> tuple[FileName, FileName | None]:
    """The file, and where it is to be moved if it is.

    A name's own slashes come percent-encoded, so the path is read as it was sent. Raises
    ``InvalidRequest`` for what can be no name.
    """
    raw: bytes = request.scope.get("raw_path") or quote(request.url.path).encode()
    sent = raw.decode("latin-1").partition(PATH)[2].partition("?")[0]
    source, is_moved, destination = sent.partition("/move/")
    moves = request.method == "POST" and bool(is_moved)
    if not moves:
        return _parse_path(sent), None
    return _parse_path(source), _parse_path(destination)


def _parse_path(sent: str) -> FileName:
    path = unquote(sent)
    return parse_name(unquote(path) if "%" in path else path)  # some clients encode twice


def _path(file: StoredFile) -> str:
    return posixpath.join(file.subfolder, file.name)


def _folders(files: Sequence[StoredFile], *, below: str) -> Sequence[str]:
    """Every folder below one that a file is in."""
    found = set()
    for file in files:
        folder = file.subfolder
        while folder not in ("", below):
            found.add(folder)
            folder = posixpath.dirname(folder)
    return sorted(found)


def _told(request: Request, file: StoredFile, path: str, *, may_split: bool = False) -> Any:
    """The path; with ``full_info=true`` also size and times, in milliseconds since 1970."""
    if _is_set(request, "full_info"):
        moment = int(file.created_at * 1000)
        return {"path": path, "size": file.num_bytes, "modified": moment, "created": moment}
    if may_split and _is_set(request, "split"):
        return [path, *path.split("/")]
    return path


def _is_set(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() == "true"


def _is_overwriting(request: Request) -> bool:
    return request.query_params.get("overwrite", "true") != "false"
