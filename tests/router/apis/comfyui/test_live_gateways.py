"""Graphs that really run: their frames, and where each prompt is at every instant."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from router.app import gateway
from router.fake_models import FakeModels
from router.settings import Settings
from tests.router.apis.comfyui.client import Comfy, wait_until
from tests.router.apis.comfyui.graphs import drawn, flat
from tests.router.apis.comfyui_gateway import SDXL, comfyui_gateway
from tests.router.apis.conftest import served


class Gateway(Comfy):
    """A gateway's routes and sockets."""

    def socket(self, client_id: str) -> ClientConnection:
        base = str(self.http.base_url).replace("http://", "ws://").rstrip("/")
        return connect(f"{base}/ws?clientId={client_id}", max_size=None)


@contextmanager
def stored(folder: Path, *, step_seconds: float = 0.02, **card: Any) -> Iterator[Gateway]:
    """A gateway over stores that others share, or that outlive it."""
    kept = {"database_url": f"sqlite:///{folder}/rows.db", "images_url": str(folder / "pictures")}
    models = FakeModels(replace(SDXL, **card), step_seconds=step_seconds)
    app = gateway(Settings.from_args(kept), models)
    with served(app) as url, httpx.Client(base_url=url, timeout=30, trust_env=False) as http:
        yield Gateway(http)


@pytest.fixture(scope="module")
def shared() -> Iterator[Gateway]:
    with comfyui_gateway() as running:
        yield Gateway(running.http)


def frames_of(socket: ClientConnection, name: str) -> list[Any]:
    """Every frame up to the prompt's last: ``(type, data)``, or the bytes of a picture."""
    frames: list[Any] = []
    while True:
        message = socket.recv(timeout=10)
        if isinstance(message, bytes):
            frames.append(message)
            continue
        frame = json.loads(message)
        frames.append((frame["type"], frame["data"]))
        if frames[-1] == ("executing", {"node": None, "prompt_id": name}):
            return frames


def kinds(frames: list[Any]) -> list[str]:
    return ["binary" if isinstance(frame, bytes) else frame[0] for frame in frames]


def test_a_drawn_graph_is_told_from_its_start_to_both_endings(shared: Gateway) -> None:
    with shared.socket("me") as socket:
        name = shared.submit(drawn(seed=11), client_id="me")
        frames = frames_of(socket, name)
    told = [frame for frame in frames if frame[0] not in ("status", "progress_state")]
    assert [kind for kind, _ in told[:2]] == ["execution_start", "execution_cached"]
    assert [kind for kind, _ in told[-3:]] == ["executed", "execution_success", "executing"]
    steps = [data["value"] for kind, data in told if kind == "progress"]
    assert steps == sorted(set(steps))
    assert steps[-1] == 4
    assert kinds(frames)[-3:] == ["execution_success", "status", "executing"]
    assert {data["prompt_id"] for kind, data in told} == {name}
    assert "binary" not in kinds(frames)


def test_pictures_for_the_socket_come_while_their_node_executes(shared: Gateway) -> None:
    with shared.socket("me") as socket:
        name = shared.submit(flat(7, output="SaveImageWebsocket"), client_id="me")
        frames = frames_of(socket, name)
    (picture,) = [frame for frame in frames if isinstance(frame, bytes)]
    assert struct.unpack(">II", picture[:8]) == (1, 2)
    assert picture[8:].startswith(b"\x89PNG")
    before = [frame for frame in frames[: frames.index(picture)] if frame[0] == "executing"]
    assert before[-1][1]["node"] == "9"
    assert kinds(frames)[kinds(frames).index("binary") - 1] == "progress"


def test_previews_come_when_asked_for(shared: Gateway) -> None:
    with shared.socket("me") as socket:
        name = shared.submit(
            drawn(seed=12, steps=8), client_id="me", extra_data={"preview_method": "auto"}
        )
        pictures = [frame for frame in frames_of(socket, name) if isinstance(frame, bytes)]
    assert pictures
    assert all(struct.unpack(">II", picture[:8]) == (1, 1) for picture in pictures)


def test_a_failing_graph_tells_its_node_and_keeps_its_outputs(shared: Gateway) -> None:
    graph = flat() | {
        "20": {"class_type": "EmptyImage", "inputs": flat()["1"]["inputs"] | {"color": 5}},
        "21": {
            "class_type": "SaveImage",
            "inputs": {"filename_prefix": "../../up", "images": ["20", 0]},
        },
    }
    with shared.socket("me") as socket:
        name = shared.submit(graph, client_id="me")
        frames = frames_of(socket, name)
    assert kinds(frames)[-3:] == ["execution_error", "status", "executing"]
    error = frames[-3][1]
    assert (error["node_id"], error["node_type"]) == ("21", "SaveImage")
    status = shared.entry(name)["status"]
    assert status["status_str"] == "error"
    assert status["messages"][-1] == ["execution_error", error]


def test_an_interrupted_graph_ends_both_ways(shared: Gateway) -> None:
    with shared.socket("me") as socket:
        name = shared.submit(drawn(seed=13, steps=100), client_id="me")
        while json.loads(socket.recv(timeout=10))["type"] != "progress":
            pass
        shared.post("/interrupt", prompt_id=name)
        frames = frames_of(socket, name)
    assert kinds(frames)[-3:] == ["execution_interrupted", "status", "executing"]
    assert frames[-3][1]["node_id"] == "3"


def test_eight_clients_at_once_hear_their_own_prompts_alone(shared: Gateway) -> None:
    sockets = [shared.socket(f"client-{number}") for number in range(8)]
    names = [
        shared.submit(drawn(seed=100 + number), client_id=f"client-{number}") for number in range(8)
    ]
    for socket, name in zip(sockets, names, strict=True):
        frames = frames_of(socket, name)
        told = {data["prompt_id"] for kind, data in frames if kind != "status"}
        assert told == {name}
        assert kinds(frames).count("execution_success") == 1
        socket.close()


def test_the_socket_is_on_one_gateway_and_the_prompt_on_another(tmp_path: Path) -> None:
    with (
        stored(tmp_path) as here,
        stored(tmp_path) as there,
        here.socket("me") as socket,
    ):
        names = [there.submit(drawn(seed=seed, steps=10), client_id="me") for seed in range(4)]
        frames: list[Any] = []
        for name in names:
            if ("executing", {"node": None, "prompt_id": name}) not in frames:
                frames += frames_of(socket, name)
        for name in names:
            mine = [
                frame[0]
                for frame in frames
                if frame[0] not in ("status", "progress_state", "progress")
                and frame[1]["prompt_id"] == name
            ]
            assert mine[:2] == ["execution_start", "execution_cached"]
            assert mine[-3:] == ["executed", "execution_success", "executing"]
            assert mine.count("execution_start") == mine.count("executed") == 1
            assert name in here.get("/history")


def test_prompts_outlive_their_gateway(tmp_path: Path) -> None:
    slow = {"step_seconds": 0.1, "max_ongoing_requests": 1}
    with stored(tmp_path, **slow) as before:
        done = before.submit(flat())
        before.entry(done)
        names = [before.submit(drawn(seed=seed, steps=10), prompt_id=f"{seed}") for seed in (1, 2)]
        wait_until(lambda: before.running() == names[:1])
    with stored(tmp_path) as after:
        unfinished = after.running() + after.pending()
        assert set(unfinished) | set(after.get("/history")) == {done, *names}
        for name in names:
            assert after.entry(name)["status"]["completed"]
        assert after.submit(flat(1)) not in (done, *names)
        assert after.get("/queue")["queue_running"] or after.get("/history")


def test_every_prompt_is_in_exactly_one_place_at_every_instant(shared: Gateway) -> None:
    shared.post("/history", clear=True)
    accepted: list[str] = []
    with watching(accepted, shared, shared) as faults:
        for number in range(30):
            graph = drawn(seed=200 + number) if number % 2 else flat(number)
            accepted.append(shared.submit(graph, front=number % 5 == 0))
        wait_until(lambda: len(shared.get("/history")) == 30, seconds=60)
        time.sleep(0.1)
    assert faults == []
    assert all(shared.entry(name)["status"]["completed"] for name in accepted)


def test_clients_of_two_gateways_under_load_hear_everything_once_and_in_order(
    tmp_path: Path,
) -> None:
    accepted: list[str] = []
    heard: dict[int, list[Any]] = {}
    with stored(tmp_path) as one, stored(tmp_path) as two, watching(accepted, one, two) as faults:

        def ask(number: int) -> None:
            listens, submits = (one, two)[number % 2], (one, two)[number // 2 % 2]
            with listens.socket(f"client-{number}") as socket:
                names = set()
                for k in range(4):
                    graph = drawn(seed=10 * number + k) if k % 2 else flat(10 * number + k)
                    names.add(submits.submit(graph, client_id=f"client-{number}"))
                    accepted.extend(names)
                heard[number] = []
                while names:
                    frame = json.loads(socket.recv(timeout=30))
                    heard[number].append((frame["type"], frame["data"].get("prompt_id")))
                    if frame["type"] == "execution_success":
                        assert frame["data"]["prompt_id"] in listens.get("/history")
                    if frame["data"].get("node", "some") is None:
                        names.remove(frame["data"]["prompt_id"])

        with ThreadPoolExecutor(4) as clients:
            list(clients.map(ask, range(4)))
    assert faults == []
    for frames in heard.values():
        names = {name for _, name in frames if name}
        assert len(names) == 4
        for name in names:
            told = [kind for kind, whose in frames if whose == name]
            told = [kind for kind in told if kind not in ("progress", "progress_state")]
            assert told[:2] == ["execution_start", "execution_cached"]
            assert told[-3:] == ["executed", "execution_success", "executing"]
            assert told.count("execution_start") == told.count("executed") == 1


@contextmanager
def watching(accepted: Sequence[str], *gateways: Gateway) -> Iterator[list[str]]:
    """Looks, again and again, where the accepted prompts are; yields what is wrong with that."""
    faults: list[str] = []
    is_over = threading.Event()

    def look(base_url: httpx.URL) -> None:
        with httpx.Client(base_url=base_url, timeout=30, trust_env=False) as http:
            while not is_over.is_set():
                faults.extend(find_faults(Comfy(http), list(dict.fromkeys(accepted))))

    watchers = [threading.Thread(target=look, args=(one.http.base_url,)) for one in gateways]
    for watcher in watchers:
        watcher.start()
    try:
        yield faults
    finally:
        is_over.set()
        for watcher in watchers:
            watcher.join()


def find_faults(comfy: Comfy, accepted: Sequence[str]) -> Iterator[str]:
    """Prompts that are at two places at once, or at none."""
    ended_before = set(comfy.get("/history"))
    queue = comfy.get("/queue")
    places = [item[1] for item in queue["queue_running"] + queue["queue_pending"]]
    ended_after = set(comfy.get("/history"))
    listed = [job["id"] for job in comfy.get("/api/jobs")["jobs"]]
    for name in accepted:
        if places.count(name) > 1 or (name in places and name in ended_before):
            yield f"{name} is at two places"
        if name not in places and name not in ended_after:
            yield f"{name} is nowhere"
        if listed.count(name) != 1:
            yield f"{name} is not one job"
