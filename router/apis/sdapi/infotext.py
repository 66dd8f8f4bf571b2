"""The text that a picture's file carries: written, read back, and made a request's fields again."""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from PIL import Image

from deployments.errors import InvalidImage, InvalidRequest
from deployments.types import INPUT_FORMATS

#: Key of the text in a PNG.
KEYWORD: Final = "parameters"
VERSION: Final = "Atelier"

_NEGATIVE: Final = "Negative prompt:"
#: The longest text that is read, in characters.
MAX_LENGTH: Final = 65_536
#: ``Key: value`` with an optionally quoted value, to the next comma.
#: NOTE: clients send these lines. A key is only looked for where a run of its characters begins,
#: and no run is given back, so that the time is linear in the line.
_PAIR: Final = re.compile(
    r'(?<![\w \-/])[ \-/]*+(\w[\w \-/]++):\s*+("(?:\\.|[^\\"])++"(?=,|$)|[^,]*+)(?:,|$)'
)
_SIZE: Final = re.compile(r"(\d+)x(\d+)")
#: The last line is one of pairs when it has so many.
_FEWEST_PAIRS: Final = 3
#: What a reader may count on although it is not written.
_UNWRITTEN: Final[Mapping[str, Any]] = {
    "Clip skip": "1",
    "Hires resize-1": 0,
    "Hires resize-2": 0,
    "Hires sampler": "Use same sampler",
    "Hires schedule type": "Use same scheduler",
    "Hires checkpoint": "Use same checkpoint",
    "Hires prompt": "",
    "Hires negative prompt": "",
    "Mask mode": "Inpaint masked",
    "Masked content": "original",
    "Inpaint area": "Whole picture",
    "Masked area padding": 32,
    "Schedule type": "Automatic",
    "Schedule max sigma": 0,
    "Schedule min sigma": 0,
    "Schedule rho": 0,
    "VAE Encoder": "Full",
    "VAE Decoder": "Full",
    "FP8 weight": "Disable",
    "RNG": "GPU",
}
#: Keys that are a request's fields, and how their text is read.
_FIELDS: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "Prompt": ("prompt", str),
    "Negative prompt": ("negative_prompt", str),
    "Steps": ("steps", int),
    "Sampler": ("sampler_name", str),
    "Schedule type": ("scheduler", str),
    "CFG scale": ("cfg_scale", float),
    "Seed": ("seed", int),
    "Size-1": ("width", int),
    "Size-2": ("height", int),
    "Variation seed": ("subseed", int),
    "Variation seed strength": ("subseed_strength", float),
    "Seed resize from-1": ("seed_resize_from_w", int),
    "Seed resize from-2": ("seed_resize_from_h", int),
    "Denoising strength": ("denoising_strength", float),
    "Eta": ("eta", float),
    "Sigma churn": ("s_churn", float),
    "Sigma tmin": ("s_tmin", float),
    "Sigma tmax": ("s_tmax", float),
    "Sigma noise": ("s_noise", float),
    "NGMS": ("s_min_uncond", float),
    "Tiling": ("tiling", bool),
    "Hires upscale": ("hr_scale", float),
    "Hires steps": ("hr_second_pass_steps", int),
    "Hires upscaler": ("hr_upscaler", str),
    "Hires resize-1": ("hr_resize_x", int),
    "Hires resize-2": ("hr_resize_y", int),
    "Hires sampler": ("hr_sampler_name", str),
    "Hires schedule type": ("hr_scheduler", str),
    "Hires prompt": ("hr_prompt", str),
    "Hires negative prompt": ("hr_negative_prompt", str),
    "Refiner": ("refiner_checkpoint", str),
    "Refiner switch at": ("refiner_switch_at", float),
}
_EXIF_IFD: Final = 0x8769
_USER_COMMENT: Final = 0x9286
#: What Pillow raises for a file whose header is right and whose rest is not.
_UNREADABLE: Final = (
    *(OSError, SyntaxError, ValueError, EOFError, zlib.error, struct.error),
    *(TypeError, LookupError, AttributeError, Image.DecompressionBombError),
)


def write_infotext(prompt: str, negative_prompt: str, pairs: Sequence[tuple[str, Any]]) -> str:
    """The text; pairs whose value is None are left out."""
    line = ", ".join(f"{key}: {_quoted(value)}" for key, value in pairs if value is not None)
    negative = f"\n{_NEGATIVE} {negative_prompt}" if negative_prompt else ""
    return f"{prompt}{negative}\n{line}".strip()


def parse_infotext(text: str) -> dict[str, Any]:
    """The text's pairs and both prompts, with what is not written filled in.

    Raises ``InvalidRequest`` for one that is too long.
    """
    if len(text) > MAX_LENGTH:
        raise InvalidRequest(
            f"infotext has {len(text)} characters; accepted: at most {MAX_LENGTH}",
            param="infotext",
        )
    *lines, last = text.strip().split("\n")
    pairs = _PAIR.findall(last)
    if len(pairs) < _FEWEST_PAIRS:
        lines, pairs = [*lines, last], []
    prompts: dict[str, list[str]] = {"Prompt": [], "Negative prompt": []}
    part = prompts["Prompt"]
    for line in map(str.strip, lines):
        if line.startswith(_NEGATIVE):
            part = prompts["Negative prompt"]
            line = line.removeprefix(_NEGATIVE).strip()  # noqa: PLW2901 - the rest of it
        part.append(line)
    parsed: dict[str, Any] = {key: "\n".join(part) for key, part in prompts.items()}
    for key, value in pairs:
        value = _unquoted(value)  # noqa: PLW2901
        if size := _SIZE.fullmatch(value):
            parsed[f"{key}-1"], parsed[f"{key}-2"] = size.groups()
        else:
            parsed[key] = value
    return {**_UNWRITTEN, **parsed}


def fields_of(text: str) -> dict[str, Any]:
    """The fields of the request that the text tells of; what cannot be read is left out.

    Raises ``InvalidRequest`` for a text that is too long.
    """
    parsed = parse_infotext(text)
    fields: dict[str, Any] = {}
    for key, (field, read) in _FIELDS.items():
        if key in parsed and parsed[key] != _UNWRITTEN.get(key):
            try:
                fields[field] = read(parsed[key])
            except ValueError:
                continue
    overrides: dict[str, Any] = {}
    if re.fullmatch("[2-9]|1[0-9]", parsed["Clip skip"]):
        overrides["CLIP_stop_at_last_layers"] = int(parsed["Clip skip"])
    if checkpoint := parsed.get("Model hash") or parsed.get("Model"):
        overrides["sd_model_checkpoint"] = checkpoint
    if "hr_scale" in fields or "hr_resize_x" in fields or "hr_upscaler" in fields:
        fields["enable_hr"] = True
    return {**fields, "override_settings": overrides}


def read_infotext(data: bytes) -> tuple[str, dict[str, str]]:
    """A picture's text, empty when it has none, and all that its file says in words.

    Raises ``InvalidImage`` for a file that breaks off, or whose EXIF makes no sense.
    """
    try:
        with Image.open(io.BytesIO(data), formats=INPUT_FORMATS) as image:
            comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT)
            told = dict(image.info)
    except _UNREADABLE:
        raise InvalidImage("Invalid encoded image: image", param="image") from None
    items = {str(key): value for key, value in told.items() if isinstance(value, str) and value}
    if isinstance(comment, bytes) and KEYWORD not in items:
        items[KEYWORD] = _comment_text(comment)
    return items.get(KEYWORD, ""), items


def _comment_text(comment: bytes) -> str:
    """The text of EXIF's UserComment: eight bytes name its encoding."""
    kind, text = comment[:8].rstrip(b"\0"), comment[8:]
    if kind != b"UNICODE":
        return (text if kind in (b"ASCII", b"") else comment).decode("utf-8", "replace")
    is_little = text[1:2] == b"\0"
    return text.decode("utf-16-le" if is_little else "utf-16-be", "replace")


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ",\n:") else text


def _unquoted(text: str) -> str:
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, str) else text
