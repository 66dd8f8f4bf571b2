"""Attention heads that look where they are told, whatever is there, by rotary positions alone.

Their queries and keys are constant, so a score depends on how many frames, rows and columns a place
is ahead of another. The text, whose keys are another constant, is what they find where nothing is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

#: Frames, rows and columns ahead.
Offset = tuple[int, int, int]

#: How queries and keys are scaled where positions turn fast, so that one place stands out.
_SHARP: Final = 5.0
#: Energy of a looking head per turning pair: of the frame, and of row and column from the fastest
#: pair on, which turns by one radian per place; the third tells 25 places from 0. The frame's last
#: pair, which hardly turns, meets the text's tokens.
_FRAME: Final = 12.0
_SIDE: Final = (4.0, 3.0, 2.0)
_TEXT: Final = 2.0
#: How far below the right place's score the text's is, and the other frames' are below that.
_MARGIN: Final = 13.5
#: Of the heads that tell places: what a score rises by over a quarter of the slow pair's turn, and
#: the text's score beside it, so that about the middle of a picture both weigh the same; with a
#: caption's few tokens more would tell places of 512 by 512 pixels hardly apart near the sides.
_SLOPE: Final = 3.5
_BALANCE: Final = 3.0
#: Heads that tell places.
NUM_TELLING: Final = 4


def look(attention: Any, config: Any, offsets: Sequence[Offset]) -> None:
    """Let the first heads look at what lies so many frames, rows and columns ahead, and no further.

    Their values are left as they are, and ``to_out`` ignores them. Where no frame is, they look at
    the text; beyond a border, at the nearest place, and the more at the text the longer it is.
    """
    size = config.attention_head_dim
    sides = _sides(config)
    turning = [0, 1, *(side + k for side in sides for k in range(2 * len(_SIDE)))]
    meeting = [sides[0] - 2, sides[0] - 1]
    loud = _loudness(size)
    for norm in (attention.norm_q, attention.norm_k):
        norm.weight[turning] = _SHARP
    for norm in (attention.norm_q, attention.norm_added_k):
        norm.weight[meeting] = loud
    softened = (
        (attention.to_q, (turning, _SHARP), (meeting, loud)),
        (attention.to_k, (turning, _SHARP)),
        (attention.add_k_proj, (meeting, loud)),
    )
    for linear, *parts in softened:  # for heads that are not told where to look
        heads = linear.weight.view(-1, size, linear.in_features)
        for dimensions, factor in parts:
            heads[:, dimensions] /= factor
    _set_constant(attention, size, range(len(offsets)))
    for head, offset in enumerate(offsets):
        rows = slice(head * size, (head + 1) * size)
        attention.to_q.bias[rows] = _energies(size, sides, offset, text=_TEXT)
        attention.to_k.bias[rows] = _energies(size, sides, (0, 0, 0), text=0.0)
        attention.add_k_proj.bias[rows][meeting[0]] = 1


def tell_places(attention: Any, config: Any, *, begin: int) -> None:
    """Let four heads from ``begin`` on tell how far a place is from top, bottom, left and right.

    Each looks at all of its picture, and of references, the more the farther away it is in its
    direction, and at the text in the share that is left: it finds 1 for pictures and -1 for text.
    So what it finds grows with the distance, up to 64 places a side; the more text there is, the
    less, for all places alike. ``look`` comes first: both share the norms.
    """
    size = config.attention_head_dim
    sides = _sides(config)
    directions = [(side, sign) for side in sides for sign in (-1.0, 1.0)]
    heads = range(begin, begin + NUM_TELLING)
    if heads.stop > config.num_attention_heads:
        raise ValueError(f"{config.num_attention_heads} heads; at least {heads.stop} are needed")
    _set_constant(attention, size, heads)
    silence(attention, slice(heads.start * size, heads.stop * size))
    # Queries and keys are as long as the square root of their size, by their norms. What is left of
    # a length goes where the other has nothing, into two pairs of the columns that hardly turn.
    part = math.sqrt(_SLOPE / (_SHARP**2 * math.sqrt(size)))
    left = math.sqrt(1 - part**2)
    idle = (size - 2, size - 4)
    for head, (side, sign) in zip(heads, directions, strict=True):
        rows = slice(head * size, (head + 1) * size)
        slow = side + 2 * (len(_SIDE) - 1)
        query, key, told = (torch.full((size,), 1e-6) for _ in range(3))
        query[slow + 1], query[idle[0]] = sign * part, left  # a quarter of a turn ahead
        key[slow], key[idle[1]] = part, left
        query[sides[0] - 2] = _BALANCE / (_loudness(size) ** 2 * math.sqrt(size))
        told[sides[0] - 2] = 1
        for linear, vector in zip(
            (attention.to_q, attention.to_k, attention.add_k_proj),
            (query, key, told),
            strict=True,
        ):
            linear.bias[rows] = vector * math.sqrt(size)
        attention.to_v.bias[rows][0] = 1
        attention.add_v_proj.bias[rows][0] = -1


def _sides(config: Any) -> tuple[int, int]:
    """Where a head's dimensions for rows and for columns begin."""
    axes = config.axes_dims_rope
    return axes[0], axes[0] + axes[1]


def _loudness(size: int) -> float:
    """Scale of the pair that meets the text, in the norms of both: the text's score is its square
    times the query's part there, which ``_MARGIN`` decides."""
    places = _FRAME + 2 * sum(_SIDE)
    score = _SHARP**2 * math.sqrt(size * places / (places + _TEXT))
    return math.sqrt((score - _MARGIN) / math.sqrt(size * _TEXT / (places + _TEXT)))


def _set_constant(attention: Any, size: int, heads: range) -> None:
    """Heads whose queries and keys are constant, and that write nothing."""
    rows = slice(heads.start * size, heads.stop * size)
    for linear in (attention.to_q, attention.to_k, attention.add_k_proj):
        linear.weight[rows] = 0
        linear.bias[rows] = 1e-3
    attention.to_out[0].weight[:, rows] = 0


def silence(attention: Any, rows: slice) -> None:
    """Let these dimensions of the values be zero for the picture and for the text."""
    for value in (attention.to_v, attention.add_v_proj):
        value.weight[rows] = 0
        value.bias[rows] = 0


def _energies(size: int, sides: tuple[int, int], offset: Offset, *, text: float) -> Tensor:
    """A constant query or key; a query's parts are turned ahead by frames, rows and columns."""
    frame, *beside = offset
    vector = torch.full((size,), 1e-3)
    vector[:2] = _turned(_FRAME, frame)
    vector[sides[0] - 2] = math.sqrt(text)
    for begin, ahead in zip(sides, beside, strict=True):
        for pair, energy in enumerate(_SIDE):
            place = begin + 2 * pair
            vector[place : place + 2] = _turned(energy, ahead * _frequency(pair, sides))
    energies: Tensor = vector * math.sqrt(size) / vector.norm()
    return energies


def _turned(energy: float, angle: float) -> Tensor:
    return math.sqrt(energy) * torch.tensor([math.cos(angle), math.sin(angle)])


def _frequency(pair: int, sides: tuple[int, int]) -> float:
    """Radians that a pair of a side turns by from one place to the next."""
    return float(10000 ** (-2 * pair / (sides[1] - sides[0])))
