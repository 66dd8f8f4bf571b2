"""Makes an edit's pictures look as if others had drawn them: other colours, another horizon.

An editor that has only seen the drawer's own colours and proportions does nothing sensible with
anybody else's picture. What an edit changes still becomes what the drawer draws.
"""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.sketch.landscape import HORIZON

Pixels = NDArray[np.uint8]


def retinted(pictures: list[Pixels], rng: Random, *, is_named: bool) -> list[Pixels]:
    """New colours for pictures, and for what the last keeps of the others.

    Args:
        pictures: (height, width, 3) each; the last is what an edit makes of the others.
        is_named: whether what the edit changes comes to look as its words say; what it uncovers
            or moves has the new colours as all else.
    """
    *before, after = pictures
    gains = np.array([rng.uniform(0.75, 1.4) for _ in range(3)], dtype=np.float32)
    shift = np.array([rng.uniform(-25, 25) for _ in range(3)], dtype=np.float32)
    if rng.random() < 0.5:
        gains[:] = gains.mean()
    colourful = rng.uniform(0.7, 1.4)

    def tint(picture: Pixels) -> Pixels:
        values = picture.astype(np.float32)
        grey = values.mean(axis=-1, keepdims=True)
        values = (grey + (values - grey) * colourful - 128) * gains + 128 + shift
        tinted: Pixels = values.clip(0, 255).astype(np.uint8)
        return tinted

    if not is_named:
        return list(map(tint, pictures))
    kept = (before[0] == after).all(axis=-1, keepdims=True)
    return [*map(tint, before), np.where(kept, tint(after), after)]


def with_horizon(pictures: list[Pixels], share: float) -> list[Pixels]:
    """Landscapes with their horizon at this share of the height instead of the drawer's."""
    return [_stretched(picture, share) for picture in pictures]


def _stretched(picture: Pixels, share: float) -> Pixels:
    height, width = picture.shape[:2]
    old, new = round(HORIZON * height), round(share * height)
    image: Any = Image.fromarray(picture)
    whole = Image.new("RGB", (width, height))
    for (top, bottom), (first, last) in (((0, old), (0, new)), ((old, height), (new, height))):
        part = image.crop((0, top, width, bottom))
        whole.paste(part.resize((width, last - first), Image.Resampling.NEAREST), (0, first))
    return np.asarray(whole)
