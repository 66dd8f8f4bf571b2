"""Wording: which texts steer a request, part by part and step by step. No tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from deployments.errors import InvalidRequest
from deployments.families.prompt_editing import split_parts, texts_by_step
from deployments.types import LoraUse, PromptPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deployments.types import GenerationRequest

#: Parts of one request, negative ones included: each is a row of every forward pass.
MAX_PARTS: Final = 32


@dataclass(frozen=True, slots=True)
class Wording:
    """A text as it is encoded; see ``PromptPart``."""

    text: str
    clip_skip: int
    is_zeroed: bool = False
    loras: tuple[LoraUse, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One row of a picture's forward passes.

    Attributes:
        wordings: one for each step asked for; a single one when it never changes.
        weight: its share among the parts of its side.
        is_negative: whether the picture is steered away from it.
    """

    wordings: tuple[Wording, ...]
    weight: float = 1.0
    is_negative: bool = False


def parts_of(request: GenerationRequest) -> list[Part]:
    """What steers the request: the positive parts, then, when it is guided, the negative ones.

    Raises ``InvalidRequest`` for too many, and for weights that are no shares of a whole where
    there is no negative part for them to act against.
    """
    is_guided = (request.params.guidance_scale or 0) > 1
    positive = request.parts or _split(request)
    parts = [_part(part, request) for part in positive]
    if is_guided:
        negative = request.negative_parts or (PromptPart(text=request.negative_prompt),)
        parts += [_part(part, request, is_negative=True) for part in negative]
    elif sum(part.weight for part in parts) <= 0:
        message = "without guidance the weights of the prompt's parts must sum to more than 0"
        raise InvalidRequest(message, param="prompt")
    if len(parts) > MAX_PARTS:
        message = f"the prompts have {len(parts)} parts; at most {MAX_PARTS} are taken"
        raise InvalidRequest(message, param="prompt")
    return parts


def wordings_of(parts: Sequence[Part]) -> list[Wording]:
    """Every different wording of the parts, in order."""
    return list(dict.fromkeys(wording for part in parts for wording in part.wordings))


def _split(request: GenerationRequest) -> tuple[PromptPart, ...]:
    if request.notation != "a1111":
        return (PromptPart(text=request.prompt),)
    texts = split_parts(request.prompt)
    return tuple(PromptPart(text=text, weight=weight) for text, weight in texts)


def _part(part: PromptPart, request: GenerationRequest, *, is_negative: bool = False) -> Part:
    params = request.params
    texts: tuple[str, ...] = (part.text,)
    if request.notation == "a1111":
        texts = texts_by_step(part.text, params.num_inference_steps or 1)
    clip_skip = params.clip_skip if part.clip_skip is None else part.clip_skip
    loras = request.loras if part.loras is None else part.loras
    wordings = tuple(Wording(text, clip_skip, part.is_zeroed, loras) for text in texts)
    return Part(wordings=wordings, weight=part.weight, is_negative=is_negative)
