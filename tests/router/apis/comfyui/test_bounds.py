"""What a sampler asks beyond its model's card is refused before anything runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router.apis.comfyui.node import Offer
from router.apis.comfyui.validation import Refusal, ValidGraph, validate
from tests.router.apis.comfyui.graphs import drawn, flat
from tests.router.apis.comfyui_gateway import SDXL

OFFER = Offer(cards=(replace(SDXL, min_size=64, max_size=1024, max_num_inference_steps=50),))


def changed(node_id: str, **inputs: Any) -> dict[str, Any]:
    graph = drawn()
    graph[node_id]["inputs"] |= inputs
    return graph


@pytest.mark.parametrize(
    ("prompt", "details"),
    [
        (
            changed("5", width=1032),
            "latent_image - width 1032 is out of range for sdxl-turbo; accepted: 64 to 1024",
        ),
        (
            changed("5", height="16"),
            "latent_image - height 16 is out of range for sdxl-turbo; accepted: 64 to 1024",
        ),
        (
            changed("3", steps=51),
            "steps - 51 is out of range for sdxl-turbo; accepted: 1 to 50",
        ),
    ],
)
def test_a_sampler_beyond_its_models_card_is_refused(prompt: Any, details: str) -> None:
    refusal = validate({"prompt": prompt}, OFFER)
    assert isinstance(refusal, Refusal)
    assert refusal.error["type"] == "prompt_outputs_failed_validation"
    (error,) = refusal.node_errors["3"]["errors"]
    assert (error["type"], error["details"]) == ("custom_validation_failed", details)
    assert refusal.node_errors["3"]["dependent_outputs"] == ["9"]


def test_outputs_that_do_not_need_the_sampler_run() -> None:
    other = {"20": flat()["1"], "21": {**flat()["9"]}}
    other["21"]["inputs"] = {"images": ["20", 0], "filename_prefix": "flat"}
    valid = validate({"prompt": changed("3", steps=51) | other}, OFFER)
    assert isinstance(valid, ValidGraph)
    assert valid.graph.outputs == ("21",)
    assert list(valid.node_errors) == ["3"]


def test_part_of_a_long_walk_is_no_excess() -> None:
    graph = drawn()
    advanced = graph["3"]["inputs"] | {
        "noise_seed": 1,
        "steps": 60,
        "add_noise": "enable",
        "start_at_step": 20,
        "end_at_step": 60,
        "return_with_leftover_noise": "disable",
    }
    graph["3"] = {"class_type": "KSamplerAdvanced", "inputs": advanced}
    assert isinstance(validate({"prompt": graph}, OFFER), ValidGraph)
