"""The scripts that a call may name, and how each lays out its requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from router.apis.sdapi.bodies import Generation, ImageToImage
from router.apis.sdapi.errors import UnknownScript
from router.apis.sdapi.limits import check_drawn
from router.apis.sdapi.parse import Setting
from router.apis.sdapi.plan import Layout, Plan, Sheet
from router.apis.sdapi.scripts.call import Call
from router.apis.sdapi.scripts.loopback import plan_loopback
from router.apis.sdapi.scripts.prompt_matrix import plan_prompt_matrix
from router.apis.sdapi.scripts.sd_upscale import plan_sd_upscale
from router.apis.sdapi.scripts.xyz_plot import plan_xyz_plot

PlanScript: TypeAlias = Callable[[Call, Sequence[Any]], Plan]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A script by its title; ``args`` are the labels of its arguments, in order."""

    title: str
    plan: PlanScript
    args: tuple[str, ...]
    needs_image: bool = False


SCRIPTS: Final = (
    Script(
        title="Loopback",
        plan=plan_loopback,
        args=(
            "Loops",
            "Final denoising strength",
            "Denoising strength curve",
            "Append interrogated prompt at each iteration",
        ),
        needs_image=True,
    ),
    Script(
        title="Prompt matrix",
        plan=plan_prompt_matrix,
        args=(
            "Put variable parts at start of prompt",
            "Use different seed for each picture",
            "Select prompt",
            "Select joining char",
            "Grid margins (px)",
        ),
    ),
    Script(
        title="SD upscale",
        plan=plan_sd_upscale,
        args=("", "Tile overlap", "Upscaler", "Scale Factor"),
        needs_image=True,
    ),
    Script(
        title="X/Y/Z plot",
        plan=plan_xyz_plot,
        args=(
            *(f"{axis} {what}" for axis in "XYZ" for what in ("type", "values", "values")),
            "Draw legend",
            "Include Sub Images",
            "Include Sub Grids",
            "Keep -1 for seeds",
            "Vary seeds for X",
            "Vary seeds for Y",
            "Vary seeds for Z",
            "Grid margins (px)",
            "Use text inputs instead of dropdowns",
        ),
    ),
)


def make_plan(call: Call) -> Plan:
    """The plan of a call: by the script that it names, else its iterations one after another.

    Raises ``UnknownScript``, ``InvalidRequest``.
    """
    body = call.body
    _check_alwayson(body)
    plan = (
        find_script(body).plan(call, body.script_args)
        if body.script_name
        else _plan_iterations(call)
    )
    check_drawn(plan.requests)
    refiners = plan.refiners or [call.refiner(body)] * len(plan.requests)
    asked = [refiner for refiner in refiners if refiner]
    models = sorted({refiner["model"] for refiner in asked})
    if not models:
        return plan
    weights = sorted({refiner["weights"] for refiner in asked if "weights" in refiner})
    refined = {"refiners": refiners, "models": models, "weights": weights}
    return replace(plan, script_args={**plan.script_args, **refined})


def _plan_iterations(call: Call) -> Plan:
    body, options = call.body, call.setting.options
    requests = call.requests(body)
    count = body.batch_size * body.n_iter
    in_turn = {"at_once": len(requests) // body.n_iter}
    if not (body.save_images and options["return_grid"] and count > 1):
        return Plan(requests=requests, script="in_turn", script_args=in_turn)
    columns = grid_columns(count, int(options["n_rows"]), body.batch_size)
    sheet = Sheet(cells=tuple((place,) for place in range(count)), columns=columns)
    layout = Layout(sheets=(sheet,))
    return Plan(requests=requests, script="in_turn", script_args=in_turn, layout=layout)


def grid_columns(count: int, rows: int, batch_size: int) -> int:
    """Columns of a grid: by the option ``n_rows``, where 0 is the batch size, else squarish."""
    rows = rows if rows > 0 else (batch_size if rows == 0 else round(count**0.5))
    return -(-count // max(1, min(rows, count)))


def find_script(body: Generation) -> Script:
    """The script that the body names. Raises ``UnknownScript``, which lists the known ones."""
    script = _by_title(body, body.script_name or "")
    if script is None:
        raise _unknown(body, body.script_name or "")
    return script


def render_scripts() -> dict[str, list[str]]:
    """``GET scripts``: lower-case titles."""
    titles = {is_over: [s.title.lower() for s in _of(is_over)] for is_over in (False, True)}
    return {"txt2img": titles[False], "img2img": titles[True]}


def render_script_info() -> list[dict[str, Any]]:
    """``GET script-info``."""
    return [
        {
            "name": script.title.lower(),
            "is_alwayson": False,
            "is_img2img": is_over,
            "args": [{"label": label, "value": None} for label in script.args],
        }
        for is_over in (False, True)
        for script in _of(is_over)
    ]


def _check_alwayson(body: Generation) -> None:
    for name in body.alwayson_scripts:
        if _by_title(body, name) is None:
            raise _unknown(body, name)
        raise UnknownScript(
            "Cannot have a selectable script in the always on scripts params",
            param="alwayson_scripts",
        )


def _unknown(body: Generation, name: str) -> UnknownScript:
    known = ", ".join(script.title for script in _of(isinstance(body, ImageToImage)))
    return UnknownScript(f"Script '{name:.200}' not found; known: {known}", param="script_name")


def _by_title(body: Generation, name: str) -> Script | None:
    scripts = _of(isinstance(body, ImageToImage))
    return next((script for script in scripts if script.title.lower() == name.lower()), None)


def _of(is_over: bool) -> list[Script]:
    return [script for script in SCRIPTS if is_over or not script.needs_image]


__all__ = ["SCRIPTS", "Call", "Setting", "find_script", "make_plan"]
