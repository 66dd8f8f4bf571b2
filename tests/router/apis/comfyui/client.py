"""What tests ask of a gateway that speaks ComfyUI's wire."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import httpx


class Comfy:
    """ComfyUI's routes over plain HTTP."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def get(self, path: str, **params: Any) -> Any:
        response = self.http.get(path, params=params)
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, path: str, **body: Any) -> httpx.Response:
        """A POST that succeeds with an empty body."""
        response = self.http.post(path, json=body)
        assert response.status_code == 200, response.text
        return response

    def submit(self, graph: Mapping[str, Any], **fields: Any) -> str:
        """Queue a graph; its id."""
        response = self.http.post("/prompt", json={"prompt": graph, **fields})
        assert response.status_code == 200, response.text
        name: str = response.json()["prompt_id"]
        return name

    def refused(self, graph: Any, **fields: Any) -> Any:
        """Why a graph is refused."""
        response = self.http.post("/prompt", json={"prompt": graph, **fields})
        assert response.status_code == 400, response.text
        assert set(response.json()) == {"error", "node_errors"}
        assert set(response.json()["error"]) == {"type", "message", "details", "extra_info"}
        return response.json()["error"]

    def running(self) -> list[str]:
        return [item[1] for item in self.get("/queue")["queue_running"]]

    def pending(self) -> list[str]:
        return [item[1] for item in self.get("/queue")["queue_pending"]]

    def entry(self, name: str) -> Any:
        """The prompt's entry in the history, once it has ended."""
        wait_until(lambda: self.get(f"/history/{quote(name, safe='')}") != {})
        return self.get(f"/history/{quote(name, safe='')}")[name]


def wait_until(is_true: Callable[[], bool], seconds: float = 15.0) -> None:
    """Wait for something to become true; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.02)
