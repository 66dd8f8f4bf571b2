"""Axes of an X/Y/Z plot: what each changes of a body, and how its values are written."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from deployments.errors import UnsupportedField
from deployments.types import SEED_RANGE
from router.apis.sdapi.bodies import Generation, ImageToImage
from router.apis.sdapi.errors import UnknownScript
from router.apis.sdapi.limits import check_length
from router.apis.sdapi.scripts.call import variant

#: The body with a value of the axis; the third argument are all of its values.
Apply: TypeAlias = Callable[[Generation, Any, Sequence[Any]], Generation]

_NUMBER: Final = r"([+-]?\s*\d+(?:\.\d*)?)"
#: ``1-5``, ``1-5 (+2)`` and ``1-5 [3]``: from, to, and a step or how many.
_RANGE: Final = re.compile(
    rf"\s*{_NUMBER}\s*-\s*{_NUMBER}\s*(?:\(([+-]\d+(?:\.\d*)?)\s*\)|\[(\d+)\s*\])?\s*"
)
#: The most values of one axis.
MAX_VALUES: Final = 100
#: The longest word that may be a range.
_MAX_RANGE_LENGTH: Final = 100
#: Labels of the axes whose -1 is a seed to be drawn.
_SEEDS: Final = frozenset({"Seed", "Var. seed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis; ``apply`` is None for those that this server cannot honour."""

    label: str
    kind: Callable[[Any], Any] = str
    apply: Apply | None = None
    is_img2img: bool | None = None
    has_choices: bool = False
    is_permuted: bool = False


def _field(name: str) -> Apply:
    return lambda body, value, _: variant(body, **{name: value})


def _option(name: str) -> Apply:
    def apply(body: Generation, value: Any, _: Sequence[Any]) -> Generation:
        return variant(body, override_settings={**body.override_settings, name: value})

    return apply


def _replace(body: Generation, value: str, values: Sequence[str]) -> Generation:
    """Prompt S/R: the first value's words become this one's."""
    sought = values[0]
    if not sought:
        raise UnknownScript("Prompt S/R cannot search for nothing.", param="script_args")
    if sought not in body.prompt and sought not in body.negative_prompt:
        raise UnknownScript(
            f"Prompt S/R did not find {sought!r:.100} in prompt or negative prompt.",
            param="script_args",
        )
    for name in ("prompt", "negative_prompt"):
        text = getattr(body, name)
        check_length(name, len(text) + text.count(sought) * (len(value) - len(sought)))
    return variant(
        body,
        prompt=body.prompt.replace(sought, value),
        negative_prompt=body.negative_prompt.replace(sought, value),
    )


def _reorder(body: Generation, words: Sequence[str], _: Sequence[Any]) -> Generation:
    """Prompt order: the words in the places where any of them stood."""
    if not all(words):
        raise UnknownScript("Prompt order cannot search for nothing.", param="script_args")
    check_length("prompt", len(body.prompt) + sum(map(len, words)))
    places = sorted((body.prompt.find(word), word) for word in words)
    rest = body.prompt
    parts: list[str] = []
    for (_place, old), new in zip(places, words, strict=True):
        before, _, rest = rest.partition(old)
        parts.extend((before, new))
    return variant(body, prompt="".join(parts) + rest)


def _size(body: Generation, value: str, _: Sequence[Any]) -> Generation:
    match = re.fullmatch(r"\s*(\d{1,5})\s*x\s*(\d{1,5})\s*", value)
    if match is None:
        raise UnknownScript(f"Invalid size in XYZ plot: {value!r:.50}", param="script_args")
    return variant(body, width=int(match[1]), height=int(match[2]))


def _styles(body: Generation, value: str, _: Sequence[Any]) -> Generation:
    return variant(body, styles=[*(body.styles or ()), *value.split(",")])


#: In A1111's order, by which clients count.
AXES: Final = (
    Axis(label="Nothing", apply=lambda body, _value, _values: body),
    Axis(label="Seed", kind=int, apply=_field("seed")),
    Axis(label="Var. seed", kind=int, apply=_field("subseed")),
    Axis(label="Var. strength", kind=float, apply=_field("subseed_strength")),
    Axis(label="Steps", kind=int, apply=_field("steps")),
    Axis(label="Hires steps", kind=int, apply=_field("hr_second_pass_steps"), is_img2img=False),
    Axis(label="CFG Scale", kind=float, apply=_field("cfg_scale")),
    Axis(label="Image CFG Scale", kind=float, is_img2img=True),
    Axis(label="Prompt S/R", apply=_replace),
    Axis(label="Prompt order", apply=_reorder, is_permuted=True),
    Axis(label="Sampler", apply=_field("sampler_name"), is_img2img=False, has_choices=True),
    Axis(
        label="Hires sampler", apply=_field("hr_sampler_name"), is_img2img=False, has_choices=True
    ),
    Axis(label="Sampler", apply=_field("sampler_name"), is_img2img=True, has_choices=True),
    Axis(label="Checkpoint name", apply=_option("sd_model_checkpoint"), has_choices=True),
    Axis(label="Negative Guidance minimum sigma", kind=float, apply=_field("s_min_uncond")),
    Axis(label="Sigma Churn", kind=float, apply=_field("s_churn")),
    Axis(label="Sigma min", kind=float, apply=_field("s_tmin")),
    Axis(label="Sigma max", kind=float, apply=_field("s_tmax")),
    Axis(label="Sigma noise", kind=float, apply=_field("s_noise")),
    Axis(label="Schedule type", apply=_field("scheduler"), has_choices=True),
    Axis(label="Schedule min sigma", kind=float),
    Axis(label="Schedule max sigma", kind=float),
    Axis(label="Schedule rho", kind=float),
    Axis(label="Eta", kind=float, apply=_field("eta")),
    Axis(label="Clip skip", kind=int, apply=_option("CLIP_stop_at_last_layers")),
    Axis(label="Denoising", kind=float, apply=_field("denoising_strength")),
    Axis(
        label="Initial noise multiplier",
        kind=float,
        apply=_option("initial_noise_multiplier"),
    ),
    Axis(label="Extra noise", kind=float),
    Axis(label="Hires upscaler", apply=_field("hr_upscaler"), is_img2img=False, has_choices=True),
    Axis(label="Cond. Image Mask Weight", kind=float, is_img2img=True),
    Axis(label="VAE", has_choices=True),
    Axis(label="Styles", apply=_styles, has_choices=True),
    Axis(label="UniPC Order", kind=int),
    Axis(label="Face restore"),
    Axis(label="Token merging ratio", kind=float),
    Axis(label="Token merging ratio high-res", kind=float),
    Axis(label="Always discard next-to-last sigma", has_choices=True),
    Axis(label="SGM noise multiplier", has_choices=True),
    Axis(label="Refiner checkpoint", apply=_field("refiner_checkpoint"), has_choices=True),
    Axis(label="Refiner switch at", kind=float, apply=_field("refiner_switch_at")),
    Axis(label="RNG source", has_choices=True),
    Axis(label="FP8 mode", has_choices=True),
    Axis(label="Size", apply=_size),
)


def find_axis(body: Generation, value: Any) -> Axis:
    """The axis by its place among those of the body's route, or by its label.

    Raises ``UnknownScript``, or ``UnsupportedField`` for one that is known but cannot be honoured.
    """
    is_over = isinstance(body, ImageToImage)
    axes = [axis for axis in AXES if axis.is_img2img in (None, is_over)]
    known = ", ".join(axis.label for axis in axes if axis.apply)
    if isinstance(value, str):
        found = next((axis for axis in axes if axis.label.lower() == value.lower()), None)
    else:
        index = value if isinstance(value, int) else 0
        found = axes[index] if 0 <= index < len(axes) else None
    if found is None:
        raise UnknownScript(f"unknown axis {value!r:.100}; known: {known}", param="script_args")
    if found.apply is None:
        raise UnsupportedField(
            f"axis {found.label!r} is not supported by this server; it has: {known}",
            param="script_args",
        )
    return found


def parse_values(axis: Axis, text: Any, choices: Any) -> list[Any]:
    """The values of an axis: the chosen ones, or those written as CSV and as ranges.

    Raises ``UnknownScript``.
    """
    if axis.label == "Nothing":
        return [0]
    try:
        values = _read(axis, text, choices)
    except (ValueError, OverflowError, csv.Error):
        raise UnknownScript(
            f"axis {axis.label!r} cannot read {text!r:.200}", param="script_args"
        ) from None
    if not 1 <= len(values) <= MAX_VALUES:
        raise _out_of_range(axis, f"{'more' if values else 'no'} values")
    if axis.is_permuted:
        if math.factorial(len(values)) > MAX_VALUES:
            raise _out_of_range(axis, f"the orders of {len(values)} words")
        values = list(itertools.permutations(values))
    return values


def draw_seeds(axis: Axis, values: Sequence[Any]) -> list[Any]:
    """The values with random seeds drawn, each for all pictures that have it."""
    if axis.label not in _SEEDS:
        return list(values)
    return [secrets.randbelow(SEED_RANGE - 1) if value == -1 else value for value in values]


def _read(axis: Axis, text: Any, choices: Any) -> list[Any]:
    """The values, at most one more than an axis may have."""
    words: Iterable[Any]
    if isinstance(choices, list) and choices:
        words = (str(choice) for choice in choices)
    else:
        reader = csv.reader(io.StringIO(str(text or "")), skipinitialspace=True)
        words = (word.strip() for row in reader for word in row)
    if axis.kind in (int, float):
        words = (value for word in words if word for value in _expand(word, axis.kind))
    values = [axis.kind(word) for word in itertools.islice(words, MAX_VALUES + 1)]
    if axis.kind is float and not all(map(math.isfinite, values)):
        raise ValueError
    return values


def _out_of_range(axis: Axis, what: str) -> UnknownScript:
    return UnknownScript(
        f"axis {axis.label!r} has {what}; accepted: 1 to {MAX_VALUES} values", param="script_args"
    )


def _expand(word: str, kind: Any) -> list[Any]:
    match = _RANGE.fullmatch(word) if len(word) <= _MAX_RANGE_LENGTH else None
    if match is None:
        return [word]
    start, end = (float(match[k].replace(" ", "")) for k in (1, 2))
    if match[4]:
        count = int(match[4])
        span = (end - start) / max(1, count - 1)
        return [kind(start + k * span) for k in range(min(count, MAX_VALUES + 1))]
    step = float(match[3]) if match[3] else 1.0
    if not step:
        return [word]
    count = int((end - start) / step + 1e-9) + 1
    return [kind(round(start + k * step, 8)) for k in range(min(max(0, count), MAX_VALUES + 1))]
