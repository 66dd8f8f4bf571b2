"""Prompts: styles laid over them, and tags that name extra networks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from deployments.errors import InvalidRequest

#: ``<lora:name:weight>``.
_TAG: Final = re.compile(r"<(\w+):([^<>]+)>")
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


def without_tags(prompt: str, *, is_disabled: bool) -> str:
    """The prompt without tags of extra networks, which say nothing to a text encoder.

    Raises ``InvalidRequest`` for one that cannot be honoured, unless the caller disabled them;
    tags of unknown kinds are dropped, as A1111 does.
    """
    for kind, name in _TAG.findall(prompt):
        if kind.lower() in _KINDS and not is_disabled:
            what = _KINDS[kind.lower()]
            raise InvalidRequest(
                f"{what} {name.partition(':')[0]!r:.100} not found; this server has none",
                param="prompt",
            )
    return _TAG.sub("", prompt) if _TAG.search(prompt) else prompt
