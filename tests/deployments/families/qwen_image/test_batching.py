"""Rows of unlike requests in one forward pass: each picture is the one drawn alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from deployments.engine.events import Finished
from deployments.families.base import Family
from deployments.types import GenerationRequest
from tests.deployments.families.driver import states_of
from tests.deployments.families.qwen_image.stock import Stock
from tests.deployments.families.qwen_image.test_golden import difference, scene, want
from tests.deployments.families.test_engine import draw_with_engine

Load = Callable[..., Family]

LONG = "a very long story of " + ", ".join(f"thing number {k}" for k in range(12))


def pixels(finished: Finished) -> np.ndarray:
    return finished.pictures[0].pixels * 255


def unlike_edits() -> list[GenerationRequest]:
    """Of equal shapes; of other words, steps, seeds, guidance, schedulers and lengths."""
    return [
        want("make the sky red", images=(scene(),), seed=1),
        want(LONG, images=(scene(turn=0.2),), seed=2, num_inference_steps=6),
        want("remove it", images=(scene(turn=0.4),), seed=3, true_cfg_scale=1.0),
        want("draw a cat", images=(scene(turn=0.6),), seed=4, negative_prompt=LONG),
        want("", images=(scene(turn=0.8),), seed=5, true_cfg_scale=2.5, num_inference_steps=3),
    ]


def test_edits_of_unlike_requests_share_a_forward_and_are_stock(
    load_qwen: Load, stock_qwen: Stock
) -> None:
    requests = unlike_edits()
    together = draw_with_engine(load_qwen("qwen-edit"), *requests)
    assert [end.max_batch_rows for end in together] == [9] * 5
    for request, end in zip(requests, together, strict=True):
        assert difference(pixels(end), stock_qwen.edit(request)) <= 0.01


def test_text_to_image_of_unlike_requests_shares_a_forward_and_is_stock(
    load_qwen: Load, stock_qwen: Stock
) -> None:
    requests = [
        want("a lake", seed=1),
        want(LONG, seed=2, num_inference_steps=6),
        want("a star", seed=3, true_cfg_scale=1.0),
        want("un chat", seed=4, negative_prompt=LONG, true_cfg_scale=7.0),
    ]
    together = draw_with_engine(load_qwen("qwen-edit"), *requests)
    assert [end.max_batch_rows for end in together] == [7] * 4
    for request, end in zip(requests, together, strict=True):
        assert difference(pixels(end), stock_qwen.draw("", request)) <= 0.01


def test_requests_of_all_kinds_are_drawn_as_alone(load_qwen: Load, mask: bytes) -> None:
    family = load_qwen("qwen-edit")
    requests = [
        *unlike_edits(),
        want("two", images=(scene(), scene(64, 64)), scheduler="Heun"),
        want("two turned", images=(scene(64, 64), scene()), scheduler="DPM++ 2M"),
        want("some of it", images=(scene(),), strength=0.5, scheduler="Euler a"),
        want("a part", images=(scene(64, 64),), mask=mask, scheduler="LCM"),
        want("a lake", scheduler="UniPC", sigmas="karras"),
        want("wide", width=96),
    ]
    for request, end in zip(requests, draw_with_engine(family, *requests), strict=True):
        [alone] = draw_with_engine(family, request)
        assert alone.max_batch_rows <= 2
        assert difference(pixels(end), pixels(alone)) <= 0.01


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        pytest.param({}, {"seed": 8, "num_inference_steps": 9}, True, id="seeds and steps"),
        pytest.param({}, {"true_cfg_scale": 1.0}, True, id="guidance"),
        pytest.param({"prompt": LONG}, {"scheduler": "Heun", "sigmas": "beta"}, True, id="texts"),
        pytest.param({}, {"width": 96}, False, id="sizes"),
        pytest.param({}, {"images": (scene(),)}, False, id="edits"),
        pytest.param({"images": (scene(),)}, {"images": (scene(turn=0.5),)}, True, id="pictures"),
        pytest.param({"images": (scene(),)}, {"images": (scene(64, 64),)}, False, id="shapes"),
        pytest.param({"images": (scene(),)}, {"images": (scene(),) * 2}, False, id="counts"),
        pytest.param(
            {"images": (scene(), scene(64, 64))},
            {"images": (scene(64, 64), scene())},
            False,
            id="order",
        ),
        pytest.param(
            {}, {"prompt": "word " * 300, "max_sequence_length": 1024}, False, id="much longer text"
        ),
    ],
)
def test_rows_share_a_forward_when_all_their_shapes_are_equal(
    load_qwen: Load, one: dict[str, object], other: dict[str, object], is_same: bool
) -> None:
    first, second = states_of(load_qwen("qwen-edit"), want(**one), want(**other))
    assert (first.batch_key == second.batch_key) is is_same


def test_the_stock_rotary_embedding_takes_mixed_shapes_for_the_first_one_s(
    stock_qwen: Stock,
) -> None:
    """Why rows of other shapes have another key."""
    embed = stock_qwen.pipeline("").transformer.pos_embed
    wide, tall = [(1, 2, 8)], [(1, 8, 2)]
    mixed, _ = embed([tall, wide], max_txt_seq_len=4, device=torch.device("cpu"))
    right, _ = embed([wide, wide], max_txt_seq_len=4, device=torch.device("cpu"))
    assert not torch.allclose(mixed, right)
