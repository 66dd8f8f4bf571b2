"""TextEncoder: a CLIP text model with its tokenizer, from prompts to embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import lcm
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import torch

from deployments.errors import InvalidRequest
from deployments.families.prompt import Chunk, comfyui_chunks, plain_chunk, weighted_chunks
from deployments.families.wording import Part, Wording, parts_of, wordings_of

if TYPE_CHECKING:
    from torch import Tensor

    from deployments.families.fitter import Adapters
    from deployments.types import GenerationRequest, Weighting


#: Chunks of one prompt: every step of the denoiser attends to all of their tokens.
MAX_CHUNKS: Final = 100

#: Chunks of all texts of one request together, those of every step and part.
MAX_ALL_CHUNKS: Final = 400

#: A short text beside a long one is repeated while that makes neither more than so many times as
#: long as the longest, as ComfyUI does.
MAX_REPEATED: Final = 4

#: Means of hidden states are about zero when smaller than this share of their spread. Those of
#: OpenAI's CLIP are a tenth of it.
CENTRED: Final = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning:
    """What steers one row of a picture.

    Attributes:
        text: (1, tokens, width) embedding of the prompt.
        added: the UNet's ``added_cond_kwargs``, each (1, n); empty for Stable Diffusion 1.
        by_step: what stands in its place in each step asked for, of equal shapes; empty when
            nothing changes.
        weight, is_negative: as of ``Part``.
        adapters: the LoRAs of the denoiser.
    """

    text: Tensor
    added: dict[str, Tensor] = field(default_factory=dict)
    by_step: tuple[Conditioning, ...] = ()
    weight: float = 1.0
    is_negative: bool = False
    adapters: Adapters = ()

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of one row, the conditioning part of its ``BatchKey``."""
        return tuple(tuple(t.shape[1:]) for t in (self.text, *self.added.values()))

    def at(self, step: int) -> Conditioning:
        """What steers a step, counted from 0."""
        return self.by_step[min(step, len(self.by_step) - 1)] if self.by_step else self

    def zeroed(self) -> Conditioning:
        """Zeros for the text and its pooled form, where it has one."""
        pooled = {key: torch.zeros_like(t) for key, t in self.added.items() if key == "text_embeds"}
        return replace(self, text=torch.zeros_like(self.text), added={**self.added, **pooled})


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """One tokenizer and its encoder; the prompts of one batch row are encoded chunk by chunk."""

    tokenizer: Any
    model: Any

    @property
    def chunk_size(self) -> int:
        """Tokens of one chunk without the two special ones: 75."""
        return int(self.tokenizer.model_max_length) - 2

    def chunks(self, prompt: str, notation: Weighting) -> list[Chunk]:
        """One chunk of a plain prompt, which is cut at its end; all of a weighted one's."""
        if notation == "plain":
            return [plain_chunk(prompt, self._tokenize, self.chunk_size)]
        cut = weighted_chunks if notation == "a1111" else comfyui_chunks
        chunks = cut(prompt, self._tokenize, self.chunk_size)
        if len(chunks) > MAX_CHUNKS:
            message = f"the prompt makes {len(chunks)} chunks of {self.chunk_size} tokens; "
            raise InvalidRequest(f"{message}at most {MAX_CHUNKS} are taken", param="prompt")
        return chunks

    def encode(
        self, chunks: Sequence[Chunk], layer: int, notation: Weighting, *, is_normed: bool
    ) -> Any:
        """The model's output for one prompt, and its weighed hidden states, (1, 77 k, width).

        Args:
            layer: of the hidden states, counted from the end; 1 is the last.
            notation: says how weights weigh.
            is_normed: whether the final layer norm follows.
        """
        if notation == "comfyui" and _has_weights(chunks):
            chunks = [*chunks, Chunk()]  # what the others are weighed against
        num_layers = self.model.config.num_hidden_layers
        if not 1 <= layer <= num_layers:
            message = f"clip_skip {layer}; this model's text encoder has {num_layers} layers"
            raise InvalidRequest(message, param="clip_skip")
        ids = torch.tensor([self._ids(chunk) for chunk in chunks], device=self.model.device)
        output = self.model(ids, output_hidden_states=True)
        hidden = output.hidden_states[-layer]
        if is_normed:
            hidden = getattr(self.model, "text_model", self.model).final_layer_norm(hidden)
        if notation == "comfyui":
            return output, interpolated(hidden, chunks).flatten(0, 1)[None]
        return output, weighed(hidden, chunks).flatten(0, 1)[None]

    def _tokenize(self, text: str) -> list[int]:
        tokens = self.tokenizer(text, add_special_tokens=False, verbose=False)
        return list(tokens.input_ids)

    def _ids(self, chunk: Chunk) -> list[int]:
        tokens = [self.tokenizer.bos_token_id, *chunk.tokens, self.tokenizer.eos_token_id]
        return tokens + [self.tokenizer.pad_token_id] * (self.chunk_size + 2 - len(tokens))


def weighed(hidden: Tensor, chunks: Sequence[Chunk]) -> Tensor:
    """(k, 77, width) with each token's state times its weight, then each chunk's mean restored.

    That is the web UI's emphasis "Original"; chunks without weights are left as they are. Those
    with a mean of about zero have none to restore: that is its emphasis "No norm".
    """
    if not _has_weights(chunks):
        return hidden
    weights = _token_weights(hidden, chunks)
    plain = hidden.float()
    emphasised = plain * weights[..., None].to(plain.device)
    before, after = plain.mean((1, 2), keepdim=True), emphasised.mean((1, 2), keepdim=True)
    # NOTE: the means of centred states are rounding errors, and so would their quotient be; an
    # encoder that says nothing at all has no quotient.
    least = CENTRED * plain.std((1, 2), keepdim=True)
    is_centred = torch.minimum(before.abs(), after.abs()) <= least
    restored = torch.where(is_centred, emphasised, emphasised * (before / after))
    has_weights = (weights != 1).any(1)[:, None, None].to(plain.device)
    return torch.where(has_weights, restored, plain).to(hidden.dtype)


def interpolated(hidden: Tensor, chunks: Sequence[Chunk]) -> Tensor:
    """(k, 77, width) with each token's state e as ``z + weight * (e - z)``, as ComfyUI has it.

    With weights, ``chunks`` ends with an empty one, whose states z are not part of the result.
    """
    if not _has_weights(chunks):
        return hidden
    plain = hidden.float()
    weights = _token_weights(hidden, chunks)[:-1, :, None].to(plain.device)
    weighed_states = plain[-1] + weights * (plain[:-1] - plain[-1])
    return torch.where(weights == 1, plain[:-1], weighed_states).to(hidden.dtype)


#: From a wording and its chunks for each encoder to what steers.
Encode: TypeAlias = Callable[[Wording, Sequence[list[Chunk]]], Conditioning]


def embedded(
    request: GenerationRequest,
    parts: Sequence[Part],
    encoders: Sequence[TextEncoder],
    encode: Encode,
) -> tuple[Conditioning, ...]:
    """A conditioning per part, all of equal shapes; each different wording is encoded once."""
    wordings, n = wordings_of(parts), len(encoders)
    texts = padded(
        _all_chunks(request, wordings, encoders), is_repeated=request.notation == "comfyui"
    )
    made = {}
    for k, wording in enumerate(wordings):
        conditioning = encode(wording, texts[k * n : (k + 1) * n])
        made[wording] = conditioning.zeroed() if wording.is_zeroed else conditioning
    return tuple(
        replace(
            made[part.wordings[0]],
            by_step=tuple(made[w] for w in part.wordings) if len(part.wordings) > 1 else (),
            weight=part.weight,
            is_negative=part.is_negative,
        )
        for part in parts
    )


def _all_chunks(
    request: GenerationRequest, wordings: Sequence[Wording], encoders: Sequence[TextEncoder]
) -> list[list[Chunk]]:
    """The chunks of each wording for each encoder; stops at the first that are too many."""
    texts: list[list[Chunk]] = []
    longest = 0
    for wording in wordings:
        texts += [encoder.chunks(wording.text, request.notation) for encoder in encoders]
        longest = max(longest, *map(len, texts[-len(encoders) :]))
        if len(texts) // len(encoders) * longest > MAX_ALL_CHUNKS:
            message = "the prompts are too long, taking all their parts and steps together: "
            raise InvalidRequest(
                f"{message}at most {MAX_ALL_CHUNKS} chunks of {encoders[0].chunk_size} tokens "
                "are taken",
                param="prompt",
            )
    return texts


def prompt_tokens(request: GenerationRequest, encoder: TextEncoder) -> int:
    """Tokens of the positive parts as they are in the first step."""
    return sum(
        num_tokens(encoder.chunks(part.wordings[0].text, request.notation))
        for part in parts_of(request)
        if not part.is_negative
    )


def padded(branches: Sequence[list[Chunk]], *, is_repeated: bool = False) -> list[list[Chunk]]:
    """All with equally many chunks: by empty ones at the end, or by repetition.

    A repeated text steers exactly as it does alone, since attention is an average.
    """
    length = max(len(chunks) for chunks in branches)
    common = lcm(*(len(chunks) for chunks in branches))
    if is_repeated and common <= MAX_REPEATED * length:
        return [chunks * (common // len(chunks)) for chunks in branches]
    return [chunks + [Chunk()] * (length - len(chunks)) for chunks in branches]


def _has_weights(chunks: Sequence[Chunk]) -> bool:
    return any(weight != 1 for chunk in chunks for weight in chunk.weights)


def _token_weights(hidden: Tensor, chunks: Sequence[Chunk]) -> Tensor:
    """(k, 77) on the CPU; 1 for the special tokens."""
    weights = torch.ones(hidden.shape[:2])
    for row, chunk in zip(weights, chunks, strict=True):
        row[1 : 1 + len(chunk.weights)] = torch.tensor(chunk.weights)
    return weights


def num_tokens(chunks: Sequence[Chunk]) -> int:
    """Tokens of a prompt with the two special ones of each chunk, before padding."""
    return sum(len(chunk.tokens) + 2 for chunk in chunks)
