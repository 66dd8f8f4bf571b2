"""The routes of files: what clients upload, view and keep here, and their settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from starlette.responses import Response

from router.apis.comfyui.internal import Internal
from router.apis.comfyui.origin import guarded_route
from router.apis.comfyui.preferences import Preferences
from router.apis.comfyui.uploading import Uploading
from router.apis.comfyui.userdata import UserData
from router.apis.comfyui.viewing import Viewing
from router.auth import Authenticator
from router.service import GenerationService
from router.store.options import OptionStore


def file_routes(service: GenerationService, auth: Authenticator, options: OptionStore) -> APIRouter:
    """The routes as they stand without ``/api`` before them."""
    uploading, viewing = Uploading(service.files), Viewing(service.files)
    data, preferences, internal = UserData(service.files), Preferences(options), Internal(service)
    table: tuple[tuple[str, str, Callable[..., Awaitable[Response]]], ...] = (
        ("POST", "/upload/image", uploading.image),
        ("POST", "/upload/mask", uploading.mask),
        ("GET", "/view", viewing.view),
        ("HEAD", "/view", viewing.view),
        ("GET", "/view_metadata/{folder:path}", viewing.metadata),
        ("GET", "/userdata", data.list),
        ("GET", "/v2/userdata", data.tree),
        ("GET", "/userdata/{file:path}", data.get),
        ("POST", "/userdata/{file:path}", data.post),
        ("DELETE", "/userdata/{file:path}", data.delete),
        ("GET", "/settings", preferences.settings),
        ("POST", "/settings", preferences.set_settings),
        ("GET", "/settings/{id:path}", preferences.setting),
        ("POST", "/settings/{id:path}", preferences.set_setting),
        ("GET", "/users", preferences.users),
        ("GET", "/internal/logs", internal.logs),
        ("GET", "/internal/logs/raw", internal.raw_logs),
        ("PATCH", "/internal/logs/subscribe", internal.subscribe),
        ("GET", "/internal/folder_paths", internal.folder_paths),
        ("GET", "/internal/files/{kind}", internal.files),
    )
    router = APIRouter(route_class=guarded_route(auth), tags=["ComfyUI"])
    for method, path, handler in table:
        router.add_api_route(path, handler, methods=[method], response_model=None)
    return router
