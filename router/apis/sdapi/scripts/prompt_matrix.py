"""Prompt matrix: a picture for each choice of the parts of a prompt between bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from deployments.types import GenerationRequest
from router.apis.sdapi.errors import UnknownScript
from router.apis.sdapi.plan import Layout, Plan, Sheet
from router.apis.sdapi.scripts.call import Call, argument, check_range, shifted, variant

#: The most parts that may be left out: each doubles the pictures.
MAX_PARTS: Final = 7
#: How many pictures are drawn side by side, at least.
AT_ONCE: Final = 4
_JOINTS: Final = {"comma": ", ", "space": " "}


def plan_prompt_matrix(call: Call, args: Sequence[Any]) -> Plan:
    """Put at start, different seeds, "positive" or "negative", "comma" or "space", margin.

    Picture k has the parts whose bits are set in k. The grid comes first, its rows told by the
    later parts.
    """
    is_first = argument(args, 0, bool, False)
    has_own_seeds = argument(args, 1, bool, False)
    kind = argument(args, 2, str, "positive")
    joint = argument(args, 3, str, "comma")
    margin = argument(args, 4, int, 0)
    check_range(4, margin, 0, 500)
    if kind not in ("positive", "negative") or joint not in _JOINTS:
        raise UnknownScript(
            f"script_args: unknown prompt type {kind!r:.50} or joining char {joint!r:.50}; "
            "known: positive, negative; comma, space",
            param="script_args",
        )
    field = "prompt" if kind == "positive" else "negative_prompt"
    base, *parts = getattr(call.body, field).split("|")
    check_range(2, len(parts), 0, MAX_PARTS)
    requests: list[GenerationRequest] = []
    for choice, words in enumerate(_choices(base, parts, is_first=is_first)):
        fields = {field: _JOINTS[joint].join(words), "n_iter": 1, "batch_size": 1}
        seed = shifted(call.body.seed, choice if has_own_seeds else 0)
        requests.extend(call.requests(variant(call.body, seed=seed, **fields)))
    return Plan(
        requests=tuple(requests),
        script="in_turn",
        script_args={"at_once": max(AT_ONCE, call.body.batch_size)},
        layout=Layout(sheets=(_sheet([part.strip() for part in parts]),), margin=margin),
    )


def _choices(base: str, parts: list[str], *, is_first: bool) -> Iterator[list[str]]:
    """The words of every picture: the base and the parts whose bits are set in its number."""
    for choice in range(2 ** len(parts)):
        chosen = [part.strip().strip(",") for k, part in enumerate(parts) if choice >> k & 1]
        yield [*chosen, base] if is_first else [base, *chosen]


def _sheet(parts: list[str]) -> Sheet:
    num_rows = 1 << (len(parts) // 2)
    columns = 2 ** len(parts) // num_rows
    num_across = columns.bit_length() - 1
    return Sheet(
        cells=tuple((place,) for place in range(2 ** len(parts))),
        columns=columns,
        x_labels=_labels(parts[:num_across]),
        y_labels=_labels(parts[num_across:]),
    )


def _labels(parts: list[str]) -> tuple[str, ...]:
    """What each column, or row, has of the parts that it is told by."""
    if not parts:
        return ()
    return tuple(
        ", ".join(part for k, part in enumerate(parts) if choice >> k & 1) or "-"
        for choice in range(2 ** len(parts))
    )
