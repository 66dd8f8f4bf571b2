"""What a running graph holds: as long as a node needs it, and within a budget."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from deployments.errors import InvalidRequest
from deployments.types import Latents
from router.apis.comfyui import png
from router.apis.comfyui.cache import Given, NodeCache
from router.apis.comfyui.holdings import Holdings
from router.apis.comfyui.node import Input, Node
from router.apis.comfyui.nodes import NODES
from router.apis.comfyui.values import Conditioning, Images, Latent, Masks, Several, buffers_of
from tests.router.apis.comfyui.easel import Easel, execution, node

MEBIBYTE = 2**20
NOISE = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
FILE = png.encode(NOISE)


def pictures(num_mebibytes: int) -> Images:
    return Images(pixels=[np.zeros((MEBIBYTE // 3, 1, 3), np.uint8)] * num_mebibytes)


def masks(num_mebibytes: int) -> Masks:
    return Masks(values=np.zeros((num_mebibytes, 512, 512), np.float32))


def num_bytes(value: Any) -> int:
    return sum(dict(buffers_of(value)).values())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (masks(2), 2 * MEBIBYTE),
        (Masks(values=masks(2).values[:1]), 2 * MEBIBYTE),
        (pictures(5), MEBIBYTE // 3 * 3),
        (Images(encoded=[FILE, FILE, bytes(bytearray(FILE))]), 2 * len(FILE)),
        (Several(values=(masks(1), masks(1))), 2 * MEBIBYTE),
        (Conditioning(model="m", parts=(), references=(bytes(MEBIBYTE),)), MEBIBYTE),
        (
            Latent(
                pictures=(Latents(num_images=1, width=8, height=8, value="a", num_bytes=MEBIBYTE),),
                mask=masks(1),
                source=(bytes(MEBIBYTE),),
            ),
            3 * MEBIBYTE,
        ),
        (Masks(values=np.zeros((1, 64, 64), np.float32)), 0),
        (5, 0),
    ],
    ids=[
        "masks",
        "a-part",
        "one-array-often",
        "files",
        "a-list",
        "texts",
        "latents",
        "small",
        "no",
    ],
)
def test_what_a_value_holds(value: Any, expected: int) -> None:
    assert num_bytes(value) == expected


def test_picture_that_was_encoded_holds_more() -> None:
    images = Images(pixels=[NOISE])
    before = num_bytes(images)
    assert num_bytes(images) == before == 512 * 512 * 3
    assert num_bytes(images) < before + len(images.encoded[0]) == num_bytes(images)


def test_values_go_with_the_last_node_that_needs_them() -> None:
    holdings = Holdings({"b": ["a", "a"], "c": ["a"]})
    holdings.add("a", Given(values=(masks(1),)))
    held = weakref.ref(holdings.find("a", 0).values)
    holdings.release("b")
    assert holdings.find("a", 0).values is held()
    holdings.release("c")
    gc.collect()
    assert held() is None
    assert holdings.nodes == ["a"]


def test_values_that_nobody_needs_are_not_kept() -> None:
    holdings = Holdings({"b": ["a"]}, max_bytes=MEBIBYTE)
    holdings.add("b", Given(values=(masks(5),)))
    assert holdings.nodes == ["b"]


def test_too_much_at_once_is_refused() -> None:
    holdings = Holdings({"c": ["a", "b"]}, max_bytes=2 * MEBIBYTE)
    holdings.add("a", Given(values=(masks(1),)))
    holdings.check([masks(1)])
    with pytest.raises(InvalidRequest, match=r"3 MiB .* at once; accepted: at most 2 MiB"):
        holdings.add("b", Given(values=(masks(2),)))


def row(name: str, run: Any, *inputs: str, **fields: Any) -> Node:
    inputs_of = tuple(Input(name=one, type="MASK") for one in inputs)
    return Node(class_type=name, run=run, inputs=inputs_of, outputs=("MASK",), **fields)


def table(*rows: Node) -> dict[str, Node]:
    return {**NODES, **{one.class_type: one for one in rows}}


MAKE = row("Make", lambda: (masks(1),), is_cached=False)
JOIN = row("Join", lambda **_: (masks(1),), "one", "other")
READ = row("Read", lambda **_: (), "mask", is_output=True)


async def test_long_chain_holds_little() -> None:
    graph = {"0": node("Make")}
    for k in range(1, 20):
        graph[str(k)] = node("InvertMask", mask=[str(k - 1), 0])
    graph["read"] = node("Read", mask=["19", 0])
    easel = Easel()
    await execution(easel, graph, table=table(MAKE, READ), max_bytes=2 * MEBIBYTE).run()
    assert easel.result["messages"][-1][0] == "execution_success"


async def test_graph_that_holds_too_much_fails_where_it_does() -> None:
    graph = {
        "a": node("Make"),
        "b": node("Make"),
        "c": node("Join", one=["a", 0], other=["b", 0]),
        "read": node("Read", mask=["c", 0]),
    }
    easel = Easel()
    rows = table(MAKE, JOIN, READ)
    with pytest.raises(InvalidRequest, match="at once"):
        await execution(easel, graph, table=rows, max_bytes=3 * MEBIBYTE // 2).run()
    kind, data = easel.result["messages"][-1]
    assert (kind, data["node_type"], data["exception_type"]) == (
        "execution_error",
        "Make",
        "ValueError",
    )
    assert data["current_outputs"] == data["executed"] != []


async def test_calls_of_one_node_are_counted_as_they_are_made() -> None:
    made = 0

    def make(**_: Any) -> tuple[Masks]:
        nonlocal made
        made += 1
        return (masks(1),)

    graph = {
        "1": node("EmptyImage", width=8, height=8, batch_size=20, color=0),
        "2": node("RebatchImages", images=["1", 0], batch_size=1),
        "3": node("Draw", image=["2", 0]),
        "read": node("Read", mask=["3", 0]),
    }
    draw = Node(
        class_type="Draw",
        run=make,
        inputs=(Input(name="image", type="IMAGE"),),
        outputs=("MASK",),
    )
    with pytest.raises(InvalidRequest, match="at once"):
        await execution(
            Easel(), graph, table=table(draw, READ), max_bytes=4 * MEBIBYTE, cache=NodeCache()
        ).run()
    assert made == 5
