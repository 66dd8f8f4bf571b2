"""QwenText: prompts, and the pictures they speak of, through Qwen2.5-VL in the pipelines' words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn.functional import pad
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from deployments.errors import InvalidRequest, UnsupportedField
from deployments.families.prompt import parse, parse_comfyui
from deployments.families.wording import Wording, parts_of, wordings_of

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from deployments.families.fitter import Adapters
    from deployments.types import GenerationRequest, Weighting

#: The most tokens of a prompt that ``QwenImagePipeline`` reads (its ``tokenizer_max_length``).
MAX_TOKENS: Final = 1024
#: Positions that the denoiser's rotary table has for a text and, before it, half a picture's side.
MAX_POSITIONS: Final = 4096
#: Of a text after its template, so that the largest picture fits before it in the rotary table.
MAX_EDIT_TOKENS: Final = MAX_POSITIONS - 512
#: Different texts of one request, over all its parts and steps.
MAX_WORDINGS: Final = 64
#: ``max_sequence_length`` when the request names none.
DEFAULT_LENGTH: Final = 512


@dataclass(frozen=True, slots=True)
class Template:
    """What stands around a prompt, and how many of the first tokens the denoiser never sees."""

    text: str
    num_dropped: int


#: As ``prompt_template_encode`` of diffusers' ``QwenImagePipeline``.
TEXT_TO_IMAGE: Final = Template(
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity,"
    " text, spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
    "{}<|im_end|>\n<|im_start|>assistant\n",
    34,
)
#: As ``prompt_template_encode`` of diffusers' ``QwenImageEditPlusPipeline``.
EDIT: Final = Template(
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture,"
    " objects, background), then explain how the user's text instruction should alter or modify the"
    " image. Generate a new image that meets the user's requirements while maintaining consistency"
    " with the original input where appropriate.<|im_end|>\n<|im_start|>user\n"
    "{}<|im_end|>\n<|im_start|>assistant\n",
    64,
)
#: Stands before the prompt of an edit, once for each picture.
PICTURE: Final = "Picture {}: <|vision_start|><|image_pad|><|vision_end|>"

_IMAGE_TOKEN: Final = "<|image_pad|>"
#: Special tokens in a caller's own text are text: they would stand for pictures, or for his turn.
_SPECIAL: Final = re.compile(r"<\|(\w+)\|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning:
    """What steers one row of a picture's forward passes.

    Attributes:
        text: (1, tokens, width), without padding.
        by_step: the same for each step asked for, when the words change from step to step.
        weight, is_negative: as of ``Part``.
        adapters: the LoRAs of the denoiser.
    """

    text: Tensor
    by_step: tuple[Tensor, ...] = ()
    weight: float = 1.0
    is_negative: bool = False
    adapters: Adapters = ()

    def at(self, step: int) -> Conditioning:
        """What steers at a step asked for, counted from 0; the last one's after the last."""
        if not self.by_step:
            return self
        return replace(self, text=self.by_step[min(step, len(self.by_step) - 1)], by_step=())

    @property
    def num_tokens(self) -> int:
        """Tokens that the denoiser attends to, at most."""
        return max(int(text.shape[1]) for text in (self.text, *self.by_step))


@dataclass(frozen=True, slots=True)
class QwenText:
    """A Qwen2.5-VL with its tokenizer and its picture processor, None where there are no edits.

    ``device`` is where the model computes, which it need not be on before it is called.
    """

    tokenizer: Any
    model: Any
    images: Any
    device: torch.device

    def encode(
        self, prompt: str, pictures: Sequence[Image.Image], max_length: int | None
    ) -> Tensor:
        """(1, tokens, width): the last hidden state of a prompt, or of an edit of ``pictures``.

        Raises ``InvalidRequest`` for an edit's prompt that is too long; others are cut.
        """
        limit = DEFAULT_LENGTH if max_length is None else max_length
        if not 1 <= limit <= MAX_TOKENS:
            message = f"max_sequence_length {limit} is out of range; accepted: 1 to {MAX_TOKENS}"
            raise InvalidRequest(message, param="max_sequence_length")
        prompt = _SPECIAL.sub(r"< |\1| >", prompt)
        if pictures:
            return self._encode_edit(prompt, pictures)
        ids = self._tokenize(TEXT_TO_IMAGE.text.format(prompt))
        dropped = TEXT_TO_IMAGE.num_dropped
        return self._hidden(ids[: MAX_TOKENS + dropped])[:, dropped:][:, :limit]

    def num_tokens(self, prompt: str) -> int:
        """Tokens of the prompt alone."""
        return len(self._tokenize(prompt))

    def _encode_edit(self, prompt: str, pictures: Sequence[Image.Image]) -> Tensor:
        # NOTE: as the stock pipeline does it: not cut to ``max_sequence_length``.
        seen = self.images(images=list(pictures), return_tensors="pt")
        counts = seen["image_grid_thw"].prod(dim=1) // self.images.merge_size**2
        shown = "".join(
            PICTURE.format(k + 1).replace(_IMAGE_TOKEN, _IMAGE_TOKEN * int(count))
            for k, count in enumerate(counts)
        )
        ids = self._tokenize(EDIT.text.format(shown + prompt))
        if (length := len(ids) - EDIT.num_dropped) > MAX_EDIT_TOKENS:
            message = f"the prompt and its pictures make {length} tokens"
            raise InvalidRequest(f"{message}; at most {MAX_EDIT_TOKENS} are taken", param="prompt")
        hidden = self._hidden(
            ids,
            pixel_values=seen["pixel_values"].to(self.device, self.model.dtype),
            image_grid_thw=seen["image_grid_thw"].to(self.device),
        )
        return hidden[:, EDIT.num_dropped :]

    def _tokenize(self, text: str) -> list[int]:
        return list(self.tokenizer(text, verbose=False).input_ids)

    def _hidden(self, ids: Sequence[int], **pictures: Tensor) -> Tensor:
        """(1, tokens, width); of the logits, which nobody reads, only the last token's are made."""
        row = torch.tensor([ids], device=self.device)
        if pictures:
            # NOTE: only with these does transformers 5 give a picture's tokens the positions of
            # rows and columns that the model was trained with. diffusers' edit pipelines leave them
            # out (its issue 14194), and so count the tokens on as if they were words.
            pictures["mm_token_type_ids"] = (row == self.model.config.image_token_id).int()
        output = self.model(
            input_ids=row,
            attention_mask=torch.ones_like(row),
            use_cache=False,
            output_hidden_states=True,
            logits_to_keep=1,
            **pictures,
        )
        hidden: Tensor = output.hidden_states[-1]
        return hidden


def image_processor(folder: str) -> Any:
    """The picture processor of a folder or hub id, in the form that needs no torchvision."""
    return Qwen2VLImageProcessorPil.from_pretrained(folder, subfolder="processor")


def embedded(
    request: GenerationRequest, text: QwenText, pictures: Sequence[Image.Image], scale: float
) -> tuple[Conditioning, ...]:
    """A conditioning per part, the negative ones last; each different wording is encoded once.

    Guided, an empty negative prompt is a blank, as in Qwen's own examples.

    Args:
        pictures: what the words speak of; none for text-to-image.
        scale: of classifier-free guidance; 1.0 or less has no negative parts.
    """
    params = replace(request.params, guidance_scale=scale)
    negative = request.negative_prompt or " "
    parts = parts_of(replace(request, params=params, negative_prompt=negative))
    wordings = wordings_of(parts)
    if len(wordings) > MAX_WORDINGS:
        message = f"the prompts make {len(wordings)} texts over all their parts and steps"
        raise InvalidRequest(f"{message}; at most {MAX_WORDINGS} are taken", param="prompt")
    made = {wording: _encoded(wording, request, text, pictures) for wording in wordings}
    return tuple(
        Conditioning(
            text=made[part.wordings[0]],
            by_step=tuple(made[w] for w in part.wordings) if len(part.wordings) > 1 else (),
            weight=part.weight,
            is_negative=part.is_negative,
        )
        for part in parts
    )


def prompt_tokens(request: GenerationRequest, text: QwenText) -> int:
    """Tokens of the positive parts' own words, as they are in the first step."""
    return sum(
        text.num_tokens(plain(part.wordings[0].text, request.notation))
        for part in parts_of(request)
        if not part.is_negative
    )


def plain(prompt: str, notation: Weighting) -> str:
    """The words of a prompt in a notation that weighs them: a language model hears no weights."""
    if notation == "plain":
        return prompt
    if notation == "comfyui":
        return "".join(span.text for span in parse_comfyui(prompt))
    return " ".join("".join(span.text for span in section) for section in parse(prompt))


def padded(branches: Sequence[Conditioning]) -> tuple[Tensor, Tensor | None]:
    """(n, tokens, width) of the longest and which of them are text, None when all are."""
    lengths = [branch.num_tokens for branch in branches]
    longest = max(lengths)
    rows = [pad(branch.text, (0, 0, 0, longest - branch.num_tokens)) for branch in branches]
    text = torch.cat(rows)
    if min(lengths) == longest:
        return text, None
    positions = torch.arange(longest, device=text.device)
    return text, positions < torch.tensor(lengths, device=text.device)[:, None]


def _encoded(
    wording: Wording, request: GenerationRequest, text: QwenText, pictures: Sequence[Image.Image]
) -> Tensor:
    if wording.clip_skip != 1:
        message = "this model's text encoder skips no layers"
        raise UnsupportedField(message, param="clip_skip")
    length = request.params.max_sequence_length
    hidden = text.encode(plain(wording.text, request.notation), pictures, length)
    return torch.zeros_like(hidden) if wording.is_zeroed else hidden


def bucket(length: int) -> int:
    """The power of two, at least 512, that a text is padded to at most by whom it runs with.

    So the words of most requests share a forward, and none pays for one of thousands of tokens.
    """
    return max(512, 1 << (length - 1).bit_length())
