"""Options: what a caller may set once, and what one call overrides."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from deployments.errors import InvalidRequest
from deployments.types import ModelCard, OutputFormat, SamplingParams
from router.apis.sdapi.checkpoints import find_checkpoint, sha256_of, title_of
from router.belongings import Variant

Options: TypeAlias = Mapping[str, Any]

#: The model of owners that chose none.
DEFAULT_MODEL: Final = "sdxl-turbo"
#: ``samples_format`` and what it is here.
FORMATS: Final[Mapping[str, OutputFormat]] = {
    "png": "png",
    "jpg": "jpeg",
    "jpeg": "jpeg",
    "webp": "webp",
}
#: What numbers may be, of options and of requests: generous, but none that draws noise.
RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "cfg_scale": (-1000, 1000),
    "eta": (0, 1),
    "eta_ddim": (0, 1),
    "eta_ancestral": (0, 1),
    "s_churn": (0, 1000),
    "s_tmin": (0, 1e6),
    "s_tmax": (0, 1e6),
    "s_noise": (0, 10),
    "s_min_uncond": (0, 1e6),
    "CLIP_stop_at_last_layers": (0, 12),
    "initial_noise_multiplier": (0, 10),
}
CHECKPOINT: Final = "sd_model_checkpoint"
CHECKPOINT_HASH: Final = "sd_checkpoint_hash"
#: Options that mean something here, or that clients look for, with A1111's defaults. Others are
#: kept and handed back.
DEFAULTS: Final[Options] = {
    "samples_save": True,
    "samples_format": "png",
    "grid_save": True,
    "grid_format": "png",
    "return_grid": True,
    "n_rows": -1,
    "jpeg_quality": 80,
    "img2img_background_color": "#ffffff",
    "img2img_color_correction": False,
    "initial_noise_multiplier": 1.0,
    "CLIP_stop_at_last_layers": 1,
    "sd_vae": "Automatic",
    "eta_ddim": 0.0,
    "eta_ancestral": 1.0,
    "s_churn": 0.0,
    "s_tmin": 0.0,
    "s_tmax": 0.0,
    "s_noise": 1.0,
    "s_min_uncond": 0.0,
    "send_seed": True,
    "send_size": True,
    "show_progress_every_n_steps": 2,
    "live_previews_enable": True,
    "live_previews_image_format": "jpeg",
    "face_restoration_model": "CodeFormer",
    "upscaler_for_img2img": None,
    "randn_source": "CPU",
    "tiling": False,
    "interrogate_clip_num_beams": 1,
    "outdir_samples": "",
    "outdir_txt2img_samples": "",
    "outdir_img2img_samples": "",
}


def render_options(kept: Options, checkpoints: Sequence[Variant]) -> dict[str, Any]:
    """``GET options``: the defaults, what the owner set, and the checkpoint in use."""
    told = checkpoint_of(kept, checkpoints) or _default(checkpoints)
    derived = {CHECKPOINT: title_of(told), CHECKPOINT_HASH: sha256_of(told)}
    return {**DEFAULTS, **_set(kept), **derived}


def checkpoint_of(options: Options, checkpoints: Sequence[Variant]) -> Variant | None:
    """What the options name; None when they name nothing, or nothing that is there."""
    if options.get(CHECKPOINT) is None:
        return None
    try:
        return find_checkpoint(checkpoints, options[CHECKPOINT])
    except InvalidRequest:
        return None


def parse_changes(changes: Options, checkpoints: Sequence[Variant]) -> dict[str, Any]:
    """What ``POST options`` sets; null is the default again. Raises ``InvalidRequest`` before
    anything is set."""
    parsed = {name: _parsed(name, value) for name, value in changes.items()}
    parsed.pop(CHECKPOINT_HASH, None)
    if parsed.get(CHECKPOINT) is not None:
        parsed[CHECKPOINT] = title_of(_checkpoint(parsed[CHECKPOINT], checkpoints))
    try:
        json.dumps(parsed, allow_nan=False)
    except ValueError:
        raise InvalidRequest("options hold NaN or infinity; accepted: finite numbers") from None
    return parsed


def override(
    options: Options, overrides: Options, checkpoints: Sequence[Variant]
) -> dict[str, Any]:
    """The options of one call; see ``parse_overrides`` for errors."""
    return {**DEFAULTS, **_set(options), **parse_overrides(overrides, checkpoints)}


def parse_overrides(overrides: Options, checkpoints: Sequence[Variant]) -> dict[str, Any]:
    """What one call sets otherwise. Names that mean nothing are dropped; an unknown checkpoint, or
    a value of the wrong kind, raises ``InvalidRequest``."""
    known = {
        name: _parsed(name, value)
        for name, value in overrides.items()
        if value is not None and (name in DEFAULTS or name == CHECKPOINT)
    }
    if known.get(CHECKPOINT) in ("", "None"):
        del known[CHECKPOINT]
    if CHECKPOINT in known:
        known[CHECKPOINT] = title_of(_checkpoint(known[CHECKPOINT], checkpoints))
    return known


def output_format(options: Options) -> OutputFormat:
    """``samples_format``; one that an older release kept and that is unknown is png."""
    return FORMATS.get(str(options["samples_format"]).lower(), "png")


def check_range(name: str, value: float) -> None:
    """Raise ``InvalidRequest`` for a number beyond its range, if it has one."""
    low, high = RANGES.get(name, (-math.inf, math.inf))
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidRequest(
            f"{name} {value} is out of range; accepted: {low:g} to {high:g}", param=name
        )


def _set(options: Options) -> dict[str, Any]:
    """The options without the nulls that stand for a default."""
    return {n: value for n, value in options.items() if value is not None or n not in DEFAULTS}


def _default(checkpoints: Sequence[Variant]) -> Variant:
    """What draws for owners who chose nothing: where it is not hosted, any other."""
    absent = ModelCard(id=DEFAULT_MODEL, family="", modes=(), defaults=SamplingParams())
    named = (one for one in checkpoints if one.card.has_name(DEFAULT_MODEL) and not one.weights)
    return next(named, checkpoints[0] if checkpoints else Variant(card=absent))


def _checkpoint(name: Any, checkpoints: Sequence[Variant]) -> Variant:
    if not isinstance(name, str):
        raise InvalidRequest(f"{CHECKPOINT} must be text, got {name!r:.100}", param=CHECKPOINT)
    return find_checkpoint(checkpoints, name)


def _parsed(name: str, value: Any) -> Any:
    """The value of an option. Raises ``InvalidRequest`` for one of the wrong kind or range."""
    value = _cast(name, value)
    if name in RANGES and value is not None:
        check_range(name, value)
    if name == "samples_format" and value is not None and value.lower() not in FORMATS:
        raise InvalidRequest(
            f"{name} {value!r:.50} is unknown; known: {', '.join(FORMATS)}", param=name
        )
    return value


def _cast(name: str, value: Any) -> Any:
    """The value in its option's kind, which is that of the default."""
    default = DEFAULTS.get(name)
    if default is None or value is None:
        return value
    try:
        if isinstance(default, bool):
            return value if isinstance(value, bool) else bool(int(value))
        if isinstance(default, int | float) and not isinstance(value, bool):
            number = type(default)(value)
            if not math.isfinite(number):
                raise ValueError
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    else:
        if isinstance(default, str) and isinstance(value, str):
            return value
    kind = type(default).__name__
    raise InvalidRequest(f"option {name} must be {kind}, got {value!r:.100}", param=name)
