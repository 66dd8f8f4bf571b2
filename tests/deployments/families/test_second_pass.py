"""A second, larger pass against the stock pipelines one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from deployments.engine.second_pass import num_steps
from deployments.errors import InvalidRequest, NumericalFailure
from deployments.families.base import Family
from deployments.families.upscale import LATENT, PIXEL, enlarge_latents
from deployments.types import UPSCALERS, GenerationRequest, SecondPass
from tests.deployments.families.driver import ask, denoise, states_of, stock_all

Load = Callable[[str], Family]
STOCK = {"sd": "StableDiffusion", "sdxl": "StableDiffusionXL"}
FAMILIES = pytest.mark.parametrize("name", STOCK)


def draw(family: Family, *requests: GenerationRequest) -> list[np.ndarray]:
    """All pictures side by side, each entering its second pass when its first is done."""
    states = states_of(family, *requests)
    with torch.inference_mode():
        while not all(state.is_denoised for state in states):
            denoise(family, states)
            for state in states:
                if state.is_denoised:
                    family.follow(state)
        return [family.decode([state])[0] * 255 for state in states]


def stock_twice(family: Any, name: str, request: GenerationRequest, enlarge: Any) -> np.ndarray:
    """Text-to-image to latents, ``enlarge``, image-to-image, from one generator."""
    second = request.second_pass
    assert second is not None
    generator = torch.Generator().manual_seed(request.params.seed or 0)
    text2img = getattr(diffusers, f"{STOCK[name]}Pipeline")
    img2img = getattr(diffusers, f"{STOCK[name]}Img2ImgPipeline")
    latents = stock_all(family, text2img, request, generator=generator, output_type="latent")
    later = replace(
        request,
        prompt=second.prompt or request.prompt,
        negative_prompt=second.negative_prompt or request.negative_prompt,
        params=replace(
            request.params,
            num_inference_steps=second.num_inference_steps or request.params.num_inference_steps,
            guidance_scale=second.guidance_scale or request.params.guidance_scale,
            scheduler=second.scheduler or request.params.scheduler,
        ),
    )
    inputs = {"image": enlarge(latents), "strength": second.strength, "generator": generator}
    if name == "sdxl":
        inputs |= {"original_size": (second.height, second.width)}
        inputs |= {"target_size": (second.height, second.width)}
    return stock_all(family, img2img, later, **inputs)[0]


@FAMILIES
@pytest.mark.parametrize("scheduler", ["DDIM", "Euler", "Euler a"])
@pytest.mark.parametrize("upscaler", ["latent", "latent-bicubic-antialiased", "latent-nearest"])
def test_second_pass_is_stock_image_to_image_on_interpolated_latents(
    load: Load, name: str, scheduler: str, upscaler: str
) -> None:
    second = SecondPass(width=128, height=96, upscaler=upscaler, strength=0.6)
    request = ask(scheduler=scheduler, height=48, second_pass=second)
    expected = stock_twice(
        load(name), name, request, lambda x: interpolate(x, (12, 16), **LATENT[upscaler])
    )
    [picture] = draw(load(name), request)
    assert picture.shape == (96, 128, 3)
    assert np.abs(picture - expected).max() <= 1


@FAMILIES
@pytest.mark.parametrize("upscaler", PIXEL)
def test_second_pass_on_pixels_is_stock_image_to_image(
    load: Load, name: str, upscaler: str
) -> None:
    family: Any = load(name)
    second = SecondPass(width=128, height=128, upscaler=upscaler, strength=0.5)

    def enlarge(latents: torch.Tensor) -> Image.Image:
        with torch.inference_mode():
            pixels = family.autoencoder.decode(latents)[0].permute(1, 2, 0).numpy()
        image = Image.fromarray((pixels * 255).round().astype(np.uint8))
        return image.resize((128, 128), PIXEL[upscaler])

    request = ask(scheduler="DDIM", second_pass=second)
    expected = stock_twice(family, name, request, enlarge)
    assert np.abs(draw(family, request)[0] - expected).max() <= 1


@FAMILIES
def test_second_pass_has_its_own_text_guidance_steps_and_scheduler(load: Load, name: str) -> None:
    second = SecondPass(
        width=128,
        height=128,
        strength=0.5,
        prompt="a lake",
        negative_prompt="a star",
        guidance_scale=3.0,
        num_inference_steps=6,
        scheduler="DDIM",
    )
    request = ask(second_pass=second)
    expected = stock_twice(
        load(name), name, request, lambda x: interpolate(x, (16, 16), mode="bilinear")
    )
    assert np.abs(draw(load(name), request)[0] - expected).max() <= 1


@FAMILIES
def test_second_pass_is_the_same_alone_and_among_others(load: Load, name: str) -> None:
    family = load(name)
    second = SecondPass(width=96, height=96, upscaler="lanczos", strength=0.5)
    requests = [
        ask(seed=1, scheduler="Heun", second_pass=second, num_images=2),
        ask(seed=2, second_pass=replace(second, guidance_scale=1.0)),
        ask(seed=3, width=96, height=96, num_inference_steps=9),
        ask(seed=4, second_pass=second, tiling=True),
    ]
    together = draw(family, *requests)
    alone = [picture for request in requests for picture in draw(family, request)]
    for one, other in zip(together, alone, strict=True):
        assert one.shape == (96, 96, 3)
        assert np.abs(one - other).max() <= 1


def test_state_counts_the_timesteps_and_the_work_of_both_passes(load: Load) -> None:
    family = load("sd")
    second = SecondPass(width=128, height=128, strength=0.5, guidance_scale=1.0)
    [state] = states_of(family, ask(second_pass=second, num_inference_steps=4))
    seen = [(state.num_visited, state.num_visits, state.work)]
    with torch.inference_mode():
        while not state.is_denoised:
            denoise(family, [state])
            seen.append((state.num_visited, state.num_visits, state.work))
            if state.is_denoised:
                assert family.follow(state) == (state.num_before > 0 and state.step == 0)
    first = [(k, 6, 128 * (4 - k) + 512) for k in range(5)]
    assert seen == [*first, (5, 6, 256), (6, 6, 0)]
    assert state.num_rows == 1
    assert state.tokens == 256


@pytest.mark.parametrize("steps", [None, 0])
def test_second_pass_takes_the_first_one_s_steps(load: Load, steps: int | None) -> None:
    second = SecondPass(width=128, height=128, strength=0.5, num_inference_steps=steps)
    request = ask(second_pass=second, num_inference_steps=8)
    [state] = states_of(load("sd"), request)
    assert state.num_visits == num_steps(request) == 12


def test_every_upscaler_is_known() -> None:
    assert {*LATENT, *PIXEL} == {*UPSCALERS}


def test_another_shape_is_covered_and_cut() -> None:
    latents = torch.arange(64.0).expand(1, 1, 8, 64)
    large = enlarge_latents(latents, "latent-nearest", 16, 16)
    assert large.shape == (1, 1, 16, 16)
    assert (large[0, 0, 0].min(), large[0, 0, 0].max()) == (28, 35)


def test_second_pass_is_refused_beside_an_input_picture(load: Load, photo: bytes) -> None:
    second = SecondPass(width=128, height=128)
    with pytest.raises(InvalidRequest, match="follows text-to-image only"):
        states_of(load("sd"), ask(images=(photo,), second_pass=second))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        pytest.param({"upscaler": "esrgan"}, "unknown upscaler 'esrgan'; known: latent", id="up"),
        pytest.param({"scheduler": "Fast"}, "unknown scheduler 'Fast'", id="scheduler"),
    ],
)
def test_second_pass_is_checked_before_the_first(load: Load, field: Any, message: str) -> None:
    second = SecondPass(width=128, height=128, **field)
    with pytest.raises(InvalidRequest, match=message):
        states_of(load("sd"), ask(second_pass=second))


def test_pixels_that_are_not_numbers_are_not_enlarged(load: Load) -> None:
    family = load("sd")
    second = SecondPass(width=128, height=128, upscaler="lanczos")
    [state] = states_of(family, ask(second_pass=second))
    state.latents = torch.full_like(state.latents, torch.nan)
    with torch.inference_mode(), pytest.raises(NumericalFailure, match="NaN or infinity"):
        family.follow(state)
