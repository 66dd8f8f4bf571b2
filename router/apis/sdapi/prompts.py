"""Prompts: styles laid over them, and tags that name extra networks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from deployments.errors import InvalidRequest
from deployments.types import LoraUse

#: ``<lora:name:weight>``.
_TAG: Final = re.compile(r"<(\w+):([^<>]+)>")
_SIGNS: Final = str.maketrans("", "", ":,")
_KINDS: Final = {
    "lora": "LoRA",
    "lyco": "LoRA",
    "lycoris": "LoRA",
    "hypernet": "hypernetwork",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Words for both prompts; ``{prompt}`` in them stands for the caller's own."""

    prompt: str = ""
    negative_prompt: str = ""


Styles: TypeAlias = Mapping[str, Style]


def parse_styles(styles: Mapping[str, Mapping[str, str]]) -> Styles:
    """The styles of the settings. Raises ``ValueError`` naming a style with unknown keys."""
    for name, words in styles.items():
        if unknown := words.keys() - {"prompt", "negative_prompt"}:
            raise ValueError(f"prompt style {name!r}: unknown key {', '.join(sorted(unknown))}")
    return {name: Style(**words) for name, words in styles.items()}


def with_styles(prompt: str, styles: Sequence[str]) -> str:
    """The prompt with the styles' words, in order."""
    for style in styles:
        if "{prompt}" in style:
            prompt = style.replace("{prompt}", prompt)
        else:
            prompt = ", ".join(part for part in (prompt.strip(), style.strip()) if part)
    return prompt


def parse_tags(
    prompt: str, loras: Sequence[str], *, is_disabled: bool
) -> tuple[str, tuple[LoraUse, ...]]:
    """The prompt without tags of extra networks, and the LoRAs that they name.

    Args:
        loras: names of the model's.
        is_disabled: whether the caller wants none of them.
    Raises:
        InvalidRequest: a tag that cannot be honoured; those of unknown kinds are dropped, as A1111
            does.
    """
    uses = []
    for kind, text in _TAG.findall(prompt):
        if is_disabled or kind.lower() not in _KINDS:
            continue
        name, *numbers = text.split(":")
        known = loras if _KINDS[kind.lower()] == "LoRA" else ()
        if (found := _find(name, known)) is None:
            raise InvalidRequest(
                f"{_KINDS[kind.lower()]} {name!r:.100} not found; "
                f"known: {', '.join(known) or 'none'}",
                param="prompt",
            )
        uses.append(_parse_use(found, numbers))
    return _TAG.sub("", prompt) if _TAG.search(prompt) else prompt, tuple(uses)


def lora_hashes(uses: Sequence[LoraUse], digests: Mapping[str, str]) -> str | None:
    """``name: digest, ...`` of LoRAs whose digest is known, each once, as the infotexts of A1111
    have it: without the folders of names, and without signs that part the list. None for none."""
    told = {
        name.rpartition("/")[2].translate(_SIGNS): digests[name]
        for name in dict.fromkeys(use.name for use in uses)
        if name in digests
    }
    return ", ".join(f"{name}: {digest}" for name, digest in told.items()) or None


def _find(name: str, loras: Sequence[str]) -> str | None:
    """The LoRA of this name, or the first whose file has it in whatever folder."""
    if name in loras:
        return name
    return next((known for known in loras if known.rpartition("/")[2] == name), None)


def _parse_use(name: str, numbers: Sequence[str]) -> LoraUse:
    """A1111: ``text:unet`` by place, both ``te=`` and ``unet=`` by name; the text's is the other's
    default, and 1 is its own."""
    places = [number for number in numbers if "=" not in number]
    named = dict(number.split("=", 1) for number in numbers if "=" in number)
    if len(places) > 2 or named.keys() - {"te", "unet"}:
        raise _bad_weight(name, ":".join(numbers))
    text = _number(name, named.get("te", (places or ["1"])[0]))
    weight = _number(name, named["unet"]) if "unet" in named else text
    if "unet" not in named and len(places) == 2:
        weight = _number(name, places[1])
    return LoraUse(name=name, weight=weight, text_weight=None if weight == text else text)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _bad_weight(name, text) from None


def _bad_weight(name: str, text: str) -> InvalidRequest:
    return InvalidRequest(
        f"LoRA {name!r:.100} has the weight {text!r:.100}; "
        "accepted: <lora:name:weight>, <lora:name:text weight:unet weight>",
        param="prompt",
    )
