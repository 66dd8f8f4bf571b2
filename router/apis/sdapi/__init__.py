"""The API of AUTOMATIC1111's and Forge's web UIs: ``/sdapi/v1`` and what its clients probe."""

from __future__ import annotations

from typing import Final

from router.apis.sdapi.errors import render_error
from router.apis.sdapi.prompts import parse_styles
from router.apis.sdapi.routes import routes

PREFIXES: Final = ("/sdapi", "/internal", "/queue/status", "/config")

__all__ = ["PREFIXES", "parse_styles", "render_error", "routes"]
