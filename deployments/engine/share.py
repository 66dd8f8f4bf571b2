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
    """Bytes that work takes beside the weights and LoRAs.

    Attributes:
        text: encoding the texts of a request.
        encode: encoding a picture, per image token of its pixels; the largest of several counts.
        denoise: a forward pass, per image token of each row.
        decode: decoding, per image token of each picture.
        encode_start, decode_start: of each picture whatever its size: where pictures pass in tiles,
            about what a tile takes.
    """

    text: int = 0
    encode: float = 0.0
    denoise: float = 0.0
    decode: float = 0.0
    encode_start: int = 0
    decode_start: int = 0

    def to_encode(self, tokens: float) -> int:
        """Of a request's texts, and of its largest input picture, of so many tokens; 0 is none."""
        picture = round(self.encode_start + tokens * self.encode) if tokens else 0
        return max(self.text, picture)

    def to_denoise(self, tokens: float, num_rows: int) -> int:
        """Of a forward pass of so many rows."""
        return round(tokens * num_rows * self.denoise)

    def to_decode(self, tokens: float) -> int:
        """Of one picture."""
        return round(self.decode_start + tokens * self.decode)

    def of_picture(self, tokens: float, num_rows: int) -> int:
        """The most that a picture of a text takes at once."""
        return max(self.text, self.to_denoise(tokens, num_rows), self.to_decode(tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A deployment's memory on its device.

    Attributes:
        num_bytes: all of it; None is not known, and nothing is bounded.
        is_reserved: whether it was set aside for the deployment, rather than all that there is.
        appetite: of the model's work.
        picture_bytes: what one picture of the model's default size takes beside the weights.
        reference_side: pixels of a side, about, of the pictures that an edit looks at.
    """

    num_bytes: int | None = None
    is_reserved: bool = True
    appetite: Appetite = Appetite()
    picture_bytes: int = 0
    reference_side: int = 0

    @property
    def usable_bytes(self) -> int | None:
        """What is there for weights and work."""
        return None if self.num_bytes is None else round(self.num_bytes * (1 - OVERHEAD))

    def check(self, weight_bytes: int, tokens: float, *, lora_bytes: int = 0) -> None:
        """Raise ``ValueError``, with the sum, unless the base's weights, the LoRAs that are always
        there, and the work on one picture of so many tokens, with guidance, find room."""
        work = self.appetite.of_picture(tokens, 2)
        usable, total = self.usable_bytes, weight_bytes + lora_bytes + work
        if usable is None or total <= usable:
            return
        loras = f"{told(lora_bytes)} of fixed LoRAs + " if lora_bytes else ""
        raise ValueError(
            f"the model does not fit its share of the memory: weights {told(weight_bytes)} + "
            f"{loras}{told(work)} for a picture of the default size = {told(total)}; "
            f"of the share of {told(self.num_bytes or 0)}, {told(usable)} can be used"
        )

    def bytes_of(self, request: GenerationRequest, tokens_per_pixel: float) -> int:
        """The most that one picture of a request takes at once beside the weights and LoRAs."""
        second = second_request(request)
        own = self._bytes_of(request, tokens_per_pixel)
        if second is None:
            return own
        # The first picture is enlarged as pixels, or as less.
        enlarging = self.appetite.to_encode(_tokens(second, tokens_per_pixel))
        return max(own, enlarging, self._bytes_of(second, tokens_per_pixel))

    def bytes_of_state(self, state: RequestState) -> int:
        """What the forward passes of an encoded picture take, whose tokens, those of its texts and
        references among them, are known."""
        tokens = state.tokens + state.prompt_tokens
        own = self.appetite.to_denoise(tokens, state.num_rows)
        if (following := state.following) is None:
            return own
        tokens, rows = following.tokens + state.prompt_tokens, len(following.branches)
        return max(own, self.appetite.to_denoise(tokens, rows))

    def free_bytes(self, held_bytes: int) -> int | None:
        """What is there for work beside so many bytes of weights and LoRAs."""
        usable = self.usable_bytes
        return None if usable is None else max(0, usable - held_bytes)

    def _bytes_of(self, request: GenerationRequest, tokens_per_pixel: float) -> int:
        tokens = _tokens(request, tokens_per_pixel)
        reference = self.reference_side**2 * tokens_per_pixel
        stages = [self.appetite.to_encode(max(tokens, reference) if request.images else 0)]
        if request.task == "generate":
            stages.append(self.appetite.to_denoise(tokens, num_rows(request)))
        if not request.ends_in_latents:
            stages.append(self.appetite.to_decode(tokens))
        return max(stages)


def num_rows(request: GenerationRequest) -> int:
    """Rows of a forward pass that each picture of a request takes; see ``RequestState``."""
    params = request.params
    scale = params.guidance_scale if params.true_cfg_scale is None else params.true_cfg_scale
    rows = max(1, len(request.parts))
    if scale is not None and scale > 1:
        rows += max(1, len(request.negative_parts))
    return rows


def final_tokens(request: GenerationRequest, tokens_per_pixel: float) -> float:
    """Image tokens of the finished picture, after the last pass."""
    return _tokens(second_request(request) or request, tokens_per_pixel)


def told(num_bytes: int) -> str:
    """Bytes as people read them: ``1.25 GiB``."""
    for power, unit in ((30, "GiB"), (20, "MiB")):
        if num_bytes >= 2**power:
            return f"{num_bytes / 2**power:.2f} {unit}"
    return f"{num_bytes} bytes"


def _tokens(request: GenerationRequest, tokens_per_pixel: float) -> float:
    """Image tokens of the picture that is drawn."""
    params = request.params
    return (params.width or 512) * (params.height or 512) * tokens_per_pixel
