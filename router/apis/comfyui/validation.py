"""Validation of a graph: which of its outputs can run, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from router.apis.body import layers
from router.apis.comfyui.bounds import find_excesses
from router.apis.comfyui.complaint import Complaint, complain, has_no_class, has_unknown_class
from router.apis.comfyui.graph import MAX_NODES, Graph
from router.apis.comfyui.inspection import Inspection, TooDeep
from router.apis.comfyui.node import Node, Offer
from router.apis.comfyui.nodes import NODES

#: The longest id of a node, in characters.
MAX_ID: Final = 128
#: The most characters of all texts of a graph together.
MAX_CHARACTERS: Final = 4 * 1024 * 1024
#: The deepest values of a graph.
MAX_NESTING: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidGraph:
    """A graph of which at least one output can run; ``node_errors`` tells why others cannot."""

    graph: Graph
    node_errors: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why nothing of a graph can run: the body of the 400."""

    error: Complaint
    node_errors: dict[str, Any] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        """As JSON."""
        return {"error": self.error, "node_errors": self.node_errors}


def validate(body: Any, offer: Offer, *, table: Mapping[str, Node] = NODES) -> ValidGraph | Refusal:
    """What becomes of the body of ``POST /prompt``, which may be any JSON and is left as it is.

    Of it ``prompt`` and ``partial_execution_targets`` matter here. Texts and types of the
    complaints are those of ComfyUI's ``execution.py`` (2026); what it has no words for, such as
    our limits, is ``invalid_prompt`` or ``custom_validation_failed``.
    """
    if not isinstance(body, dict) or "prompt" not in body:
        return Refusal(error=complain("no_prompt", "No prompt provided", "No prompt provided"))
    prompt, targets = body["prompt"], body.get("partial_execution_targets")
    error = _find_excess(prompt) or _find_strange_node(prompt, table)
    if error is None and not (targets is None or isinstance(targets, list)):
        error = _refuse("partial_execution_targets is not a list of node ids")
    if error is not None:
        return Refusal(error=error)
    wanted = prompt if targets is None else {name for name in targets if isinstance(name, str)}
    outputs = [
        node_id
        for node_id, node in prompt.items()
        if table[node["class_type"]].is_output and node_id in wanted
    ]
    if not outputs:
        return Refusal(error=complain("prompt_no_outputs", "Prompt has no outputs"))
    return _inspect(prompt, outputs, offer, table)


def _inspect(
    prompt: Mapping[str, Any], outputs: Sequence[str], offer: Offer, table: Mapping[str, Node]
) -> ValidGraph | Refusal:
    inspection = Inspection(prompt, offer, table)
    try:
        good = [output for output in outputs if inspection.passes(output)]
    except TooDeep as error:
        return Refusal(error=_refuse(str(error)))
    if excesses := find_excesses(Graph(inspection.nodes, good, table=table), offer):
        inspection = Inspection(prompt, offer, table, excesses=excesses)
        good = [output for output in good if inspection.passes(output)]
    bad = [output for output in outputs if not inspection.passes(output)]
    node_errors = inspection.tell(bad)
    if good:
        graph = Graph(inspection.nodes, good, table=table)
        return ValidGraph(graph=graph, node_errors=node_errors)
    reasons = (reason for output in bad for reason in inspection.complaints.get(output, ()))
    details = "\n".join(f"{reason['message']}: {reason['details']}" for reason in reasons)
    message = "Prompt outputs failed validation"
    return Refusal(
        error=complain("prompt_outputs_failed_validation", message, details),
        node_errors=node_errors,
    )


def _find_strange_node(prompt: Mapping[str, Any], table: Mapping[str, Node]) -> Complaint | None:
    for node_id, node in prompt.items():
        if not isinstance(node, dict) or "class_type" not in node:
            return has_no_class(node_id, _title(node))
        class_type = node["class_type"]
        if not isinstance(class_type, str) or class_type not in table:
            return has_unknown_class(node_id, class_type, _title(node))
    return None


def _title(node: Any) -> str | None:
    meta = node.get("_meta") if isinstance(node, dict) else None
    title = meta.get("title") if isinstance(meta, dict) else None
    return title if isinstance(title, str) else None


def _find_excess(prompt: Any) -> Complaint | None:
    """What is wrong with the graph's size or shape."""
    if not isinstance(prompt, dict):
        return _refuse("prompt is not an object of nodes")
    if len(prompt) > MAX_NODES:
        return _refuse(f"it has {len(prompt)} nodes; accepted: at most {MAX_NODES}")
    if any(len(node_id) > MAX_ID for node_id in prompt):
        return _refuse(f"the id of a node is too long; accepted: at most {MAX_ID} characters")
    num_characters = 0
    for depth, layer in enumerate(layers(prompt)):
        if depth > MAX_NESTING:
            return _refuse(f"it is nested too deeply; accepted: at most {MAX_NESTING} levels")
        num_characters += sum(len(item) for item in layer if isinstance(item, str))
    if num_characters > MAX_CHARACTERS:
        return _refuse(f"its texts are too long; accepted: at most {MAX_CHARACTERS} characters")
    return None


def _refuse(reason: str) -> Complaint:
    return complain("invalid_prompt", f"Cannot execute the prompt: {reason}", reason)
