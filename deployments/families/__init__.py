"""The table of families: a name and where its class lives. Adding one is a file and a row."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from deployments.families.base import Family

FAMILIES: Final = {
    "fake": "deployments.families.fake:FakeFamily",
    "qwen-image": "deployments.families.qwen_image:QwenImage",
    "stable-diffusion": "deployments.families.stable_diffusion:StableDiffusion",
    "stable-diffusion-xl": "deployments.families.stable_diffusion_xl:StableDiffusionXL",
}


def family_class(name: str) -> type[Family]:
    """The class of a family, imported when first asked for; unknown names list the known."""
    if name not in FAMILIES:
        raise ValueError(f"unknown family {name!r}; known: {', '.join(sorted(FAMILIES))}")
    module, _, attribute = FAMILIES[name].partition(":")
    return cast("type[Family]", getattr(import_module(module), attribute))
