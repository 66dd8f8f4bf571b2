"""Share: how much of a device's memory a deployment may take, and what goes into it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from deployments.engine.second_pass import second_request
from deployments.types import GenerationRequest

if TYPE_CHECKING:
    from deployments.engine.state import RequestState

#: Part of a share that no sum counts: the device's context, libraries' workspaces, fragmentation.
OVERHEAD: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Appetite:
    """Bytes that work takes beside the weights, per image token: of each row when denoising, of
    each picture when decoding (and about as much when encoding one)."""

    denoise: float = 0.0
    decode: float = 0.0

    def of_picture(self, tokens: float, num_rows: int) -> int:
        """The most that one picture takes at once."""
        return round(tokens * max(num_rows * self.denoise, self.decode))


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A deployment's memory on its device.

    Attributes:
        num_bytes: all of it; None is not known, and nothing is bounded.
        appetite: of the model's work.
    """

    num_bytes: int | None = None
    appetite: Appetite = Appetite()

    @property
    def usable_bytes(self) -> int | None:
        """What is there for weights and work."""
        return None if self.num_bytes is None else round(self.num_bytes * (1 - OVERHEAD))

    def check(self, weight_bytes: int, tokens: float) -> None:
        """Raise ``ValueError``, with the sum, unless the base's weights and the work on one picture
        of so many tokens, with guidance, find room."""
        work = self.appetite.of_picture(tokens, 2)
        usable = self.usable_bytes
        if usable is None or weight_bytes + work <= usable:
            return
        raise ValueError(
            f"the model does not fit its share of the memory: weights {told(weight_bytes)} + "
            f"{told(work)} for a picture of the default size = {told(weight_bytes + work)}; "
            f"of the share of {told(self.num_bytes or 0)}, {told(usable)} can be used"
        )

    def bytes_of(self, request: GenerationRequest, tokens_per_pixel: float) -> int:
        """The most that one picture of a request takes at once beside the weights."""
        second = second_request(request)
        passes = [request] if second is None else [request, second]
        return max(self._bytes_of(one, tokens_per_pixel) for one in passes)

    def bytes_of_state(self, state: RequestState) -> int:
        """The same of an encoded picture, whose tokens, references among them, are known."""
        own = self.appetite.of_picture(state.tokens, state.num_rows)
        if (following := state.following) is None:
            return own
        rows = len(following.branches)
        return max(own, self.appetite.of_picture(following.tokens, rows))

    def max_tokens(self, weight_bytes: int) -> tuple[int, int] | None:
        """Tokens that a forward pass, and a decoding, may hold beside so many bytes of weights."""
        usable = self.usable_bytes
        if usable is None:
            return None
        free = max(0, usable - weight_bytes)
        return _tokens(free, self.appetite.denoise), _tokens(free, self.appetite.decode)

    def _bytes_of(self, request: GenerationRequest, tokens_per_pixel: float) -> int:
        params = request.params
        tokens = (params.width or 512) * (params.height or 512) * tokens_per_pixel
        return self.appetite.of_picture(tokens, num_rows(request))


def num_rows(request: GenerationRequest) -> int:
    """Rows of a forward pass that each picture of a request takes; see ``RequestState``."""
    params = request.params
    scale = params.guidance_scale if params.true_cfg_scale is None else params.true_cfg_scale
    rows = max(1, len(request.parts))
    if scale is not None and scale > 1:
        rows += max(1, len(request.negative_parts))
    return rows


def told(num_bytes: int) -> str:
    """Bytes as people read them: ``1.25 GiB``."""
    for power, unit in ((30, "GiB"), (20, "MiB")):
        if num_bytes >= 2**power:
            return f"{num_bytes / 2**power:.2f} {unit}"
    return f"{num_bytes} bytes"


def _tokens(num_bytes: int, per_token: float) -> int:
    return int(num_bytes / per_token) if per_token else 2**62
