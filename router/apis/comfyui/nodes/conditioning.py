"""Nodes that make texts, and the pictures that edits refer to, into conditionings."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from deployments.errors import InvalidRequest
from deployments.types import PromptPart
from router.apis.comfyui.node import Input, Node
from router.apis.comfyui.values import Clip, Conditioning, Images, Vae
from router.apis.comfyui.widgets import image, whole

#: The most texts that one conditioning may hold: each is a row of every denoising step.
MAX_PARTS: Final = 16


def encode_text(*, text: str, clip: Clip) -> tuple[Conditioning]:
    """A text for the model that the encoder belongs to."""
    part = PromptPart(text=text, clip_skip=clip.skip, loras=clip.loras or None)
    return (Conditioning(model=clip.model, parts=(part,)),)


def set_last_layer(*, clip: Clip, stop_at_clip_layer: int) -> tuple[Clip]:
    """The encoder up to a layer: -1 is the last."""
    return (replace(clip, skip=-stop_at_clip_layer),)


def combine(*, conditioning_1: Conditioning, conditioning_2: Conditioning) -> tuple[Conditioning]:
    """Both at once: what the model predicts for each is averaged."""
    if conditioning_1.model != conditioning_2.model:
        raise InvalidRequest(
            "texts for two models cannot be combined: "
            f"{conditioning_1.model!r} and {conditioning_2.model!r}"
        )
    parts = conditioning_1.parts + conditioning_2.parts
    if len(parts) > MAX_PARTS:
        raise InvalidRequest(f"{len(parts)} texts are too many; accepted: at most {MAX_PARTS}")
    references = dict.fromkeys(conditioning_1.references + conditioning_2.references)
    return (replace(conditioning_1, parts=parts, references=tuple(references)),)


def zero_out(*, conditioning: Conditioning) -> tuple[Conditioning]:
    """The same with zeros in place of what the text encoder made of the texts."""
    parts = tuple(replace(part, is_zeroed=True) for part in conditioning.parts)
    return (replace(conditioning, parts=parts),)


def encode_edit(
    *,
    clip: Clip,
    prompt: str | None = None,
    text: str | None = None,
    vae: Vae | None = None,
    image: Images | None = None,
) -> tuple[Conditioning]:
    """An instruction for a model that edits: ComfyUI's ``prompt``, the Qwen dialect's ``text``."""
    told = text if prompt is None else prompt
    if told is None:
        raise InvalidRequest("there is no instruction; accepted: a text in prompt, or in text")
    return encode_edit_of_several(clip=clip, prompt=told, vae=vae, image1=image)


def encode_edit_of_several(
    *,
    clip: Clip,
    prompt: str,
    vae: Vae | None = None,  # noqa: ARG001 - the host encodes the pictures itself
    image1: Images | None = None,
    image2: Images | None = None,
    image3: Images | None = None,
) -> tuple[Conditioning]:
    """An instruction, and up to three pictures that it is about."""
    pictures = [images for images in (image1, image2, image3) if images is not None]
    references = tuple(data for images in pictures for data in without_alpha(images).encoded)
    (conditioning,) = encode_text(text=prompt, clip=clip)
    return (replace(conditioning, references=references),)


def without_alpha(images: Images) -> Images:
    """The pictures' colours alone."""
    if not images.has_alpha:
        return images
    return Images(pixels=[np.ascontiguousarray(pixels[..., :3]) for pixels in images.pixels])


_CLIP: Final = Input(name="clip", type="CLIP")
_VAE: Final = Input(name="vae", type="VAE", is_optional=True)
_TEXT: Final = {"multiline": True, "dynamicPrompts": True}
_QWEN: Final = "comfy_extras.nodes_qwen"

NODES: Final = (
    Node(
        class_type="CLIPTextEncode",
        run=encode_text,
        inputs=(Input(name="text", type="STRING", options=_TEXT), _CLIP),
        outputs=("CONDITIONING",),
        category="conditioning",
        display_name="CLIP Text Encode (Prompt)",
        description="A text that guides what a model draws.",
    ),
    Node(
        class_type="CLIPSetLastLayer",
        run=set_last_layer,
        inputs=(_CLIP, whole("stop_at_clip_layer", -1, -24, -1, step=1)),
        outputs=("CLIP",),
        category="conditioning",
        display_name="CLIP Set Last Layer",
    ),
    Node(
        class_type="ConditioningCombine",
        run=combine,
        inputs=(
            Input(name="conditioning_1", type="CONDITIONING"),
            Input(name="conditioning_2", type="CONDITIONING"),
        ),
        outputs=("CONDITIONING",),
        category="conditioning",
        display_name="Conditioning (Combine)",
    ),
    Node(
        class_type="ConditioningZeroOut",
        run=zero_out,
        inputs=(Input(name="conditioning", type="CONDITIONING"),),
        outputs=("CONDITIONING",),
        category="advanced/conditioning",
        display_name="ConditioningZeroOut",
    ),
    Node(
        class_type="TextEncodeQwenImageEdit",
        run=encode_edit,
        inputs=(
            _CLIP,
            Input(name="prompt", type="STRING", options=_TEXT, is_optional=True),
            Input(name="text", type="STRING", options=_TEXT, is_optional=True),
            _VAE,
            replace(image(), is_optional=True),
        ),
        outputs=("CONDITIONING",),
        category="advanced/conditioning",
        display_name="TextEncodeQwenImageEdit",
        module=_QWEN,
    ),
    Node(
        class_type="TextEncodeQwenImageEditPlus",
        run=encode_edit_of_several,
        inputs=(
            _CLIP,
            Input(name="prompt", type="STRING", options=_TEXT),
            _VAE,
            *(replace(image(f"image{k}"), is_optional=True) for k in (1, 2, 3)),
        ),
        outputs=("CONDITIONING",),
        category="advanced/conditioning",
        display_name="TextEncodeQwenImageEditPlus",
        module=_QWEN,
    ),
)
