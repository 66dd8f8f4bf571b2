"""The one server that the tests of the running graph share: the embedded default and a fake."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.cluster.server import Server, embedded_config, fake_application

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # NOTE: a shell lets background jobs ignore Ctrl-C, with which the servers are stopped.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = embedded_config()
    config["applications"].append(fake_application("fake", step_seconds=0.03))
    for application in config["applications"]:
        if application["name"] == "gateway":
            application["deployments"][0]["num_replicas"] = 2
    server = Server(config, tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()
