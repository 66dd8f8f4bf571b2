"""What the engine tells the one who asked: steps, the end, or a failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from deployments.errors import AtelierError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One finished picture: pixels (height, width, 3) in float32, 0..1, and its seed."""

    pixels: NDArray[np.float32]
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """Steps done and to do, summed over the request's pictures; ``step`` never falls.

    Attributes:
        step, num_steps: in the steps that were asked for, whatever the scheduler visits.
        preview: (height, width, 3), 0..1, of the picture ``preview_index`` so far, or None.
    """

    step: int
    num_steps: int
    preview: NDArray[np.float32] | None = None
    preview_index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Every picture is there, in order: the last event.

    Attributes:
        pictures: empty when the request ends in latents.
        latents: those, (pictures, channels, height, width); else None.
        prompt_tokens: tokens the text encoder saw.
        max_batch_rows: the most rows that any forward pass of this request held.
        seconds: since the request was added.
    """

    pictures: tuple[Picture, ...]
    prompt_tokens: int
    max_batch_rows: int
    seconds: float
    latents: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The request has ended without its pictures: the last event."""

    error: AtelierError


Event: TypeAlias = Stepped | Finished | Failed

#: Called in the engine's thread: it hands the event on and never blocks.
Listener: TypeAlias = Callable[[Event], None]
