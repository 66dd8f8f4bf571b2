"""Flight: one request between ``add`` and its last event. Written by the engine's thread alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from deployments.engine.events import Finished, Listener, Picture, Stepped
from deployments.engine.second_pass import num_steps
from deployments.engine.state import RequestState, picture_seed
from deployments.types import GenerationRequest, LoraUse

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(slots=True, kw_only=True)
class Flight:
    """A request, who listens to it, and how far its pictures are.

    Attributes:
        added: when it was added, on the monotonic clock, in seconds.
        estimate: its work while it waits: timesteps times rows times image tokens.
        num_bytes: what each of its pictures takes at once beside the weights and LoRAs.
        has_fetched: whether its weights were loaded, or are, for it.
        states: one per picture, in order; empty until it is encoded.
        values: finished pictures by their index: pixels, or latents where those are asked for.
        max_batch_rows: the most rows any of its forward passes held so far.
        told: the last step reported; -1 before the first report.
        num_previews: previews sent so far.
    """

    request_id: str
    request: GenerationRequest
    listener: Listener
    estimate: float = 0.0
    added: float = field(default_factory=monotonic)
    num_bytes: int = 0
    has_fetched: bool = False
    states: tuple[RequestState, ...] = ()
    values: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    max_batch_rows: int = 0
    told: int = -1
    num_previews: int = 0

    @property
    def loras(self) -> tuple[LoraUse, ...]:
        """Those that it uses."""
        return self.request.all_loras

    @property
    def is_waiting(self) -> bool:
        """Whether it is still to be encoded."""
        return not self.states

    @property
    def is_complete(self) -> bool:
        """Whether every picture is finished."""
        return bool(self.states) and len(self.values) == len(self.states)

    @property
    def work(self) -> float:
        """What is left: timesteps times rows times image tokens."""
        return sum(state.work for state in self.states) if self.states else self.estimate

    @property
    def is_preview_due(self) -> bool:
        """Whether the first picture has passed the next of its evenly spread preview points."""
        state = self.states[0]
        due = preview_points(state.num_visits, self.request.num_previews)
        return self.num_previews < len(due) and due[self.num_previews] <= state.num_visited

    def progress(self, preview: NDArray[np.float32] | None = None) -> Stepped | None:
        """The news since the last report; None when there is none, or nothing to denoise."""
        visits = sum(state.num_visits for state in self.states)
        if visits == 0:
            return None
        steps = num_steps(self.request) or self.states[0].num_visits
        total = steps * len(self.states)
        visited = sum(state.num_visited for state in self.states)
        step = total * visited // visits
        if step == self.told and preview is None:
            return None
        self.told = step
        return Stepped(step=step, num_steps=total, preview=preview)

    def finished(self) -> Finished:
        """The last event of a complete request."""
        values = [self.values[index] for index in range(len(self.states))]
        pictures: tuple[Picture, ...] = ()
        latents = None
        if self.request.ends_in_latents:
            latents = np.stack(values)
        else:
            pictures = tuple(
                Picture(pixels=pixels, seed=picture_seed(self.request, index))
                for index, pixels in enumerate(values)
            )
        return Finished(
            pictures=pictures,
            latents=latents,
            prompt_tokens=self.states[0].prompt_tokens,
            max_batch_rows=self.max_batch_rows,
            seconds=monotonic() - self.added,
        )


def preview_points(num_timesteps: int, num_previews: int) -> list[int]:
    """After which timesteps to show a preview: at most ``num_previews``, none after the last."""
    evenly = {max(1, k * num_timesteps // (num_previews + 1)) for k in range(1, num_previews + 1)}
    return sorted(point for point in evenly if point < num_timesteps)
