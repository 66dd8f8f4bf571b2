"""What /object_info tells of the nodes."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest

from deployments.types import ModelCard, SamplingParams
from router.apis.comfyui.node import ANY, WIDGET_TYPES, Input, Node, Offer
from router.apis.comfyui.nodes import NODES
from router.apis.comfyui.object_info import render_node, render_nodes

CARD = ModelCard(
    id="sdxl", family="fake", modes=("text-to-image",), defaults=SamplingParams(), aliases=("xl",)
)
OFFER = Offer(cards=(CARD,), files=("b.png", "a.png"))


def nothing(**_: Any) -> tuple[()]:
    return ()


def test_a_node_is_told_as_in_comfyui() -> None:
    assert render_node(NODES["EmptyImage"], OFFER) == {
        "input": {
            "required": {
                "width": ["INT", {"default": 512, "min": 1, "max": 16384, "step": 1}],
                "height": ["INT", {"default": 512, "min": 1, "max": 16384, "step": 1}],
                "batch_size": ["INT", {"default": 1, "min": 1, "max": 4096}],
                "color": [
                    "INT",
                    {"default": 0, "min": 0, "max": 16777215, "step": 1, "display": "color"},
                ],
            },
            "optional": {},
            "hidden": {},
        },
        "input_order": {"required": ["width", "height", "batch_size", "color"]},
        "is_input_list": False,
        "output": ["IMAGE"],
        "output_is_list": [False],
        "output_name": ["IMAGE"],
        "name": "EmptyImage",
        "display_name": "Empty Image",
        "description": "",
        "python_module": "nodes",
        "category": "image",
        "output_node": False,
    }


def test_choices_stand_in_the_place_of_a_type() -> None:
    inputs = render_nodes(OFFER)["LoadImageMask"]["input"]["required"]

    assert inputs == {
        "image": [["a.png", "b.png"], {"image_upload": True}],
        "channel": [["alpha", "red", "green", "blue"]],
    }


def test_optional_and_hidden_inputs_are_told_apart() -> None:
    composite = render_node(NODES["ImageCompositeMasked"], OFFER)
    sizes = render_node(NODES["GetImageSize"], OFFER)

    assert composite["input"]["optional"] == {"mask": ["MASK"]}
    assert composite["input_order"] == {
        "required": ["destination", "source", "x", "y", "resize_source"],
        "optional": ["mask"],
    }
    assert sizes["input"]["hidden"] == {"unique_id": ["UNIQUE_ID"]}
    assert sizes["output_name"] == ["width", "height", "batch_size"]


def test_lists_are_told() -> None:
    rebatch = render_node(NODES["RebatchImages"], OFFER)

    assert rebatch["is_input_list"] is True
    assert rebatch["output_is_list"] == [True]


def test_what_is_seldom_is_told_where_it_is() -> None:
    told = render_node(
        Node(
            class_type="Old",
            run=nothing,
            inputs=(Input(name="seed", type="INT", options={"max": 2**64 - 1}),),
            output_tooltips=("a picture",),
            is_deprecated=True,
            is_experimental=True,
        ),
        OFFER,
    )

    assert told["display_name"] == "Old"
    assert told["output_tooltips"] == ["a picture"]
    assert (told["deprecated"], told["experimental"]) == (True, True)
    assert "18446744073709551615" in json.dumps(told)


def test_all_nodes_are_json() -> None:
    told = json.loads(json.dumps(render_nodes(OFFER), allow_nan=False))

    assert list(told) == list(NODES)
    for name, info in told.items():
        assert len(info["output_is_list"]) == len(info["output"]) == len(info["output_name"]), name
    assert len(json.dumps(told)) < 300_000


@pytest.mark.parametrize("node", NODES.values(), ids=list(NODES))
def test_a_row_is_sound(node: Node) -> None:
    """What validation and clients rely on."""
    names = [row.name for row in node.inputs]
    assert len(set(names)) == len(names)
    assert node.category
    assert callable(node.run)
    assert not node.output_names or len(node.output_names) == len(node.outputs)
    assert not node.gives_lists or len(node.gives_lists) == len(node.outputs)
    for row in node.inputs:
        assert (row.choices is None) == bool(row.type)
        if row.type in {"INT", "FLOAT"}:
            assert row.options["min"] <= row.options.get("default", 0) <= row.options["max"]
        if row.type not in WIDGET_TYPES and row.choices is None and row.type != ANY:
            assert row.type == row.type.upper()
            assert "default" not in row.options


@pytest.mark.parametrize("node", NODES.values(), ids=list(NODES))
def test_a_nodes_function_takes_its_inputs(node: Node) -> None:
    parameters = list(inspect.signature(node.run).parameters.values())
    if inspect.iscoroutinefunction(node.run):
        parameters = parameters[1:]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    taken = {parameter.name: parameter for parameter in parameters}
    assert set(taken) == {row.name for row in node.inputs}
    for row in node.inputs:
        if row.is_optional:
            assert taken[row.name].default is not inspect.Parameter.empty


@pytest.mark.parametrize(
    ("class_type", "value"),
    [
        ("PrimitiveInt", 5),
        ("PrimitiveFloat", 0.5),
        ("PrimitiveString", "a"),
        ("PrimitiveStringMultiline", "a\nb"),
        ("PrimitiveBoolean", True),
        ("PrimitiveNode", "any"),
    ],
)
def test_primitives_give_their_value(class_type: str, value: Any) -> None:
    assert NODES[class_type].run(value=value) == (value,)


def test_what_the_web_page_leaves_out_does_no_harm() -> None:
    assert NODES["Reroute"].run(**{"": 5}) == (5,)
    assert NODES["Note"].run() == ()
    assert NODES["MarkdownNote"].run(text="x") == ()
    assert NODES["PreviewAny"].run(source=1.5).output == {"text": ["1.5"]}
    assert NODES["PreviewAny"].run(source=OFFER).output == {"text": ["Offer"]}
