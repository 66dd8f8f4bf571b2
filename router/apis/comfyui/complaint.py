"""Complaints: what is wrong with a graph, in the words that ComfyUI's clients look for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from router.apis.comfyui.node import Input

#: ``type``, ``message``, ``details`` and ``extra_info``.
Complaint: TypeAlias = dict[str, Any]

#: Choices beyond which a complaint tells their number and not all of them.
MAX_CHOICES: Final = 20
#: Nodes of a cycle that a complaint names.
MAX_CYCLE_NODES: Final = 100


def complain(kind: str, message: str, details: str = "", **extra_info: Any) -> Complaint:
    """A complaint of any type."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


class InputComplaints:
    """Complaints about one input of a node.

    ``choices`` are what the input may be, when it has choices.
    """

    def __init__(self, row: Input, choices: Sequence[str] | None) -> None:
        self._name = row.name
        self._options = dict(row.options)
        self._choices = choices
        self._type = row.type

    @property
    def config(self) -> list[Any] | None:
        """``input_config``: a type or choices, and options. None when the choices are many."""
        if self._choices is None:
            return [self._type, self._options]
        if len(self._choices) > MAX_CHOICES:
            return None
        return [list(self._choices), self._options]

    def is_missing(self) -> Complaint:
        """It is required and was not given."""
        return complain(
            "required_input_missing",
            "Required input is missing",
            self._name,
            input_name=self._name,
        )

    def is_no_link(self, value: Any) -> Complaint:
        """What was given is neither a literal of its type nor a link."""
        message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
        return self._about(value, "bad_linked_input", message, self._name)

    def has_other_type(self, received: str, link: Sequence[Any]) -> Complaint:
        """It is linked to an output of another type."""
        return complain(
            "return_type_mismatch",
            "Return type mismatch between linked nodes",
            f"{self._name}, received_type({received}) mismatch input_type({self._accepted})",
            input_name=self._name,
            input_config=self.config,
            received_type=received,
            linked_node=list(link),
        )

    def cannot_convert(self, value: Any, reason: str) -> Complaint:
        """Its literal cannot be made its type."""
        return complain(
            "invalid_input_type",
            f"Failed to convert an input value to a {self._type} value",
            f"{self._name}, {value}, {reason}",
            input_name=self._name,
            input_config=self.config,
            received_value=value,
            exception_message=reason,
        )

    def is_too_small(self, value: Any, minimum: Any) -> Complaint:
        """It is below its minimum."""
        message = f"Value {value} smaller than min of {minimum}"
        return self._about(value, "value_smaller_than_min", message, self._name)

    def is_too_big(self, value: Any, maximum: Any) -> Complaint:
        """It is above its maximum."""
        message = f"Value {value} bigger than max of {maximum}"
        return self._about(value, "value_bigger_than_max", message, self._name)

    def is_no_choice(self, value: Any) -> Complaint:
        """It is none of its choices."""
        details = f"{self._name}: {value!r} not in {self._accepted}"
        return self._about(value, "value_not_in_list", "Value not in list", details)

    def source_fails(self, reason: str, exception: str, link: Sequence[Any]) -> Complaint:
        """The node that it is linked to cannot be looked at."""
        return complain(
            "exception_during_inner_validation",
            "Exception when validating inner node",
            reason,
            input_name=self._name,
            input_config=self.config,
            exception_message=reason,
            exception_type=exception,
            traceback=[],
            linked_node=list(link),
        )

    @property
    def _accepted(self) -> str:
        if self._choices is None:
            return self._type
        if len(self._choices) > MAX_CHOICES:
            return f"(list of length {len(self._choices)})"
        return str(list(self._choices))

    def _about(self, value: Any, kind: str, message: str, details: str) -> Complaint:
        return complain(
            kind,
            message,
            details,
            input_name=self._name,
            input_config=self.config,
            received_value=value,
        )


def fails_custom_check(name: str, reason: str) -> Complaint:
    """A node's own check, or a limit of ours, refuses an input."""
    return complain(
        "custom_validation_failed",
        "Custom validation failed for node",
        f"{name} - {reason}",
        input_name=name,
    )


def output_fails(reason: str, exception: str) -> Complaint:
    """An output node cannot be looked at."""
    return complain(
        "exception_during_validation",
        "Exception when validating node",
        reason,
        exception_type=exception,
        traceback=[],
    )


def is_in_cycle(node_id: str, cycle: Sequence[tuple[str, str]]) -> Complaint:
    """A node depends on itself. ``cycle`` holds (id, class) of its nodes, each once, in order."""
    path = [f"{name} ({kind})" for name, kind in (*cycle, cycle[0])]
    if len(path) > MAX_CYCLE_NODES:
        path[MAX_CYCLE_NODES:-1] = ["..."]
    return complain(
        "dependency_cycle",
        "Dependency cycle detected",
        " -> ".join(path),
        node_id=node_id,
        cycle_nodes=[name for name, _ in cycle[:MAX_CYCLE_NODES]],
    )


def has_no_class(node_id: str, title: str | None) -> Complaint:
    """A node of the graph does not say what kind of node it is."""
    return complain(
        "missing_node_type",
        f"Node '{title or f'ID #{node_id}'}' has no class_type. "
        "The workflow may be corrupted or a custom node is missing.",
        f"Node ID '#{node_id}'",
        node_id=node_id,
        class_type=None,
        node_title=title,
    )


def has_unknown_class(node_id: str, class_type: Any, title: str | None) -> Complaint:
    """There is no such kind of node."""
    title = str(class_type) if title is None else title
    return complain(
        "missing_node_type",
        f"Node '{title}' not found. The custom node may not be installed.",
        f"Node ID '#{node_id}'",
        node_id=node_id,
        class_type=class_type,
        node_title=title,
    )
