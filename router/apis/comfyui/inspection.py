"""Inspection: one walk through a graph, from its outputs to all that they depend on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from router.apis.comfyui.complaint import (
    Complaint,
    InputComplaints,
    fails_custom_check,
    is_in_cycle,
    output_fails,
)
from router.apis.comfyui.literal import judge, unwrap
from router.apis.comfyui.node import ANY, Input, Node, Offer
from router.apis.comfyui.pixels import MAX_PIXELS
from router.apis.comfyui.values import MAX_BATCH

#: The most nodes that may depend on each other in a chain.
MAX_DEPTH: Final = 500

_TYPES: Final = {bool: "BOOLEAN", int: "INT,FLOAT", float: "FLOAT", str: "STRING"}


class TooDeep(Exception):
    """A chain of nodes is too long. The message names the limit."""


class BadLink(Exception):
    """A link names what is not there. The message is told to the client with Python's name of it.

    Attributes:
        exception: that name.
    """

    def __init__(self, message: str, exception: str) -> None:
        super().__init__(message)
        self.exception = exception


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arrival:
    """By which input a node was reached, and over which link."""

    complaints: InputComplaints
    link: list[Any]


class Inspection:
    """What is wrong with the nodes of a graph.

    Attributes:
        nodes: a copy of the graph; inspected literals have their types.
        complaints: about each node, its own alone.

    Args:
        excesses: what is known to be too much about a node, as (input's name, reason).
    """

    def __init__(
        self,
        prompt: Mapping[str, Any],
        offer: Offer,
        table: Mapping[str, Node],
        *,
        excesses: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    ) -> None:
        self.nodes: dict[str, dict[str, Any]] = {
            node_id: {**node, "inputs": _copied_inputs(node)} for node_id, node in prompt.items()
        }
        self.complaints: dict[str, list[Complaint]] = {}
        self._table = table
        self._offer = offer
        self._excesses = excesses
        self._choices: dict[int, list[str] | None] = {}
        self._sources: dict[str, dict[str, _Arrival]] = {}
        self._depths: dict[str, int] = {}
        self._is_valid: dict[str, bool] = {}

    def passes(self, output: str) -> bool:
        """Whether an output can run. Raises ``TooDeep``."""
        if output not in self._is_valid:
            self._walk(output)
        return self._is_valid[output]

    def tell(self, failed: Sequence[str]) -> dict[str, Any]:
        """``node_errors``, with the failed outputs that depend on each node."""
        told: dict[str, Any] = {}
        for output in failed:
            for node_id in self._reach(output):
                if not self.complaints.get(node_id):
                    continue
                entry = told.setdefault(
                    node_id,
                    {
                        "errors": self.complaints[node_id],
                        "dependent_outputs": [],
                        "class_type": self.nodes[node_id]["class_type"],
                    },
                )
                entry["dependent_outputs"].append(output)
        return told

    def _walk(self, output: str) -> None:
        path: dict[str, Iterator[str]] = {}
        self._enter(output, None, path)
        while path:
            node_id = next(reversed(path))
            following = next(path[node_id], None)
            if following is None:
                self._leave(node_id, path)
            elif following in path:
                self._close_cycle(list(path), following)
            elif following not in self._is_valid:
                self._enter(following, self._sources[node_id][following], path)

    def _enter(
        self, node_id: str, arrival: _Arrival | None, path: dict[str, Iterator[str]]
    ) -> None:
        if len(path) >= MAX_DEPTH:
            raise TooDeep(f"its nodes form too long a chain; accepted: at most {MAX_DEPTH} nodes")
        sources: dict[str, _Arrival] = {}
        self.complaints[node_id] = list(self._inspect(node_id, arrival, sources))
        self._sources[node_id] = sources
        path[node_id] = iter(sources)

    def _leave(self, node_id: str, path: dict[str, Iterator[str]]) -> None:
        del path[node_id]
        sources = self._sources[node_id]
        self._depths[node_id] = 1 + max(
            (self._depths.get(source, 0) for source in sources), default=0
        )
        if self._depths[node_id] > MAX_DEPTH:
            raise TooDeep(f"its nodes form too long a chain; accepted: at most {MAX_DEPTH} nodes")
        self._is_valid[node_id] = not self.complaints[node_id] and all(
            self._is_valid.get(source, False) for source in sources
        )

    def _close_cycle(self, path: Sequence[str], start: str) -> None:
        names = path[path.index(start) :]
        cycle = [(name, self.nodes[name]["class_type"]) for name in names]
        for name in names:
            if all(known["type"] != "dependency_cycle" for known in self.complaints[name]):
                self.complaints[name].insert(0, is_in_cycle(name, cycle))

    def _inspect(
        self, node_id: str, arrival: _Arrival | None, sources: dict[str, _Arrival]
    ) -> Iterator[Complaint]:
        """The complaints about a node itself; fills in the nodes that it depends on."""
        kind, inputs = self._table[self.nodes[node_id]["class_type"]], self.nodes[node_id]["inputs"]
        if not isinstance(inputs, dict):
            yield _told(arrival, BadLink("inputs is not an object", "TypeError"))
            return
        literals: dict[str, Any] = {}
        num_complaints = 0
        for row in kind.inputs:
            try:
                complaint = self._inspect_input(row, inputs, literals, sources)
            except BadLink as error:
                complaint = _told(arrival, error)
            if complaint is not None:
                num_complaints += 1
                yield complaint
        if not num_complaints:
            yield from self._inspect_whole(kind, literals, self._excesses.get(node_id))

    def _inspect_input(
        self,
        row: Input,
        inputs: dict[str, Any],
        literals: dict[str, Any],
        sources: dict[str, _Arrival],
    ) -> Complaint | None:
        choices = self._list_choices(row)
        complaints = InputComplaints(row, choices)
        if row.name not in inputs:
            return None if row.is_optional else complaints.is_missing()
        value = inputs[row.name]
        if not isinstance(value, list):
            inputs[row.name], complaint = judge(row, value, choices)
            literals[row.name] = unwrap(inputs[row.name])
            return complaint
        if len(value) != 2:
            return complaints.is_no_link(value)
        received = self._type_of(value)
        if not _fits(received, row):
            return complaints.has_other_type(received, value)
        sources.setdefault(value[0], _Arrival(complaints=complaints, link=value))
        return None

    def _inspect_whole(
        self, kind: Node, literals: Mapping[str, Any], known: tuple[str, str] | None
    ) -> Iterator[Complaint]:
        if (excess := known or _find_excess(literals)) is not None:
            yield fails_custom_check(*excess)
        elif kind.check is not None and (found := kind.check(self._offer, literals)) is not None:
            yield fails_custom_check(*found)

    def _type_of(self, link: Sequence[Any]) -> str:
        """The type of what a link carries, through nodes that pass on whatever they get."""
        for _ in range(MAX_DEPTH):
            source, kind = self._find_source(link)
            given: str = kind.outputs[link[1]]
            inputs = source["inputs"]
            if given != ANY or not kind.inputs or not isinstance(inputs, dict):
                return given
            passed = inputs.get(kind.inputs[0].name)
            if not isinstance(passed, list):
                return _TYPES.get(type(unwrap(passed)), ANY)
            if len(passed) != 2:
                return ANY
            link = passed
        return ANY

    def _find_source(self, link: Sequence[Any]) -> tuple[dict[str, Any], Node]:
        name, slot = link
        if not isinstance(name, str) or name not in self.nodes:
            raise BadLink(repr(name), "KeyError")
        if not isinstance(slot, int):
            given = type(slot).__name__
            message = f"tuple indices must be integers or slices, not {given}"
            raise BadLink(message, "TypeError")
        source = self.nodes[name]
        kind = self._table[source["class_type"]]
        if isinstance(slot, bool) or not 0 <= slot < len(kind.outputs):
            raise BadLink("tuple index out of range", "IndexError")
        return source, kind

    def _list_choices(self, row: Input) -> list[str] | None:
        if id(row) not in self._choices:
            self._choices[id(row)] = row.list_choices(self._offer)
        return self._choices[id(row)]

    def _reach(self, output: str) -> Iterator[str]:
        seen, waiting = {output}, [output]
        while waiting:
            node_id = waiting.pop()
            yield node_id
            fresh = [source for source in self._sources[node_id] if source not in seen]
            seen.update(fresh)
            waiting.extend(fresh)


def _copied_inputs(node: Mapping[str, Any]) -> Any:
    inputs = node.get("inputs", {})
    return dict(inputs) if isinstance(inputs, dict) else inputs


def _find_excess(literals: Mapping[str, Any]) -> tuple[str, str] | None:
    """What a node asks for that no node may, as (input's name, reason)."""
    sizes = [literals.get(name) for name in ("width", "height")]
    count = literals.get("batch_size", 1)
    if not all(isinstance(size, int) for size in sizes):
        return None
    if isinstance(count, int) and count > MAX_BATCH:
        return "batch_size", f"{count} pictures are too many; accepted: at most {MAX_BATCH}"
    asked = [size for size in (*sizes, count) if isinstance(size, int)]
    if math.prod(asked) > MAX_PIXELS:
        size = " x ".join(map(str, asked))
        return "width", f"{size} are too many pixels; accepted: at most {MAX_PIXELS}"
    return None


def _told(arrival: _Arrival | None, error: BadLink) -> Complaint:
    if arrival is None:
        return output_fails(str(error), error.exception)
    return arrival.complaints.source_fails(str(error), error.exception, arrival.link)


def _fits(received: str, row: Input) -> bool:
    """Whether types meet: each is one or several with commas between, or ``*``.

    A choice has to be there before the graph runs: what it names is looked up by then.
    """
    if row.choices is not None:
        return False
    if ANY in (received, row.type):
        return True
    return not {part.strip() for part in received.split(",")}.isdisjoint(
        part.strip() for part in row.type.split(",")
    )
