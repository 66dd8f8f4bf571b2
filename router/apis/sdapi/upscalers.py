"""Upscalers of pictures: those that need no weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from PIL import Image

from deployments.errors import InvalidRequest
from router.apis.sdapi.second_pass import LATENT_MODES

#: A1111's names in its order; "None" leaves the picture as it is.
UPSCALERS: Final[Mapping[str, Image.Resampling]] = {
    "None": Image.Resampling.LANCZOS,
    "Lanczos": Image.Resampling.LANCZOS,
    "Nearest": Image.Resampling.NEAREST,
}


def find_upscaler(name: str) -> Image.Resampling:
    """The filter of an upscaler. Raises ``InvalidRequest`` listing the known ones."""
    for known, resampling in UPSCALERS.items():
        if known.lower() == name.lower():
            return resampling
    raise InvalidRequest(
        f"could not find upscaler named {name!r:.100}; known: {', '.join(UPSCALERS)}",
        param="upscaler",
    )


def render_upscalers() -> list[dict[str, Any]]:
    """``GET upscalers``."""
    return [
        {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": scale}
        for name, scale in zip(UPSCALERS, (1, 4, 4), strict=True)
    ]


def render_latent_modes() -> list[dict[str, str]]:
    """``GET latent-upscale-modes``."""
    return [{"name": name} for name in LATENT_MODES]
