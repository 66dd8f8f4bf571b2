"""The applications that stanzas name, as the gateway finds them."""

from __future__ import annotations

from typing import Any

import pytest
from ray.serve import Application

from deployments.app import build, build_describer, build_gemini
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
