"""X/Y/Z plot: a picture for each combination of values along up to three axes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Final

from router.apis.sdapi.bodies import Generation
from router.apis.sdapi.errors import UnknownScript
from router.apis.sdapi.limits import MAX_PICTURES
from router.apis.sdapi.plan import Layout, Plan, Sheet
from router.apis.sdapi.scripts.axes import Axis, draw_seeds, find_axis, parse_values
from router.apis.sdapi.scripts.call import Call, argument, check_range, shifted, variant

#: Arguments of an axis: type, values as text, values chosen. Clients of old releases send no
#: chosen ones, and no switches to vary seeds.
_OLD_LENGTHS: Final = frozenset({10, 11})
_LENGTH_WITHOUT_VARY: Final = 15
#: How many cells are drawn side by side.
CELLS_AT_ONCE: Final = 4


def plan_xyz_plot(call: Call, args: Sequence[Any]) -> Plan:
    """The axes' types and values, then: legend, sub images, sub grids, random seeds, seeds varied
    along X, Y and Z, margin, text inputs.

    The grid comes first; more than one Z value makes a grid of grids.
    """
    axes, values, rest = _axes(call.body, _modern(args))
    legend, pictures, grids, keeps_random, *varies = (
        argument(rest, k, bool, k == 0) for k in range(7)
    )
    margin = argument(rest, 7, int, 0)
    check_range(16, margin, 0, 500)
    xs, ys, zs = values
    per_cell = call.body.batch_size * call.body.n_iter
    if len(xs) * len(ys) * len(zs) * per_cell > MAX_PICTURES:
        raise UnknownScript(
            f"the plot has {len(xs) * len(ys) * len(zs) * per_cell} pictures; "
            f"accepted: at most {MAX_PICTURES}",
            param="script_args",
        )
    if not keeps_random:
        values = [draw_seeds(axis, along) for axis, along in zip(axes, values, strict=True)]
    first = call.asked if keeps_random else call.body
    cells = [
        (call.requests(cell), call.refiner(cell)) for cell in _cells(first, axes, values, varies)
    ]
    requests = [request for made, _ in cells for request in made]
    labels = [
        tuple(_label(axis, value) for value in along) if legend else ()
        for axis, along in zip(axes, values, strict=True)
    ]
    sheets = tuple(_sheet(k, len(xs), len(ys), per_cell, labels) for k in range(len(zs)))
    layout = Layout(sheets=sheets, shows_sheets=grids, shows_pictures=pictures, margin=margin)
    return Plan(
        requests=tuple(requests),
        script="in_turn",
        script_args={"at_once": CELLS_AT_ONCE * (len(requests) // len(cells))},
        layout=layout,
        refiners=tuple(refiner for made, refiner in cells for _ in made),
    )


def _cells(
    first: Generation,
    axes: Sequence[Axis],
    values: Sequence[Sequence[Any]],
    varies: Sequence[bool],
) -> Iterator[Generation]:
    """The bodies of the cells, variants of the first one, row by row and sheet by sheet. Where that
    leaves its seed open, each cell draws its own."""
    xs, ys, zs = values
    for iz, iy, ix in itertools.product(range(len(zs)), range(len(ys)), range(len(xs))):
        body = first
        for axis, along, index in zip(axes, values, (ix, iy, iz), strict=True):
            assert axis.apply is not None
            body = axis.apply(body, along[index], along)
        seed = shifted(body.seed, _shift(varies, (ix, iy, iz), (len(xs), len(ys))))
        yield variant(body, seed=seed, script_name=None)


def _modern(args: Sequence[Any]) -> list[Any]:
    """The arguments as the newest release has them."""
    args = list(args)
    if len(args) in _OLD_LENGTHS and not isinstance(args[2], list):
        axes: list[Any] = []
        for start in (0, 2, 4):
            axes += [args[start], args[start + 1], []]
        return [*axes, *args[6:10], False, False, False, *args[10:], True]
    if len(args) == _LENGTH_WITHOUT_VARY:
        return [*args[:13], False, False, False, *args[13:]]
    return args


def _axes(body: Generation, args: Sequence[Any]) -> tuple[list[Axis], list[list[Any]], list[Any]]:
    is_text = argument(args, 17, bool, False)
    axes, values = [], []
    for start in (0, 3, 6):
        kind, text, chosen = (*args[start : start + 3], None, None, None)[:3]
        axis = find_axis(body, kind or 0)
        axes.append(axis)
        values.append(parse_values(axis, text, chosen if axis.has_choices and not is_text else []))
    return axes, values, list(args[9:])


def _shift(varies: Sequence[bool], place: tuple[int, int, int], lengths: tuple[int, int]) -> int:
    """How far the seed is from the call's, where it differs along axes."""
    shift, step = 0, 1
    for is_varied, index, length in zip(varies, place, (*lengths, 1), strict=False):
        if is_varied:
            shift += index * step
            step *= length
    return shift


def _label(axis: Axis, value: Any) -> str:
    if axis.label == "Nothing":
        return ""
    if axis.kind in (int, float):
        return f"{axis.label}: {value}"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _sheet(
    index: int, columns: int, rows: int, per_cell: int, labels: Sequence[tuple[str, ...]]
) -> Sheet:
    first = index * columns * rows
    xs, ys, zs = labels
    return Sheet(
        cells=tuple(
            tuple(range(cell * per_cell, (cell + 1) * per_cell))
            for cell in range(first, first + columns * rows)
        ),
        columns=columns,
        x_labels=xs if any(xs) else (),
        y_labels=ys if any(ys) else (),
        title=zs[index] if any(zs) else "",
    )
