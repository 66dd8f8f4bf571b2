"""The applications that stanzas name, as the gateway finds them."""

from __future__ import annotations

from typing import Any

import pytest
from ray.serve import Application

from deployments.app import build, build_describer, build_gemini, with_threads
from deployments.config import ModelConfig
from deployments.engine.device import usable_cores
from router.cluster import HOSTS


@pytest.mark.parametrize(
    ("application", "name"),
    [
        (build({"family": "fake"}), "ModelHost"),
        (build_gemini({}), "GeminiHost"),
        (build_describer({"weights": "a/b"}), "DescriberHost"),
    ],
    ids=["model", "Gemini", "describer"],
)
def test_gateway_knows_every_host(application: Application, name: str) -> None:
    assert application._bound_deployment.name == name
    assert name in HOSTS


@pytest.mark.parametrize("builder", [build, build_gemini, build_describer])
def test_unknown_arguments_are_refused_naming_the_known(builder: Any) -> None:
    with pytest.raises(ValueError, match=r"unknown key 'colour'; known: .*aliases"):
        builder({"colour": "red"})


@pytest.mark.parametrize(
    ("configured", "reserved", "threads"),
    [
        pytest.param(3, {"CPU": 8.0}, 3, id="configured"),
        pytest.param(None, {"CPU": 8.0}, 8, id="reserved"),
        pytest.param(None, {"CPU": 0.5}, usable_cores(), id="a share of a core"),
        pytest.param(None, {}, usable_cores(), id="nothing reserved"),
    ],
)
def test_replica_has_threads_for_the_cores_that_are_its_own(
    configured: int | None, reserved: dict[str, float], threads: int
) -> None:
    config = ModelConfig(family="fake", num_threads=configured)
    assert with_threads(config, reserved).num_threads == threads
