"""Literals: what a client wrote into an input of a node, made its type and held to its range."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from router.apis.comfyui.complaint import Complaint, InputComplaints, fails_custom_check
from router.apis.comfyui.node import Input

#: The longest text of an input, in characters.
MAX_TEXT: Final = 20_000
#: The key that tells a list which is a value from a link.
WRAPPER: Final = "__value__"

_CONVERSIONS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "INT": int,
    "FLOAT": float,
    "STRING": str,
    "BOOLEAN": bool,
}


def unwrap(value: Any) -> Any:
    """A value without the wrapping that tells a list from a link."""
    return value[WRAPPER] if isinstance(value, dict) and WRAPPER in value else value


def judge(row: Input, value: Any, choices: Sequence[str] | None) -> tuple[Any, Complaint | None]:
    """An input's literal as the graph is to hold it, and what is wrong with it.

    ``choices`` are those of ``row`` for the owner. What a literal of a type becomes is what
    Python's ``int``, ``float``, ``str`` and ``bool`` make of it, as in ComfyUI: the text "false" is
    true.
    """
    complaints = InputComplaints(row, choices)
    bare = unwrap(value)
    if row.is_link and not (bare is None and row.is_optional):
        return value, complaints.is_no_link(value)
    if choices is not None:
        is_chosen = row.is_open or (isinstance(bare, str) and bare in choices)
        return bare, None if is_chosen else complaints.is_no_choice(bare)
    if row.type not in _CONVERSIONS:
        return value if isinstance(bare, list) else bare, None
    try:
        converted = _CONVERSIONS[row.type](bare)
        if isinstance(converted, float) and not math.isfinite(converted):
            return bare, complaints.cannot_convert(bare, "it is not a finite number")
    except (TypeError, ValueError, OverflowError) as error:
        return bare, complaints.cannot_convert(bare, str(error))
    return converted, _find_excess(row, converted, complaints)


def _find_excess(row: Input, value: Any, complaints: InputComplaints) -> Complaint | None:
    if "min" in row.options and value < row.options["min"]:
        return complaints.is_too_small(value, row.options["min"])
    if "max" in row.options and value > row.options["max"]:
        return complaints.is_too_big(value, row.options["max"])
    if isinstance(value, str) and len(value) > MAX_TEXT:
        reason = f"{len(value)} characters are too many; accepted: at most {MAX_TEXT}"
        return fails_custom_check(row.name, reason)
    return None
