"""The API of ComfyUI's server: graphs, their queue and history, files, and what happens live."""

from __future__ import annotations

from typing import Final

from router.apis.comfyui.discovery import FEATURES
from router.apis.comfyui.errors import render_error
from router.apis.comfyui.live import Live
from router.apis.comfyui.routes import routes

#: NOTE: of ``/api`` what no API before this one in ``router.app``'s table owns.
PREFIXES: Final = (
    "/api",
    "/prompt",
    "/queue",
    "/interrupt",
    "/free",
    "/history",
    "/object_info",
    "/system_stats",
    "/features",
    "/models",
    "/experiment",
    "/view",
    "/view_metadata",
    "/upload",
    "/embeddings",
    "/extensions",
    "/users",
    "/settings",
    "/userdata",
    "/v2",
    "/internal",
    "/workflow_templates",
    "/i18n",
    "/global_subgraphs",
    "/node_replacements",
    "/jobs",
    "/ws",
)

__all__ = ["FEATURES", "PREFIXES", "Live", "render_error", "routes"]
