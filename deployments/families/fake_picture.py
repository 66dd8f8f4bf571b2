"""What the fake family draws, and what it reads. Without torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments import pictures
from deployments.families.frame import Frame, redrawn_box
from deployments.families.wording import Part, parts_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deployments.types import GenerationRequest

Floats: TypeAlias = NDArray[np.float32]

#: Hues of consecutive seeds lie this far apart: the golden ratio keeps all of them distinct.
HUE_STEP: Final = 0.618034


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The input pictures at the size of the output.

    Attributes:
        mean: of all of them, (height, width, 3), 0..1.
        redrawn: 1 where a mask is white, else 0, (height, width, 1); all 1 without a mask.
        frame: the whole first input when only a box of it is drawn.
    """

    mean: Floats
    redrawn: Floats
    frame: Frame | None = None


def read_inputs(request: GenerationRequest) -> Inputs | None:
    """The request's pictures and its mask; None without pictures."""
    if not request.images:
        return None
    size = (request.params.width or 512, request.params.height or 512)
    images = [pictures.decode_image(data).convert("RGB") for data in request.images]
    mask = frame = None
    if request.mask is not None:
        mask = pictures.decode_mask(request.mask, images[0].size)
        if request.mask_padding is not None:
            frame = Frame(images[0], mask, redrawn_box(mask, request.mask_padding, *size))
            images[0], mask = frame.inside()
    resized = [image.resize(size, Image.Resampling.BILINEAR) for image in images]
    mean = np.mean([np.asarray(image, dtype=np.float32) / 255 for image in resized], axis=0)
    redrawn = np.ones((size[1], size[0], 1), dtype=np.float32)
    if mask is not None:
        gray = np.asarray(mask.resize(size, Image.Resampling.BILINEAR), dtype=np.float32)
        redrawn = (gray >= 127.5).astype(np.float32)[..., None]
    return Inputs(mean=mean.astype(np.float32), redrawn=redrawn, frame=frame)


def goals(
    request: GenerationRequest, weights: str, seed: int, shape: tuple[int, ...]
) -> tuple[Floats, ...]:
    """What each part of the prompts aims at: the positive ones' gradients, then the negative's."""
    return tuple(
        _gradient(f"{'not' if part.is_negative else weights}/{_told(part)}", seed, shape)
        for part in parts_of(request)
    )


def way(request: GenerationRequest, towards: Sequence[Floats], weights: Sequence[Part]) -> Floats:
    """Where the ways to each part's goal lead together, (1, 3, height, width)."""
    positive = [
        (p.weight, way) for p, way in zip(weights, towards, strict=True) if not p.is_negative
    ]
    negative = [(p.weight, way) for p, way in zip(weights, towards, strict=True) if p.is_negative]
    forward = _mean(positive)
    if not negative:
        return forward
    scale = np.float32(0.02 * (request.params.guidance_scale or 0))
    return forward + scale * (forward - _mean(negative))


def _told(part: Part) -> str:
    wordings = dict.fromkeys(part.wordings)
    return "/".join("zeros" if wording.is_zeroed else wording.text for wording in wordings)


def _mean(weighted: Sequence[tuple[float, Floats]]) -> Floats:
    whole = sum(abs(weight) for weight, _ in weighted) or 1.0
    first, *others = (np.float32(weight / whole) * way for weight, way in weighted)
    return sum(others, start=first)


def _gradient(text: str, seed: int, shape: tuple[int, ...]) -> Floats:
    """(1, 3, height, width): a hue at one corner fading into its opposite at the other."""
    digest = hashlib.sha256(text.encode()).digest()
    hue = (int.from_bytes(digest[:4], "big") / 2**32 + seed * HUE_STEP) % 1
    phases = 2 * np.pi * (hue + np.array([0, 1 / 3, 2 / 3]))
    colour = (0.5 + 0.4 * np.cos(phases)).astype(np.float32)[:, None, None]
    ramp = np.add.outer(np.linspace(0, 0.5, shape[1]), np.linspace(0, 0.5, shape[2]))
    weight = ramp.astype(np.float32)
    return (colour * (1 - weight) + (1 - colour) * weight)[None].astype(np.float32)
