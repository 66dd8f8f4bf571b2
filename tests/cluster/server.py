"""A real server for tests: ``serve run``, in a folder and on a port of its own."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 300.0


def embedded_config() -> dict[str, Any]:
    """The configuration of the README's command."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    return config


def fake_application(name: str = "fake", **args: Any) -> dict[str, Any]:
    """A stanza that hosts the fake family."""
    return {
        "name": name,
        "route_prefix": None,
        "import_path": "deployments.app:build",
        "args": {"family": "fake", "step_seconds": 0.05, **args},
        "deployments": [
            {
                "name": "ModelHost",
                "max_ongoing_requests": 16,
                "health_check_period_s": 2,
                "ray_actor_options": {"num_cpus": 0},
            }
        ],
    }


class Server:
    """``serve run`` as a child process, and by process id what it started."""

    def __init__(self, config: dict[str, Any], folder: Path, **environment: str) -> None:
        self.folder = folder
        self.config = copy.deepcopy(config)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config["http_options"] = {"host": "127.0.0.1", "port": self.port}
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start and wait until ``/ready`` says 200; the seconds that took."""
        path = self.write("serve.yaml", self.config)
        environment = {
            **os.environ,
            "RAY_AUTH_MODE": "disabled",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **self._environment,
        }
        environment.pop("RAY_ADDRESS", None)
        started = time.monotonic()
        with (self.folder / "serve.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["serve", "run", str(path)],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self.wait_ready()
        except BaseException:
            kill(self.processes())
            raise
        return time.monotonic() - started

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        """Wait until every configured model has a running replica, as every gateway sees it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                # A connection each, so that the proxy picks a gateway anew.
                if all(self._is_ready() for _ in range(12)):
                    return
            assert self._process is None or self._process.poll() is None, self.log()
            time.sleep(0.3)
        raise TimeoutError(f"not ready after {seconds} s\n{self.log()}")

    def _is_ready(self) -> bool:
        return httpx.get(f"{self.url}/ready", timeout=3).status_code == 200

    def stop(self) -> int:
        """Ctrl-C: the exit status."""
        assert self._process is not None
        started = self.processes()
        self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(timeout=60)
        finally:
            kill(started)
            self._process = None

    def kill_all(self) -> None:
        """SIGKILL to everything at once, as when the machine loses power."""
        assert self._process is not None
        kill(self.processes())
        self._process.wait()
        self._process = None

    def kill(self, title: str) -> int:
        """SIGKILL to the processes whose title holds a text; how many there were."""
        victims = [process for process in self.processes() if title in _title(process)]
        kill(victims)
        return len(victims)

    def pids(self, title: str) -> list[int]:
        """Process ids by a text in the title, such as ``ServeReplica:fake``."""
        return sorted(process.pid for process in self.processes() if title in _title(process))

    def processes(self) -> list[psutil.Process]:
        """The server and everything it started."""
        assert self._process is not None
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    @property
    def dashboard(self) -> str:
        """Address of Ray's dashboard, which ``serve deploy`` talks to."""
        found = re.findall(
            r"dashboard at \S*?(http://[\d.:]+)", (self.folder / "serve.log").read_text()
        )
        return str(found[-1])

    def write(self, name: str, config: dict[str, Any]) -> Path:
        """A configuration file in the server's folder."""
        path = self.folder / name
        path.write_text(yaml.safe_dump(config, allow_unicode=True))
        return path

    def log(self) -> str:
        """The end of what the server printed."""
        return (self.folder / "serve.log").read_text(errors="replace")[-6000:]


def kill(processes: list[psutil.Process]) -> None:
    """SIGKILL, whoever is still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
