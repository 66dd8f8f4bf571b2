"""What ``/object_info`` tells of the nodes: their inputs, choices, ranges, outputs and names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.apis.comfyui.node import Input, Node, Offer
from router.apis.comfyui.nodes import NODES


def render_nodes(offer: Offer, *, table: Mapping[str, Node] = NODES) -> dict[str, Any]:
    """Every node, by its name."""
    return {name: render_node(node, offer) for name, node in table.items()}


def render_node(node: Node, offer: Offer) -> dict[str, Any]:
    """One node in ComfyUI's first schema, which all clients read: choices stand for a type."""
    groups = {
        "required": {row.name: _config(row, offer) for row in node.inputs if not row.is_optional},
        "optional": {row.name: _config(row, offer) for row in node.inputs if row.is_optional},
        "hidden": {name: [kind] for name, kind in node.hidden.items()},
    }
    told: dict[str, Any] = {
        "input": groups,
        "input_order": {group: list(inputs) for group, inputs in groups.items() if inputs},
        "is_input_list": node.takes_lists,
        "output": list(node.outputs),
        "output_is_list": list(node.gives_lists) or [False] * len(node.outputs),
        "output_name": list(node.output_names or node.outputs),
        "name": node.class_type,
        "display_name": node.display_name or node.class_type,
        "description": node.description,
        "python_module": node.module,
        "category": node.category,
        "output_node": node.is_output,
    }
    if node.output_tooltips:
        told["output_tooltips"] = list(node.output_tooltips)
    if node.is_deprecated:
        told["deprecated"] = True
    if node.is_experimental:
        told["experimental"] = True
    return told


def _config(row: Input, offer: Offer) -> list[Any]:
    """``[type]`` or ``[type, options]``, where choices are a list in the type's place."""
    choices = row.list_choices(offer)
    kind: Any = row.type if choices is None else choices
    return [kind, dict(row.options)] if row.options else [kind]
