"""TextEncoder: a CLIP text model with its tokenizer, from prompts to embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch

from deployments.errors import InvalidRequest
from deployments.families.prompt import Chunk, plain_chunk, weighted_chunks

if TYPE_CHECKING:
    from torch import Tensor


#: Chunks of one prompt: every step of the denoiser attends to all of their tokens.
MAX_CHUNKS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning:
    """What steers one guidance branch.

    Attributes:
        text: (1, tokens, width) embedding of the prompt.
        added: the UNet's ``added_cond_kwargs``, each (1, n); empty for Stable Diffusion 1.
    """

    text: Tensor
    added: dict[str, Tensor] = field(default_factory=dict)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of one row, the conditioning part of its ``BatchKey``."""
        return tuple(tuple(t.shape[1:]) for t in (self.text, *self.added.values()))


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """One tokenizer and its encoder; the prompts of one batch row are encoded chunk by chunk."""

    tokenizer: Any
    model: Any

    @property
    def chunk_size(self) -> int:
        """Tokens of one chunk without the two special ones: 75."""
        return int(self.tokenizer.model_max_length) - 2

    def chunks(self, prompt: str, *, is_weighted: bool) -> list[Chunk]:
        """One chunk of a plain prompt, which is cut at its end; all of a weighted one's."""
        if is_weighted:
            chunks = weighted_chunks(prompt, self._tokenize, self.chunk_size)
            if len(chunks) > MAX_CHUNKS:
                message = f"the prompt makes {len(chunks)} chunks of {self.chunk_size} tokens; "
                raise InvalidRequest(f"{message}at most {MAX_CHUNKS} are taken", param="prompt")
            return chunks
        return [plain_chunk(prompt, self._tokenize, self.chunk_size)]

    def encode(self, chunks: Sequence[Chunk], layer: int, *, is_normed: bool) -> Any:
        """The model's output for one prompt, and its weighed hidden states, (1, 77 k, width).

        Args:
            layer: of the hidden states, counted from the end; 1 is the last.
            is_normed: whether the final layer norm follows.
        """
        num_layers = self.model.config.num_hidden_layers
        if not 1 <= layer <= num_layers:
            message = f"clip_skip {layer}; this model's text encoder has {num_layers} layers"
            raise InvalidRequest(message, param="clip_skip")
        ids = torch.tensor([self._ids(chunk) for chunk in chunks], device=self.model.device)
        output = self.model(ids, output_hidden_states=True)
        hidden = output.hidden_states[-layer]
        if is_normed:
            hidden = getattr(self.model, "text_model", self.model).final_layer_norm(hidden)
        return output, weighed(hidden, chunks).flatten(0, 1)[None]

    def _tokenize(self, text: str) -> list[int]:
        tokens = self.tokenizer(text, add_special_tokens=False, verbose=False)
        return list(tokens.input_ids)

    def _ids(self, chunk: Chunk) -> list[int]:
        tokens = [self.tokenizer.bos_token_id, *chunk.tokens, self.tokenizer.eos_token_id]
        return tokens + [self.tokenizer.pad_token_id] * (self.chunk_size + 2 - len(tokens))


def weighed(hidden: Tensor, chunks: Sequence[Chunk]) -> Tensor:
    """(k, 77, width) with each token's state times its weight, then each chunk's mean restored.

    That is the web UI's emphasis "Original"; chunks without weights are left as they are.
    """
    if all(weight == 1 for chunk in chunks for weight in chunk.weights):
        return hidden
    weights = torch.ones(hidden.shape[:2])
    for row, chunk in zip(weights, chunks, strict=True):
        row[1 : 1 + len(chunk.weights)] = torch.tensor(chunk.weights)
    plain = hidden.float()
    emphasised = plain * weights[..., None].to(plain.device)
    before, after = plain.mean((1, 2), keepdim=True), emphasised.mean((1, 2), keepdim=True)
    has_weights = (weights != 1).any(1)[:, None, None].to(plain.device)
    return torch.where(has_weights, emphasised * (before / after), plain).to(hidden.dtype)


def padded(branches: Sequence[list[Chunk]]) -> list[list[Chunk]]:
    """All with as many chunks as the longest has, by empty ones at the end."""
    length = max(len(chunks) for chunks in branches)
    return [chunks + [Chunk()] * (length - len(chunks)) for chunks in branches]


def num_tokens(chunks: Sequence[Chunk]) -> int:
    """Tokens of a prompt with the two special ones of each chunk, before padding."""
    return sum(len(chunk.tokens) + 2 for chunk in chunks)
