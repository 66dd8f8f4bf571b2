"""The gateway as a whole: what is made when it is built, before anybody asks."""

from __future__ import annotations

import warnings

import pytest
from starlette.testclient import TestClient

from router.app import MEMORY, gateway
from router.fake_models import FakeModels
from router.settings import Settings


def test_the_first_request_makes_no_schemas(monkeypatch: pytest.MonkeyPatch) -> None:
    """FastAPI makes them under ``catch_warnings``, which two threads must not enter at once."""
    settings = Settings.from_args({"database_url": MEMORY, "images_url": MEMORY})
    client = TestClient(gateway(settings, FakeModels()))
    entered: list[str] = []

    class Watched(warnings.catch_warnings):  # type: ignore[type-arg]
        def __init__(self) -> None:
            entered.append("entered")
            super().__init__()

    monkeypatch.setattr(warnings, "catch_warnings", Watched)
    assert client.get("/no/such/path").status_code == 404
    assert client.get("/health").status_code == 200
    assert entered == []
