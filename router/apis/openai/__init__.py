"""OpenAI's Images API, and the ``images`` dialect on its edits route."""

from __future__ import annotations

from router.apis.openai.render import render_error
from router.apis.openai.routes import PREFIXES, routes

__all__ = ["PREFIXES", "render_error", "routes"]
