"""Noise: what a picture begins with, from its seed, a variation's seed and another size's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch.nn.functional import pad

from deployments.engine.state import variation_seed

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from deployments.types import GenerationRequest

#: Beyond this cosine two noises are mixed in a straight line, lest the arc's sine be nearly 0.
_MAX_COSINE = 0.9995


def first_noise(
    shape: tuple[int, ...],
    factor: int,
    request: GenerationRequest,
    index: int,
    generator: Generator,
) -> Tensor:
    """Noise of ``shape`` (1, channels, height, width) on the CPU for picture ``index``.

    Drawn at the size of ``seed_width`` by ``seed_height`` (pixels, ``factor`` to a position) when
    given: that goes to the middle, and the rest, if any, is the generator's next draw.
    """
    params = request.params
    height = shape[2] if params.seed_height is None else max(params.seed_height // factor, 1)
    width = shape[3] if params.seed_width is None else max(params.seed_width // factor, 1)
    drawn = (*shape[:2], height, width)
    noise: Tensor = randn_tensor(drawn, generator=generator)
    if params.variation_strength > 0:
        other = torch.Generator().manual_seed(variation_seed(request, index))
        noise = slerp(noise, randn_tensor(drawn, generator=other), params.variation_strength)
    if drawn == shape:
        return noise
    return centred(noise, randn_tensor(shape, generator=generator))


#: Below this the angle between two columns is no angle.
_MIN_SINE = 1e-4


def slerp(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Turn ``one`` towards ``other`` by ``share`` of the angle between them (Shoemake 1985).

    The angle is that of each column of each channel, as the web UI takes it.
    """
    lengths = one.norm(dim=2, keepdim=True) * other.norm(dim=2, keepdim=True)
    cosine = (one * other).sum(dim=2, keepdim=True) / lengths
    if cosine.mean() > _MAX_COSINE:
        return one * (1 - share) + other * share
    angle = torch.acos(cosine.clamp(-1, 1))
    sine = torch.sin(angle)
    turned = (torch.sin((1 - share) * angle) * one + torch.sin(share * angle) * other) / sine
    # Columns that are (nearly) parallel, as single pixels are, have no plane to turn in.
    return torch.where(sine.abs() < _MIN_SINE, one * (1 - share) + other * share, turned)


def centred(inner: Tensor, outer: Tensor) -> Tensor:
    """``inner`` in the middle of ``outer``, cut on each side on which it is larger."""
    below = (outer.shape[2] - inner.shape[2]) // 2
    right = (outer.shape[3] - inner.shape[3]) // 2
    margins = (
        right,
        outer.shape[3] - inner.shape[3] - right,
        below,
        outer.shape[2] - inner.shape[2] - below,
    )
    is_inner = pad(torch.ones_like(inner, dtype=torch.bool), margins, value=False)
    return torch.where(is_inner, pad(inner, margins), outer)
