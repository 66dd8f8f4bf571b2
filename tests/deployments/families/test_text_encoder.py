"""Weighted and long prompts through the text encoders of tiny checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from deployments.errors import InvalidRequest
from deployments.families.base import Family
from deployments.families.prompt import Chunk
from deployments.families.text_encoder import Conditioning, TextEncoder, weighed
from deployments.types import GenerationRequest
from tests.deployments.families.driver import ask, draw, states_of, stock

Load = Callable[[str], Family]
FAMILIES = pytest.mark.parametrize("name", ["sd", "sdxl"])
LONG = ", ".join(f"a {colour} circle" for colour in ("red", "blue", "green", "white") * 12)


def embed(family: Any, request: GenerationRequest) -> tuple[Conditioning, ...]:
    with torch.inference_mode():
        return family.embed(request, family.base)


def stock_embeddings(family: Any, prompt: str, **options: Any) -> torch.Tensor:
    with torch.inference_mode():
        return family.base.encode_prompt(
            prompt,
            device=family.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            **options,
        )[0]


@FAMILIES
def test_plain_text_is_the_same_in_either_notation(load: Load, name: str) -> None:
    request = ask("a red circle, left", negative_prompt="a blurry star")
    plain = embed(load(name), request)
    noted = embed(
        load(name), ask("a red circle, left", negative_prompt="a blurry star", is_weighted=True)
    )
    for one, other in zip(plain, noted, strict=True):
        assert torch.equal(one.text, other.text)
        assert all(torch.equal(one.added[key], other.added[key]) for key in one.added)
    assert torch.equal(plain[0].text, stock_embeddings(load(name), request.prompt))


@FAMILIES
def test_chunks_are_encoded_alone_and_joined(load: Load, name: str) -> None:
    family = load(name)
    prompt, negative = embed(
        family, ask("a red circle BREAK a lake", negative_prompt="x", is_weighted=True)
    )
    assert prompt.text.shape == negative.text.shape == (1, 154, prompt.text.shape[2])
    parts = [stock_embeddings(family, text) for text in ("a red circle", "a lake", "x", "")]
    assert torch.allclose(prompt.text, torch.cat(parts[:2], dim=1), atol=1e-5)
    assert torch.allclose(negative.text, torch.cat(parts[2:], dim=1), atol=1e-5)


def test_pooled_text_is_the_first_chunk_s(load: Load) -> None:
    [both], [first] = (
        embed(load("sdxl"), ask(prompt, is_weighted=True, guidance_scale=1.0))
        for prompt in ("a red circle BREAK a lake", "a red circle")
    )
    assert torch.allclose(both.added["text_embeds"], first.added["text_embeds"], atol=1e-5)


def test_no_negative_prompt_is_zeros_for_sdxl_at_any_length(load: Load) -> None:
    prompt, negative = embed(load("sdxl"), ask("a BREAK b", is_weighted=True))
    assert negative.text.shape == prompt.text.shape
    assert not negative.text.any()
    assert not negative.added["text_embeds"].any()


@FAMILIES
def test_long_prompts_draw_beside_short_ones(load: Load, name: str) -> None:
    family = load(name)
    long, short = ask(LONG, is_weighted=True), ask("a lake", is_weighted=True)
    states = states_of(family, long, short, ask(LONG))
    assert states[0].batch_key != states[1].batch_key == states[2].batch_key
    assert states[0].prompt_tokens > 150
    assert states[2].prompt_tokens == 77
    together = draw(family, long, short)
    for one, other in zip(together, [*draw(family, long), *draw(family, short)], strict=True):
        assert np.abs(one - other).max() <= 1


def test_weights_multiply_states_and_keep_each_chunk_s_mean() -> None:
    hidden = torch.randn(2, 77, 8) + 1
    chunks = [Chunk((5, 6), (2.0, 1.0)), Chunk((7,), (1.0,))]
    result = weighed(hidden, chunks)
    assert torch.allclose(result.mean((1, 2)), hidden.mean((1, 2)), atol=1e-6)
    assert torch.equal(result[1], hidden[1])
    scale = (result[0, 0] / hidden[0, 0]).mean()
    assert torch.allclose(result[0, 1], 2 * scale * hidden[0, 1], atol=1e-5)
    assert torch.allclose(result[0, 2:], scale * hidden[0, 2:], atol=1e-5)


def test_states_that_say_nothing_stay_nothing_when_weighed() -> None:
    hidden = torch.zeros(1, 77, 8)
    assert torch.equal(weighed(hidden, [Chunk((5, 6), (1.2, 1.0))]), hidden)


def test_weights_multiply_states_that_have_no_mean_to_keep() -> None:
    hidden = torch.randn(1, 77, 8, generator=torch.Generator().manual_seed(0))
    hidden -= hidden.mean()
    result = weighed(hidden, [Chunk((5, 6), (1.2, 1.0))])
    assert torch.equal(result[0, 1], 1.2 * hidden[0, 1])
    assert torch.equal(result[0, 2:], hidden[0, 2:])


@FAMILIES
def test_weights_show_in_the_picture(load: Load, name: str) -> None:
    family = load(name)
    pictures = [
        draw(family, ask(prompt, is_weighted=True))[0]
        for prompt in ("a red (star:1.6)", "a red star")
    ]
    assert np.abs(pictures[0] - pictures[1]).mean() > 0.1


def test_clip_skip_takes_the_layer_before_with_the_norm(load: Load) -> None:
    family: Any = load("sd")
    [skipped] = embed(family, ask("a lake", clip_skip=2, guidance_scale=1.0))
    encoder = family.base.text_encoder
    ids = family.base.tokenizer("a lake", padding="max_length", return_tensors="pt").input_ids
    with torch.inference_mode():
        hidden = encoder(ids, output_hidden_states=True).hidden_states[-2]
        expected = encoder.final_layer_norm(hidden)
    assert torch.allclose(skipped.text, expected, atol=1e-6)


def test_clip_skip_of_sdxl_begins_at_its_last_layer_but_one(load: Load) -> None:
    first, second = (embed(load("sdxl"), ask("a lake", clip_skip=skip)) for skip in (1, 2))
    assert torch.equal(first[0].text, second[0].text)


@FAMILIES
@pytest.mark.parametrize("clip_skip", [3, 12])
def test_clip_skip_beyond_the_layers_is_refused(load: Load, name: str, clip_skip: int) -> None:
    with pytest.raises(InvalidRequest, match=f"clip_skip {clip_skip}; .* has 2 layers"):
        states_of(load(name), ask(clip_skip=clip_skip))


def test_weighted_plain_text_is_the_stock_picture(load: Load) -> None:
    request = ask(is_weighted=True)
    expected = stock(load("sd"), diffusers.StableDiffusionPipeline, request)
    assert np.abs(draw(load("sd"), request)[0] - expected).max() <= 1


def test_chunk_size_leaves_room_for_the_special_tokens(load: Load) -> None:
    base = load("sd").base  # type: ignore[attr-defined]
    assert TextEncoder(base.tokenizer, base.text_encoder).chunk_size == 75


@FAMILIES
def test_a_prompt_of_very_many_chunks_is_refused(load: Load, name: str) -> None:
    with pytest.raises(InvalidRequest, match="101 chunks of 75 tokens; at most 100"):
        states_of(load(name), ask("BREAK" + " BREAK" * 99 + " a", is_weighted=True))
