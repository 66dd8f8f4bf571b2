"""Conditionings: texts, and pictures that they are about."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.errors import InvalidRequest
from deployments.types import PromptPart
from router.apis.comfyui.nodes.conditioning import (
    combine,
    encode_edit_of_several,
    encode_text,
    set_last_layer,
    zero_out,
)
from router.apis.comfyui.values import Clip, Conditioning, Images

CLIP = Clip(model="m")


def text(words: str, model: str = "m") -> Conditioning:
    (conditioning,) = encode_text(text=words, clip=Clip(model=model))
    return conditioning


def image(channels: int = 3, count: int = 1) -> Images:
    return Images(pixels=[np.full((4, 6, channels), 9 * k, np.uint8) for k in range(count)])


def test_text_is_for_the_model_of_its_encoder() -> None:
    assert (text("a").model, text("a").parts) == ("m", (PromptPart(text="a"),))


@pytest.mark.parametrize(("layer", "skip"), [(-1, 1), (-2, 2), (-24, 24)])
def test_last_layer_counts_from_the_end(layer: int, skip: int) -> None:
    (clip,) = set_last_layer(clip=CLIP, stop_at_clip_layer=layer)
    (conditioning,) = encode_text(text="a", clip=clip)
    assert conditioning.parts == (PromptPart(text="a", clip_skip=skip),)


def test_combined_texts_are_both_there() -> None:
    (both,) = combine(conditioning_1=text("a"), conditioning_2=text("b"))
    assert [part.text for part in both.parts] == ["a", "b"]


def test_texts_for_two_models_are_not_combined() -> None:
    with pytest.raises(InvalidRequest, match="cannot be combined: 'm' and 'n'"):
        combine(conditioning_1=text("a"), conditioning_2=text("b", "n"))


def test_texts_do_not_double_without_end() -> None:
    many = text("a")
    for _ in range(4):
        (many,) = combine(conditioning_1=many, conditioning_2=many)
    with pytest.raises(InvalidRequest, match="32 texts are too many; accepted: at most 16"):
        combine(conditioning_1=many, conditioning_2=many)


def test_zeroed_texts_are_zeros() -> None:
    (zeroed,) = zero_out(conditioning=text("a"))
    assert zeroed.parts == (PromptPart(text="a", is_zeroed=True),)


def test_edit_refers_to_its_pictures_in_order() -> None:
    first, third = image(), image(count=2)
    (conditioning,) = encode_edit_of_several(clip=CLIP, prompt="p", image1=first, image3=third)
    assert conditioning.references == (*first.encoded, *third.encoded)


def test_edit_sees_colours_alone() -> None:
    (conditioning,) = encode_edit_of_several(clip=CLIP, prompt="p", image2=image(4))
    (reference,) = conditioning.references
    assert not Images(encoded=[reference]).has_alpha


def test_picture_of_both_is_referred_to_once() -> None:
    (one,) = encode_edit_of_several(clip=CLIP, prompt="p", image1=image())
    (both,) = combine(conditioning_1=one, conditioning_2=one)
    assert len(both.references) == 1
