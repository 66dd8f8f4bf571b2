"""Ingress: the gateway's Ray Serve deployment, an ASGI application in a replica."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from ray import serve

from router.models import Models
from router.settings import Settings


@serve.ingress()
class Ingress:
    """Builds the gateway when the replica starts, in the replica's own process.

    Args:
        settings: the application's arguments and environment.
        gateway: what constructs the ASGI application from settings and models.
        models: what makes the view on the cluster's models from the application's name.
    """

    def __init__(
        self,
        settings: Settings,
        gateway: Callable[[Settings, Models], FastAPI],
        models: Callable[[str], Models],
    ) -> None:
        self._settings = settings
        self._gateway = gateway
        self._models = models

    def __serve_build_asgi_app__(self) -> Any:
        """Called by Serve once, after the constructor (``serve.ingress`` without an app)."""
        _log_with_serve(self._settings.log_level)
        app_name = serve.get_replica_context().app_name
        return self._gateway(self._settings, self._models(app_name))


def _log_with_serve(level: str) -> None:
    """Let our lines go where the replica's own go: Serve's file and the console."""
    logger = logging.getLogger("router")
    logger.setLevel(level.upper())
    logger.handlers = list(logging.getLogger("ray.serve").handlers)
