"""Values over links, where they arrive: of the input's type, in its range."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deployments.errors import InvalidRequest
from router.apis.comfyui.arrivals import receive
from router.apis.comfyui.node import ANY, Input
from router.apis.comfyui.values import Images, Several
from router.apis.comfyui.widgets import flag, image, mask, number, whole
from tests.router.apis.comfyui.easel import Easel, execution, node, text_to_image

IMAGES = Images(pixels=[np.zeros((8, 8, 3), np.uint8)])
WHOLE = whole("n", 1, 1, 10)


@pytest.mark.parametrize(
    ("row", "value", "expected"),
    [
        (WHOLE, 5, 5),
        (WHOLE, 5.7, 5),
        (number("x", 0.5, 0.0, 1.0), 1, 1.0),
        (flag("f", False), "x", True),
        (Input(name="text", type="STRING"), 5, "5"),
        (image(), IMAGES, IMAGES),
        (mask(is_optional=True), None, None),
        (Input(name="any", type=ANY), [1], [1]),
        (Input(name="x", type="THING"), 5, 5),
    ],
)
def test_value_that_fits(row: Input, value: Any, expected: Any) -> None:
    received = receive(row, value)
    assert received == expected
    assert type(received) is type(expected)


@pytest.mark.parametrize(
    ("row", "value", "why"),
    [
        (WHOLE, 11, "bigger than max of 10: n"),
        (WHOLE, 0, "smaller than min of 1: n"),
        (WHOLE, "x", "Failed to convert"),
        (WHOLE, None, "what is linked to n is no INT"),
        (WHOLE, [5], "what is linked to n is no INT"),
        (WHOLE, IMAGES, "what is linked to n is no INT"),
        (Input(name="text", type="STRING"), "a" * 20_001, "too many"),
        (image(), 5, "what is linked to image is no IMAGE"),
        (image(), None, "what is linked to image is no IMAGE"),
        (mask(), IMAGES, "what is linked to mask is no MASK"),
    ],
)
def test_value_that_does_not(row: Input, value: Any, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        receive(row, value)
    with pytest.raises(InvalidRequest, match=why):
        receive(row, Several(values=(value,)))


@pytest.mark.parametrize("batch_size", [2**60, 257, 0, -1])
async def test_number_of_pictures_over_a_link_is_bounded(batch_size: int) -> None:
    graph = text_to_image()
    graph["n"] = node("PrimitiveInt", value=batch_size)
    graph["5"]["inputs"]["batch_size"] = ["n", 0]
    easel = Easel()
    with pytest.raises(InvalidRequest):
        await execution(easel, graph).run()
    _, data = easel.result["messages"][-1]
    assert (data["node_id"], data["exception_type"]) == ("5", "ValueError")


async def test_anything_may_come_from_a_node_that_gives_anything() -> None:
    graph = {
        "1": node("PrimitiveNode", value={"__value__": [1]}),
        "9": node("SaveImage", images=["1", 0], filename_prefix="x"),
    }
    easel = Easel()
    with pytest.raises(InvalidRequest, match="what is linked to images is no IMAGE"):
        await execution(easel, graph).run()
