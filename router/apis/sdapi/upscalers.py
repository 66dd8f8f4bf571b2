"""Upscalers of pictures: those that need no weights, and hosted models that learned it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from PIL import Image

from deployments.errors import InvalidRequest
from deployments.types import ModelCard
from router.apis.sdapi.second_pass import LATENT_MODES

#: A1111's names in its order; "None" leaves the picture as it is.
UPSCALERS: Final[Mapping[str, Image.Resampling]] = {
    "None": Image.Resampling.LANCZOS,
    "Lanczos": Image.Resampling.LANCZOS,
    "Nearest": Image.Resampling.NEAREST,
}


def find_upscaler(name: str, cards: Sequence[ModelCard] = ()) -> Image.Resampling:
    """The filter of an upscaler. Raises ``InvalidRequest`` listing the known ones."""
    for known, resampling in UPSCALERS.items():
        if known.lower() == name.lower():
            return resampling
    names = ", ".join([*UPSCALERS, *(card.id for card in cards if "upscale" in card.modes)])
    raise InvalidRequest(
        f"could not find upscaler named {name!r:.100}; known: {names}", param="upscaler"
    )


def find_learned(name: str, cards: Sequence[ModelCard]) -> ModelCard | None:
    """The hosted model that upscales under this name."""
    return next((c for c in cards if "upscale" in c.modes and c.has_name(name)), None)


def render_upscalers(cards: Sequence[ModelCard]) -> list[dict[str, Any]]:
    """``GET upscalers``."""
    built_in = zip(UPSCALERS, (1, 4, 4), strict=True)
    learned = [(card.id, 4) for card in cards if "upscale" in card.modes]
    return [
        {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": scale}
        for name, scale in [*built_in, *learned]
    ]


def render_latent_modes() -> list[dict[str, str]]:
    """``GET latent-upscale-modes``."""
    return [{"name": name} for name in LATENT_MODES]
