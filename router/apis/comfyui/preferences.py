"""Preferences: settings of a client's pages, kept per owner, and who the users are."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from router.apis.comfyui.body import read_object
from router.apis.comfyui.entry import API
from router.apis.route import owner_of
from router.store.options import OptionStore

#: There is one user, whose settings are kept here and not in the browser.
USERS: Final = {"storage": "server", "migrated": True}


class Preferences:
    """The handlers of ``/settings`` and ``/users``."""

    def __init__(self, options: OptionStore) -> None:
        self._options = options

    async def settings(self, request: Request) -> Response:
        """``GET /settings``: everything that was set."""
        return JSONResponse(await self._kept(request))

    async def setting(self, request: Request) -> Response:
        """``GET /settings/{id}``: null when it was not set."""
        return JSONResponse((await self._kept(request)).get(request.path_params["id"]))

    async def set_settings(self, request: Request) -> Response:
        """``POST /settings``: the others stay."""
        await self._options.update(await read_object(request), owner=owner_of(request), api=API)
        return Response()

    async def set_setting(self, request: Request) -> Response:
        """``POST /settings/{id}``."""
        changes = {request.path_params["id"]: await request.json()}
        await self._options.update(changes, owner=owner_of(request), api=API)
        return Response()

    async def users(self) -> Response:
        """``GET /users``."""
        return JSONResponse(USERS)

    async def _kept(self, request: Request) -> dict[str, Any]:
        return await self._options.get(owner=owner_of(request), api=API)
