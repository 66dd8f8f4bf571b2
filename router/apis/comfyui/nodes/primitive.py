"""Nodes that hold one value, pass one on, or only stand in a graph to be read."""

from __future__ import annotations

import sys
from typing import Any, Final

from router.apis.comfyui.literal import MAX_TEXT
from router.apis.comfyui.node import ANY, Input, Node
from router.apis.comfyui.values import Shown


def give(**inputs: Any) -> tuple[Any]:
    """The one input that a node has; None when it was not given."""
    return (next(iter(inputs.values()), None),)


def be_read(**_: Any) -> tuple[()]:
    """Nothing: the node is there for people."""
    return ()


def show(*, source: Any = None) -> Shown:
    """A value as text: words and numbers as they are, of anything else its kind."""
    is_plain = source is None or isinstance(source, (str, int, float))
    text = str(source) if is_plain else type(source).__name__
    return Shown(output={"text": [text[:MAX_TEXT]]})


def _primitive(name: str, title: str, given: str, value: Input) -> Node:
    return Node(
        class_type=name,
        run=give,
        inputs=(value,),
        outputs=(given,),
        category="utilities/primitive",
        display_name=title,
        module="comfy_extras.nodes_primitive",
    )


def _note(name: str, title: str) -> Node:
    return Node(
        class_type=name,
        run=be_read,
        category="utilities",
        display_name=title,
        description="Text for people. The web page leaves it out of the graphs that it submits.",
    )


_RANGE: Final = {"min": -sys.maxsize, "max": sys.maxsize}

NODES: Final = (
    _primitive(
        "PrimitiveInt",
        "Int",
        "INT",
        Input(name="value", type="INT", options={**_RANGE, "control_after_generate": True}),
    ),
    _primitive(
        "PrimitiveFloat", "Float", "FLOAT", Input(name="value", type="FLOAT", options=_RANGE)
    ),
    _primitive("PrimitiveBoolean", "Boolean", "BOOLEAN", Input(name="value", type="BOOLEAN")),
    _primitive(
        "PrimitiveString",
        "String",
        "STRING",
        Input(name="value", type="STRING", options={"multiline": False}),
    ),
    _primitive(
        "PrimitiveStringMultiline",
        "String (Multiline)",
        "STRING",
        Input(name="value", type="STRING", options={"multiline": True}),
    ),
    Node(
        class_type="PrimitiveNode",
        run=give,
        inputs=(Input(name="value", type=ANY, is_optional=True),),
        outputs=(ANY,),
        category="utilities",
        display_name="Primitive",
        description="A value. The web page writes it into the nodes that it is linked to.",
    ),
    Node(
        class_type="Reroute",
        run=give,
        inputs=(Input(name="", type=ANY),),
        outputs=(ANY,),
        category="utilities",
        display_name="Reroute",
        description="Passes on what it gets. The web page leaves it out of the graphs it submits.",
    ),
    _note("Note", "Note"),
    _note("MarkdownNote", "Markdown Note"),
    Node(
        class_type="PreviewAny",
        run=show,
        inputs=(Input(name="source", type=ANY),),
        category="utilities",
        display_name="Preview as Text",
        is_output=True,
        module="comfy_extras.nodes_preview_any",
    ),
)
