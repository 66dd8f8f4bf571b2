"""Loopback: each picture is drawn over the one before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from deployments.errors import UnsupportedField
from router.apis.sdapi.errors import UnknownScript
from router.apis.sdapi.limits import MAX_PICTURES
from router.apis.sdapi.plan import Layout, Plan, Sheet
from router.apis.sdapi.scripts.call import Call, argument, check_range, shifted, variant

#: How far the strength has gone from the first to the last, after this share of the loops.
CURVES: Final[Mapping[str, Callable[[float], float]]] = {
    "Aggressive": lambda share: math.sin(share * math.pi / 2),
    "Linear": lambda share: share,
    "Lazy": lambda share: 1 - math.cos(share * math.pi / 2),
}
MAX_LOOPS: Final = 32


def plan_loopback(call: Call, args: Sequence[Any]) -> Plan:
    """``loops``, final strength, curve, interrogation; ``n_iter`` chains of one picture each.

    One chain shows all of its pictures behind their grid, several only the last of each.
    """
    loops = argument(args, 0, int, 4)
    last = argument(args, 1, float, 0.5)
    curve = argument(args, 2, str, "Linear")
    check_range(0, loops, 1, MAX_LOOPS)
    check_range(1, last, 0, 1)
    if curve not in CURVES:
        raise UnknownScript(
            f"script_args[2] {curve!r:.100} is unknown; known: {', '.join(CURVES)}",
            param="script_args",
        )
    if argument(args, 3, str, "None") not in ("None", ""):
        raise UnsupportedField("Loopback appends no interrogated prompts here", param="script_args")
    chains = call.body.n_iter
    if chains * loops > MAX_PICTURES:
        raise UnknownScript(
            f"{loops} loops in {chains} batches are {chains * loops} pictures; "
            f"accepted: at most {MAX_PICTURES}",
            param="script_args",
        )
    requests = [
        call.requests(_loop(call, chain * loops + loop, _strength(call, loop, loops, last, curve)))
        for chain in range(chains)
        for loop in range(loops)
    ]
    shown = range(loops) if chains == 1 else range(loops - 1, chains * loops, loops)
    has_grid = len(shown) > 1 and call.setting.options["return_grid"]
    sheet = Sheet(cells=tuple((place,) for place in shown), columns=len(shown))
    return Plan(
        # Loops after a chain's first draw over what came before.
        requests=tuple(
            replace(request, images=()) if index % loops else request
            for index, made in enumerate(requests)
            for request in made
        ),
        script="chain",
        script_args={"length": loops, "keep": "all" if chains == 1 else "last"},
        layout=Layout(sheets=(sheet,) if has_grid else ()),
    )


def _loop(call: Call, index: int, strength: float) -> Any:
    fields = {"seed": shifted(call.body.seed, index), "denoising_strength": strength}
    if index:
        fields["inpainting_fill"] = 1  # what the last loop drew stays under the mask
    return variant(call.body, n_iter=1, batch_size=1, script_name=None, **fields)


def _strength(call: Call, loop: int, loops: int, last: float, curve: str) -> float:
    first = call.body.denoising_strength
    first = 0.75 if first is None else first
    if loops == 1:
        return first
    return first + (last - first) * CURVES[curve](loop / (loops - 1))
