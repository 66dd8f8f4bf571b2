"""The noise that the editor is trained with: a flow's, and how far a sampler's pictures stray."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from deployments.families.flow_schedulers import shift_exponent
from deployments.sketch.noising import fresh_noise
from deployments.sketch.qwen_image import SCHEDULE

#: Share of the pictures that are all noise, where a picture begins.
_PURE_NOISE: Final = 0.3
#: Share of the others that a sampler has drawn wrongly so far.
_WRONG: Final = 0.5
#: How many latents away what ragged outlines show belongs, at most.
_MOST_RAGGED: Final = 2
#: Share of such a picture that is of another, at most.
_MOST_FOREIGN: Final = 0.4
#: Patches along a side that are of another picture or not, at least and at most.
_LEAST_PATCHES: Final = 3
_MOST_PATCHES: Final = 9
#: How many times what is wrong the noise drifts, at most: where less than a third of noise is left,
#: what is wrong fades, as there is no time to mend it.
_MOST_DRIFT: Final = 2.0


def random_sigmas(count: int, num_tokens: int) -> Tensor:
    """(count,): uniform noise levels, shifted to noise as the scheduler does for so many tokens;
    some are 1."""
    shift = math.exp(shift_exponent(SCHEDULE, num_tokens))
    uniform = torch.rand(count).clamp(1e-3, 1)
    sigmas = shift / (shift + (1 / uniform - 1))
    return torch.where(torch.rand(count) < _PURE_NOISE, 1.0, sigmas)


def flow_noise(clean: Tensor, other: Tensor, sigmas: Tensor, is_told: Tensor) -> Tensor:
    """Noise for latents (n, channels, h, w) at these levels (n,), that has strayed but at level 1.

    Some of it has ``noising.strayed``'s drift. Half of the rows that are told (n,) in words what
    the picture is have ``wrong_drift``, too.
    """
    drift = wrong_drift(clean, other, sigmas)
    is_wrong = is_told & (torch.rand(sigmas.shape, device=sigmas.device) < _WRONG)
    return fresh_noise(clean, sigmas == 1) + drift * is_wrong.view(-1, 1, 1, 1)


def wrong_drift(clean: Tensor, other: Tensor, sigmas: Tensor) -> Tensor:
    """What to add to noise, that what it is mixed with seems to be not the clean picture but one
    that a sampler may have drawn from its own mistakes: with ragged outlines, and in patches as
    the other, of the same shape.

    As the drift is the noise's, the flow still leads to the clean picture; who has learnt that
    trusts the words, and not the outlines that noise once showed.
    """
    each = sigmas.view(-1, 1, 1, 1)
    wrong = _patched(_ragged(clean), other) - clean
    return wrong * ((1 - each) / each).clamp(max=_MOST_DRIFT)


def _ragged(clean: Tensor) -> Tensor:
    """Each latent is that of a place nearby, each one's own or one of two by two together."""
    rows, channels, height, width = clean.shape
    device = clean.device
    size = int(torch.randint(1, 3, (1,)))
    reach = 0.5 + _MOST_RAGGED * torch.rand(rows, 1, 1, 1, device=device)
    moves = reach * (2 * torch.rand(rows, 2, height // size, width // size, device=device) - 1)
    moves = moves.round().long().repeat_interleave(size, 2).repeat_interleave(size, 3)
    down = torch.arange(height, device=device)[:, None] + moves[:, 0]
    right = torch.arange(width, device=device) + moves[:, 1]
    places = down.clamp(0, height - 1) * width + right.clamp(0, width - 1)
    found = clean.flatten(2).gather(2, places.flatten(1)[:, None].expand(-1, channels, -1))
    return found.view(clean.shape)


def _patched(clean: Tensor, other: Tensor) -> Tensor:
    """Some patches are of the other picture."""
    rows, _, height, width = clean.shape
    sides = [int(torch.randint(_LEAST_PATCHES, _MOST_PATCHES + 1, (1,))) for _ in range(2)]
    patches = torch.rand(rows, 1, *sides, device=clean.device)
    levels = interpolate(patches, (height, width), mode="bilinear")
    shares = _MOST_FOREIGN * torch.rand(rows, device=clean.device)
    ranks = levels.flatten(1).argsort(dim=1).argsort(dim=1) / (height * width)
    return torch.where(ranks.view_as(levels) < shares.view(-1, 1, 1, 1), other, clean)
