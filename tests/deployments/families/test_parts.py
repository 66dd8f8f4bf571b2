"""Several texts that steer one picture, and texts that change: against loops written out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from deployments.errors import InvalidRequest
from deployments.families.base import Family
from deployments.families.walk import asked_step
from deployments.types import GenerationRequest, Latents, PromptPart
from tests.deployments.families.driver import ask, denoise, states_of
from tests.deployments.families.stock_loop import StockLoop

Load = Callable[[str], Family]
FAMILIES = pytest.mark.parametrize("name", ["sd", "sdxl"])
CAT, DOG = PromptPart(text="a cat"), PromptPart(text="a dog", weight=0.5)


def latents_of(family: Family, *requests: GenerationRequest) -> np.ndarray:
    states = states_of(family, *requests)
    while not all(state.is_denoised for state in states):
        denoise(family, states)
    return np.concatenate([np.asarray(state.latents) for state in states])


def differ(one: np.ndarray, other: Any) -> float:
    return float(np.abs(one - np.asarray(other)).max())


def embed(family: Any, request: GenerationRequest) -> Any:
    with torch.inference_mode():
        return family.embed(request, family.base)


@FAMILIES
@pytest.mark.parametrize("scheduler", ["Euler", "DDIM"])
def test_parts_steer_by_their_weights(load: Load, name: str, scheduler: str) -> None:
    family = load(name)
    request = ask("", parts=(CAT, DOG), negative_prompt="blurry", scheduler=scheduler)
    loop = StockLoop(family, request)
    loop.weights = [1.0, 0.5]
    expected = loop.draw(lambda _: ["blurry", "a cat", "a dog"])
    [state] = states_of(family, request)
    assert state.num_rows == 3
    assert differ(latents_of(family, request), expected) < 1e-3


@FAMILIES
def test_and_makes_parts_of_a_prompt_but_not_of_the_negative_one(load: Load, name: str) -> None:
    family = load(name)
    request = ask("a cat AND a dog :0.5", negative_prompt="red AND blue", is_weighted=True)
    loop = StockLoop(family, request)
    loop.weights = [1.0, 0.5]
    expected = loop.draw(lambda _: ["red AND blue", "a cat", "a dog"])
    assert differ(latents_of(family, request), expected) < 1e-3


@FAMILIES
def test_several_negative_parts_are_a_weighted_sum(load: Load, name: str) -> None:
    family = load(name)
    halves = tuple(PromptPart(text=text, weight=0.5) for text in ("blurry", "blurry"))
    one = ask("a cat", negative_prompt="blurry")
    two = ask("a cat", negative_parts=halves)
    assert differ(latents_of(family, two), latents_of(family, one)) < 1e-3


@FAMILIES
def test_without_guidance_parts_are_a_weighted_mean(load: Load, name: str) -> None:
    family = load(name)
    same = (CAT, PromptPart(text="a cat", weight=0.5))
    alone = latents_of(family, ask("a cat", guidance_scale=1.0))
    assert differ(latents_of(family, ask(parts=same, guidance_scale=1.0)), alone) < 1e-3
    assert differ(latents_of(family, ask(parts=(CAT, DOG), guidance_scale=1.0)), alone) > 0.05


def test_weights_that_cancel_each_other_need_guidance(load: Load) -> None:
    request = ask("a AND b :-1", is_weighted=True, guidance_scale=1.0)
    with pytest.raises(InvalidRequest, match="must sum to more than 0"):
        states_of(load("sd"), request)


def test_too_many_parts_are_refused(load: Load) -> None:
    with pytest.raises(InvalidRequest, match="41 parts; at most 32"):
        states_of(load("sd"), ask(" AND ".join(["a"] * 40), is_weighted=True))


@FAMILIES
def test_a_zeroed_part_has_no_text(load: Load, name: str) -> None:
    zeroed = PromptPart(text="blurry", is_zeroed=True)
    positive, negative = embed(load(name), ask("a cat", negative_parts=(zeroed,)))
    assert positive.text.any()
    assert not negative.text.any()
    assert not negative.added.get("text_embeds", torch.zeros(1)).any()
    if name == "sdxl":
        assert torch.equal(negative.added["time_ids"], positive.added["time_ids"])


def test_an_empty_negative_part_of_sdxl_is_encoded(load: Load) -> None:
    _, negative = embed(load("sdxl"), ask("a cat", negative_parts=(PromptPart(text=""),)))
    assert negative.text.any()


def test_each_part_skips_layers_of_its_own(load: Load) -> None:
    parts = (CAT, PromptPart(text="a cat", clip_skip=2))
    one, two = embed(load("sd"), ask(parts=parts, guidance_scale=1.0))
    [skipped] = embed(load("sd"), ask("a cat", clip_skip=2, guidance_scale=1.0))
    assert not torch.equal(one.text, two.text)
    assert torch.equal(two.text, skipped.text)


@FAMILIES
@pytest.mark.parametrize("scheduler", ["Euler", "DDIM"])
def test_words_change_from_step_to_step(load: Load, name: str, scheduler: str) -> None:
    family = load(name)
    request = ask(
        "a [cat:dog:0.5] in [snow|rain]",
        negative_prompt="[red:3]",
        is_weighted=True,
        scheduler=scheduler,
        num_inference_steps=6,
    )
    weather = ["snow", "rain"]

    def prompts(step: int) -> list[str]:
        animal = "cat" if step < 3 else "dog"
        return ["red" if step >= 3 else "", f"a {animal} in {weather[step % 2]}"]

    loop = StockLoop(family, request)
    expected = loop.draw(prompts)
    found = latents_of(family, request)
    assert differ(found, expected) < 1e-3
    fixed = ask("a cat in snow", is_weighted=True, scheduler=scheduler, num_inference_steps=6)
    assert differ(latents_of(family, fixed), expected) > 0.05


def test_words_that_change_go_on_in_the_second_half(load: Load) -> None:
    family = load("sd")
    knobs = {"is_weighted": True, "num_inference_steps": 6}
    zeros = Latents(num_images=1, width=64, height=64)
    whole = latents_of(family, ask("a [cat:dog:4]", latents=zeros, **knobs))
    first = ask("a [cat:dog:4]", latents=zeros, last_step=2, keeps_noise=True, **knobs)
    half = replace(zeros, value=latents_of(family, first), family="stable-diffusion")
    rest = ask("a [cat:dog:4]", latents=half, first_step=2, adds_noise=False, **knobs)
    assert differ(latents_of(family, rest), whole) < 0.01


@pytest.mark.parametrize("scheduler", ["Heun", "DPM2", "PNDM"])
def test_a_step_that_is_visited_twice_has_one_text(load: Load, scheduler: str) -> None:
    family: Any = load("sd")
    request = ask("[a|b]", is_weighted=True, scheduler=scheduler, guidance_scale=1.0)
    [state] = states_of(family, request)
    steps = [asked_step(state.scheduler, visit) for visit in range(state.num_timesteps)]
    assert steps == {"PNDM": [0, 0, 1, 2, 3]}.get(scheduler, [0, 0, 1, 1, 2, 2, 3])
    denoise(family, [state])


@FAMILIES
def test_changing_pictures_are_the_same_alone_and_among_others(load: Load, name: str) -> None:
    family = load(name)
    requests = [
        ask("a [cat:dog:2]", is_weighted=True, seed=1),
        ask("a cat AND a dog", is_weighted=True, seed=2),
        ask("a (cat:1.4)", is_weighted=True, weighting="comfyui", seed=3),
        ask("a cat", seed=4, guidance_scale=1.0),
    ]
    keys = {state.batch_key for state in states_of(family, *requests)}
    assert len(keys) == 1
    alone = np.concatenate([latents_of(family, request) for request in requests])
    assert differ(latents_of(family, *requests), alone) < 1e-3


def test_texts_of_all_steps_are_bounded(load: Load) -> None:
    options = "|".join(f"{k} BREAK " * 10 for k in range(100))
    request = ask(f"[{options}]", is_weighted=True, num_inference_steps=100)
    with pytest.raises(InvalidRequest, match="parts and steps together: at most 400 chunks"):
        states_of(load("sd"), request)


@pytest.mark.parametrize("name", ["sd", "sdxl"])
@pytest.mark.parametrize(
    "prompt", ["a (red:1.5) cat", "((a (star:0.3)) b) [c] BREAK", r"\(a\) (b:-1)", "plain"]
)
def test_comfyui_s_weights_interpolate_from_the_empty_prompt(
    load: Load, name: str, prompt: str
) -> None:
    family: Any = load(name)
    [found] = embed(family, ask(prompt, is_weighted=True, weighting="comfyui", guidance_scale=1.0))
    words = {
        "a (red:1.5) cat": [("a", 1), ("red", 1.5), ("cat", 1)],
        "((a (star:0.3)) b) [c] BREAK": [
            ("a", 1.21),
            ("star", 0.3),
            ("b", 1.1),
            ("[c]", 1),
            ("BREAK", 1),
        ],
        r"\(a\) (b:-1)": [("(a)", 1), ("b", -1)],
        "plain": [("plain", 1)],
    }[prompt]
    base = family.base
    encoders = [(base.tokenizer, base.text_encoder)]
    if name == "sdxl":
        encoders.append((base.tokenizer_2, base.text_encoder_2))
    states = []
    for tokenizer, model in encoders:
        tokens, weights = [tokenizer.bos_token_id], [1.0]
        for word, weight in words:
            ids = tokenizer(word, add_special_tokens=False).input_ids
            tokens += ids
            weights += [weight] * len(ids)
        both = []
        for ids in (tokens, tokens[:1]):
            pad = [tokenizer.pad_token_id] * (76 - len(ids))
            both.append([*ids, tokenizer.eos_token_id, *pad])
        with torch.inference_mode():
            output = model(torch.tensor(both), output_hidden_states=True)
        hidden = output.hidden_states[-2] if name == "sdxl" else output.last_hidden_state
        full, empty = hidden
        shares = torch.tensor(weights + [1.0] * (77 - len(weights)))[:, None]
        states.append(empty + shares * (full - empty))
    assert differ(found.text[0], torch.cat(states, dim=-1)) < 1e-5
    if name == "sdxl":
        assert differ(found.added["text_embeds"][0], output.text_embeds[0]) < 1e-5


def test_a_short_comfyui_text_steers_beside_a_long_one_as_it_does_alone(load: Load) -> None:
    """ComfyUI repeats the shorter text; in A1111's notation empty chunks would follow."""
    family: Any = load("sd")
    long = ", ".join(["a red cat"] * 30)
    knobs = {"is_weighted": True, "weighting": "comfyui"}
    long_one, short = embed(family, ask(long, negative_prompt="x", **knobs))
    [alone] = embed(family, ask("x", guidance_scale=1.0, **knobs))
    chunks = long_one.text.shape[1] // 77
    assert chunks > 1
    assert differ(short.text, alone.text.repeat(1, chunks, 1)) < 1e-5


def test_long_texts_of_many_steps_are_refused_at_once(load: Load) -> None:
    options = "|".join(f"{k}" + " red cat" * 20 for k in range(120))
    request = ask(f"[{options}]", is_weighted=True, num_inference_steps=150)
    started = time.monotonic()
    with pytest.raises(InvalidRequest, match="at most 400 chunks"):
        states_of(load("sdxl"), replace(request, prompt=request.prompt + " BREAK x" * 9))
    assert time.monotonic() - started < 2


@FAMILIES
@pytest.mark.parametrize("scheduler", ["Euler", "DDIM"])
def test_every_second_step_below_a_noise_level_goes_without_the_negative_prompt(
    load: Load, name: str, scheduler: str
) -> None:
    family = load(name)
    asked = {"negative_prompt": "blurry", "scheduler": scheduler, "num_inference_steps": 6}
    request = ask("a cat", min_uncond_sigma=1.5, **asked)
    loop = StockLoop(family, request)
    shares = loop.scheduler.alphas_cumprod[loop.scheduler.timesteps.round().long()]
    levels = ((1 - shares) / shares) ** 0.5
    alone = [step for step in range(6) if step % 2 and levels[step] < 1.5]
    assert 0 < len(alone) < 3
    expected = loop.draw(lambda step: ["a cat" if step in alone else "blurry", "a cat"])
    assert differ(latents_of(family, request), expected) < 1e-3
    together = latents_of(family, request, ask("a dog", **asked))
    assert differ(together[:1], expected) < 1e-3
