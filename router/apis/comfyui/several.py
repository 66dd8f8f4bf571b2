"""Lists on links: which calls they make of a node, and what becomes of the calls' outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from deployments.errors import InvalidRequest
from router.apis.comfyui.node import Node
from router.apis.comfyui.values import Several, Shown

#: The most calls that lists may make of one node.
MAX_CALLS: Final = 256


def spread(node: Node, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The calls of a node: one for each value of the longest list among its inputs.

    A shorter list's last value is used again. A node that ``takes_lists`` is called once, with a
    tuple for every input. Raises ``InvalidRequest`` when the calls are too many.
    """
    if node.takes_lists:
        return [{name: _values(value) for name, value in inputs.items()}]
    count = max((len(_values(value)) for value in inputs.values()), default=1)
    if count > MAX_CALLS:
        raise InvalidRequest(f"a list of {count} is too long; accepted: at most {MAX_CALLS}")
    return [
        {name: _values(value)[: k + 1][-1] for name, value in inputs.items()} for k in range(count)
    ]


def gather(results: Sequence[tuple[Any, ...] | Shown]) -> tuple[Any, ...] | Shown:
    """What a node gives, from what its calls gave: lists where more than one call was made."""
    first = results[0]
    if isinstance(first, Shown):
        return _joined([result for result in results if isinstance(result, Shown)])
    if len(results) == 1:
        return first
    columns = zip(*(result for result in results if isinstance(result, tuple)), strict=True)
    return tuple(Several(values=tuple(_flat(column))) for column in columns)


def _joined(shown: Sequence[Shown]) -> Shown:
    output: dict[str, list[Any]] = {}
    for one in shown:
        for key, values in one.output.items():
            output.setdefault(key, []).extend(values)
    return Shown(output=output)


def _values(value: Any) -> tuple[Any, ...]:
    return value.values if isinstance(value, Several) else (value,)


def _flat(column: Sequence[Any]) -> list[Any]:
    return [item for value in column for item in _values(value)]
