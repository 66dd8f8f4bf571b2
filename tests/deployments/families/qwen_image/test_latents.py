"""Latents in and out, parts of a schedule, parts of a prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from deployments.errors import InvalidRequest, UnsupportedField
from deployments.families.base import Family
from deployments.types import Latents, PromptPart
from tests.deployments.families.driver import denoise, draw, states_of
from tests.deployments.families.qwen_image.test_golden import difference, scene, want

Load = Callable[..., Family]

ZEROS = Latents(num_images=1, width=64, height=64)


def latents_of(family: Family, request: Any) -> Latents:
    """What a request that gives latents ends in."""
    states = states_of(family, request)
    while not all(state.is_denoised for state in states):
        denoise(family, states)
    with torch.inference_mode():
        arrays = np.stack([family.latents(state) for state in states])
    size = {"width": arrays.shape[3] * 8, "height": arrays.shape[2] * 8}
    return Latents(num_images=len(arrays), value=arrays, family="qwen-image", **size)


def test_latents_of_nothing_are_drawn_as_from_text(load_qwen: Load) -> None:
    family = load_qwen("qwen")
    [picture] = draw(family, want(latents=ZEROS))
    assert difference(picture, draw(family, want())[0]) == 0


@pytest.mark.parametrize("scheduler", ["Euler", "Heun"])
def test_two_parts_of_a_schedule_are_the_whole(load_qwen: Load, scheduler: str) -> None:
    family = load_qwen("qwen")
    [whole] = draw(family, want(scheduler=scheduler))
    half = latents_of(
        family,
        want(scheduler=scheduler, latents=ZEROS, last_step=2, keeps_noise=True, gives_latents=True),
    )
    rest = want(scheduler=scheduler, latents=half, first_step=2, adds_noise=False)
    assert difference(draw(family, rest)[0], whole) <= 0.01


def test_a_part_that_is_cut_goes_to_the_clean_picture(load_qwen: Load) -> None:
    family = load_qwen("qwen")
    cut = want(latents=ZEROS, last_step=1)
    [state] = states_of(family, cut)
    assert state.num_timesteps == 1
    one = want(num_inference_steps=1)
    assert difference(draw(family, cut)[0], draw(family, one)[0]) <= 0.01


def test_encoded_pictures_are_decoded_as_they_were(load_qwen: Load) -> None:
    family = load_qwen("qwen")
    encoded = latents_of(family, want(images=(scene(), scene(turn=0.5)), task="encode"))
    assert encoded.value.shape == (2, 16, 8, 8)
    pictures = draw(family, want(task="decode", latents=encoded, num_images=2))
    assert [picture.shape for picture in pictures] == [(64, 64, 3)] * 2
    [direct] = latents_of(family, want(images=(scene(),), task="encode")).value
    assert np.array_equal(encoded.value[0], direct)


def test_references_beside_latents_are_looked_at(load_qwen: Load) -> None:
    family, photos = load_qwen("qwen-edit"), (scene(), scene(64, 64))
    [picture] = draw(family, want("make it red", images=photos, latents=ZEROS))
    assert difference(picture, draw(family, want("make it red", images=photos))[0]) == 0
    with pytest.raises(InvalidRequest, match="at most 0"):
        states_of(load_qwen("qwen"), want(images=photos, latents=ZEROS))


def test_a_mask_beside_latents_keeps_the_rest(load_qwen: Load, mask: bytes) -> None:
    family = load_qwen("qwen")
    encoded = latents_of(family, want(images=(scene(64),), task="encode"))
    redrawn = latents_of(family, want(latents=encoded, mask=mask, gives_latents=True))
    change = np.abs(redrawn.value - encoded.value)[0].max(axis=0)
    assert change[0].max() < 1e-5
    assert change[3:5, 3:5].min() > 0.05


def test_a_part_alone_is_the_prompt_and_parts_are_mixed_by_weight(load_qwen: Load) -> None:
    family = load_qwen("qwen")
    [lake] = draw(family, want("a lake"))
    [alone] = draw(family, want("", parts=(PromptPart(text="a lake"),)))
    assert difference(alone, lake) == 0
    halves = (PromptPart(text="a lake", weight=0.5),) * 2
    assert difference(draw(family, want("", parts=halves))[0], lake) <= 0.01
    two = want("", parts=(PromptPart(text="a lake"), PromptPart(text="a star", weight=0.4)))
    assert states_of(family, two)[0].num_rows == 3
    assert difference(draw(family, two)[0], lake) > 1


def test_a_prompt_that_changes_is_another_from_its_step_on(load_qwen: Load) -> None:
    family = load_qwen("qwen")
    changing = want("a [lake:star:2] at night", is_weighted=True)
    [state] = states_of(family, changing)
    texts = [state.branches[0].at(step).text for step in range(4)]
    [star] = states_of(family, want("a star at night"))
    assert torch.equal(texts[3], star.branches[0].text)
    assert not torch.equal(texts[0], texts[3])
    [picture] = draw(family, changing)
    assert difference(picture, draw(family, want("a star at night"))[0]) > 1


def test_a_zeroed_part_has_no_words(load_qwen: Load) -> None:
    parts = (PromptPart(text="a lake", is_zeroed=True),)
    [state] = states_of(load_qwen("qwen"), want("", parts=parts))
    assert not state.branches[0].text.any()


def test_too_many_texts_and_skipped_layers_are_refused(load_qwen: Load) -> None:
    many = want("[" + "|".join("abcdefgh" * 12) + "]", is_weighted=True, num_inference_steps=90)
    assert states_of(load_qwen("qwen"), many)
    changing = " ".join(f"[{k}:{k + 1}:{k + 1}]" for k in range(70))
    with pytest.raises(InvalidRequest, match="at most 64"):
        states_of(load_qwen("qwen"), want(changing, is_weighted=True, num_inference_steps=80))
    with pytest.raises(UnsupportedField, match="skips no layers"):
        states_of(load_qwen("qwen"), want("", parts=(PromptPart(text="a", clip_skip=2),)))


def test_every_second_visit_of_little_noise_goes_without_guidance(load_qwen: Load) -> None:
    family = load_qwen("qwen")
    [state] = states_of(family, want(num_inference_steps=6, min_uncond_sigma=2.0))
    counts = []
    while not state.is_denoised:
        counts.append(state.num_rows)
        denoise(family, [state])
    assert counts[0] == counts[2] == counts[4] == 2
    assert 1 in counts


def test_parts_that_sum_to_nothing_never_go_without_guidance(load_qwen: Load) -> None:
    family = load_qwen("qwen")
    parts = PromptPart(text="a lake"), PromptPart(text="a star", weight=-1.0)
    [state] = states_of(family, want("", parts=parts, min_uncond_sigma=2.0))
    while not state.is_denoised:
        assert state.num_rows == 3
        denoise(family, [state])
    assert torch.isfinite(state.latents).all()
