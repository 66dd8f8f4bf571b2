"""Latents in and out, parts of a schedule and masks, against loops written out here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from deployments import pictures
from deployments.errors import InvalidRequest
from deployments.families import schedulers
from deployments.families.base import Family
from deployments.types import GenerationRequest, Latents
from tests.deployments.families.driver import ask, denoise, draw, png, states_of
from tests.deployments.families.stock_loop import StockLoop

Load = Callable[[str], Family]
FAMILIES = pytest.mark.parametrize("name", ["sd", "sdxl"])
#: Schedulers whose step depends on nothing but the latents.
FIRST_ORDER = [
    (name, sigmas)
    for name in ("Euler", "Heun", "DPM2", "DDIM")
    for sigmas in ("normal", "karras")
    if sigmas in schedulers.sigmas_of(name)
]
# torchsde compares float32 sigmas with float64 bounds; diffusers' own calls meet the same.
pytestmark = pytest.mark.filterwarnings("ignore:Should have t:UserWarning")


def zeros(num_images: int = 1, width: int = 64, height: int = 64) -> Latents:
    return Latents(num_images=num_images, width=width, height=height)


def of(value: np.ndarray, family: str = "stable-diffusion") -> Latents:
    n, _, height, width = value.shape
    return Latents(num_images=n, width=width * 8, height=height * 8, value=value, family=family)


def latents_of(family: Family, *requests: GenerationRequest) -> np.ndarray:
    """What the requests give, denoised side by side: (pictures, 4, height, width)."""
    states = states_of(family, *requests)
    while not all(state.is_denoised for state in states):
        denoise(family, states)
    with torch.inference_mode():
        return np.stack([family.latents(state) for state in states])


def some_latents(seed: int = 3, num_images: int = 1) -> np.ndarray:
    drawn = torch.randn(num_images, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    return drawn.numpy()


def difference(one: np.ndarray, other: Any) -> float:
    return float(np.abs(one - np.asarray(other)).max())


@FAMILIES
def test_encode_gives_the_vae_s_mode(load: Load, photo: bytes, name: str) -> None:
    family: Any = load(name)
    other = png(np.full((64, 64, 3), 0.25))
    found = latents_of(family, ask("", images=(photo, other), task="encode"))
    vae = family.base.vae
    for latents, data in zip(found, (photo, other), strict=True):
        array = np.asarray(pictures.decode_image(data).convert("RGB"), np.float32)
        pixels = torch.from_numpy(array / 127.5 - 1).permute(2, 0, 1)[None]
        with torch.inference_mode():
            expected = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
        assert difference(latents, expected[0]) < 1e-4


@FAMILIES
def test_decode_gives_a_picture_per_latents(load: Load, name: str) -> None:
    family: Any = load(name)
    value = some_latents(num_images=2)
    found = draw(family, ask("", latents=of(value), task="decode"))
    vae = family.base.vae
    with torch.inference_mode():
        pixels = vae.decode(torch.from_numpy(value) / vae.config.scaling_factor).sample
    expected = (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1) * 255
    assert difference(np.stack(found), expected) < 0.01


@FAMILIES
def test_zeros_begin_as_text_to_image(load: Load, name: str) -> None:
    family = load(name)
    found = latents_of(family, ask(latents=zeros(2), num_images=2, gives_latents=True))
    [one, two] = draw(family, ask(num_images=2))
    again = draw(family, ask("", latents=of(found), task="decode", num_images=2))
    assert difference(np.stack(again), np.stack([one, two])) < 0.01


@FAMILIES
@pytest.mark.parametrize("scheduler", ["Euler", "Euler a", "DDIM"])
def test_the_end_of_a_schedule_is_the_stock_loop_s(load: Load, name: str, scheduler: str) -> None:
    family: Any = load(name)
    value = some_latents()
    request = ask(
        latents=of(value),
        num_inference_steps=10,
        first_step=6,
        scheduler=scheduler,
        negative_prompt="blurry",
    )
    stock = StockLoop(family, request)
    noise = torch.randn(1, 4, 8, 8, generator=stock.generator)
    timesteps = stock.scheduler.timesteps[6:]
    with torch.inference_mode():
        latents = stock.scheduler.add_noise(torch.from_numpy(value), noise, timesteps[:1])
        for timestep in timesteps:
            prediction = stock.predict(latents, timestep)
            options = {} if scheduler == "DDIM" else {"generator": stock.generator}
            latents = stock.scheduler.step(prediction, timestep, latents, **options).prev_sample
    assert difference(latents_of(family, request), latents) < 1e-3


@FAMILIES
@pytest.mark.parametrize(("scheduler", "sigmas"), FIRST_ORDER)
def test_two_halves_are_a_whole(load: Load, name: str, scheduler: str, sigmas: str) -> None:
    family = load(name)
    half = {"scheduler": scheduler, "sigmas": sigmas, "num_inference_steps": 8}
    whole = latents_of(family, ask(latents=zeros(), **half))
    first = latents_of(family, ask(latents=zeros(), last_step=3, keeps_noise=True, **half))
    rest = ask(latents=of(first), first_step=3, adds_noise=False, seed=99, **half)
    assert difference(first, whole) > 0.5
    assert difference(latents_of(family, rest), whole) < 0.01


@pytest.mark.parametrize("scheduler", schedulers.SCHEDULERS)
def test_noised_latents_travel_in_one_scale_whatever_the_scheduler(
    load: Load, scheduler: str
) -> None:
    family: Any = load("sd")
    value = some_latents()
    request = ask(latents=of(value), num_inference_steps=8, first_step=3, scheduler=scheduler)
    [noised] = states_of(family, request)
    alpha = family.base.scheduler.alphas_cumprod[int(noised.timesteps[0])]
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7)).numpy()
    travelling = value + float(((1 - alpha) / alpha).sqrt()) * noise
    params = replace(request.params, adds_noise=False)
    [taken_up] = states_of(family, replace(request, latents=of(travelling), params=params))
    assert difference(noised.latents, taken_up.latents) < 1e-3


@pytest.mark.parametrize("scheduler", schedulers.SCHEDULERS)
def test_a_cut_walk_ends_with_what_its_last_step_aimed_at(load: Load, scheduler: str) -> None:
    family = load("sd")
    request = ask(
        latents=of(some_latents()), num_inference_steps=8, last_step=5, scheduler=scheduler
    )
    [state] = states_of(family, request)
    while state.step + 1 < state.num_timesteps:
        denoise(family, [state])
    before, timestep = state.latents.clone(), state.timesteps[-1:]
    scheduler_ = state.scheduler
    with torch.inference_mode():
        signal = scheduler_.add_noise(torch.ones(1), torch.zeros(1), timestep)
        noise = scheduler_.add_noise(torch.zeros(1), torch.ones(1), timestep)
        prediction = StockLoop(family, request)
        prediction.scheduler = scheduler_
        aimed = (before - noise * prediction.predict(before, timestep[0])) / signal
    denoise(family, [state])
    assert state.is_denoised
    found = family.latents(state)
    if scheduler != "LCM":  # its aim is tempered by its boundary condition
        assert difference(found, aimed[0]) < 0.02
    assert np.isfinite(found).all()


def test_a_cut_walk_of_the_whole_schedule_is_the_whole(load: Load) -> None:
    family = load("sd")
    whole = latents_of(family, ask(latents=zeros()))
    assert difference(latents_of(family, ask(latents=zeros(), last_step=10_000)), whole) == 0
    kept = latents_of(family, ask(latents=zeros(), last_step=4, keeps_noise=True))
    assert difference(kept, whole) == 0


@pytest.mark.parametrize("scheduler", ["Euler", "Heun", "PNDM"])
def test_no_step_leaves_latents_as_they_are(load: Load, scheduler: str) -> None:
    value = some_latents()
    request = ask(latents=of(value), first_step=4, scheduler=scheduler)
    [state] = states_of(load("sd"), request)
    assert state.is_denoised
    assert difference(latents_of(load("sd"), request), value) == 0


def test_a_small_part_of_a_fine_schedule_is_a_small_change(load: Load) -> None:
    value = some_latents()
    request = ask(latents=of(value), num_inference_steps=4000, first_step=3996)
    [state] = states_of(load("sd"), request)
    assert state.num_timesteps == 1
    assert difference(latents_of(load("sd"), request), value) < 0.5


def test_more_steps_than_the_scheduler_has_are_refused(load: Load) -> None:
    request = ask(latents=zeros(), num_inference_steps=200, first_step=100, scheduler="LCM")
    with pytest.raises(InvalidRequest, match="at most 50 steps, not 100"):
        states_of(load("sd"), request)


@FAMILIES
@pytest.mark.parametrize("adds_noise", [True, False])
def test_a_mask_redraws_white_and_keeps_black(
    load: Load, mask: bytes, name: str, adds_noise: bool
) -> None:
    family: Any = load(name)
    value = some_latents()
    request = ask(
        latents=of(value),
        mask=mask,
        num_inference_steps=6,
        first_step=2,
        negative_prompt="blurry",
        adds_noise=adds_noise,
    )
    stock = StockLoop(family, request)
    clean = torch.from_numpy(value)
    noise = torch.randn(1, 4, 8, 8, generator=stock.generator) * adds_noise
    gray = torch.from_numpy(np.asarray(pictures.decode_mask(mask), np.float32) / 255)[None, None]
    white = torch.nn.functional.interpolate(gray, (8, 8), mode="bilinear")
    sigmas = [*stock.scheduler.sigmas]
    with torch.inference_mode():
        latents = clean + sigmas[2] * noise
        for k, timestep in list(enumerate(stock.scheduler.timesteps))[2:]:
            stepped = stock.scheduler.step(stock.predict(latents, timestep), timestep, latents)
            kept = clean + sigmas[k + 1] * noise
            latents = white * stepped.prev_sample + (1 - white) * kept
    found = latents_of(family, request)
    assert difference(found, latents) < 1e-3
    assert difference(found[..., 0, :], value[..., 0, :]) == 0
    assert difference(found, value) > 0.1


def test_an_inpainting_unet_sees_the_latents_under_the_mask(load: Load, mask: bytes) -> None:
    family = load("sd-inpainting")
    value = some_latents()
    found = latents_of(family, ask(latents=of(value), mask=mask))
    assert difference(found[..., 0, :], value[..., 0, :]) == 0
    assert difference(found, value) > 0.1
    with pytest.raises(InvalidRequest, match="only inpaints"):
        states_of(family, ask(latents=of(value)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": of(np.zeros((1, 3, 8, 8), np.float32))}, r"shape \(1, 3, 8, 8\)"),
        ({"latents": zeros(), "images": (b"x",)}, "no reference pictures"),
        ({"latents": zeros(), "shift": 3.0}, "no shift"),
    ],
    ids=["shape", "references", "shift"],
)
def test_what_does_not_fit_is_refused(load: Load, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        states_of(load("sd"), ask(**changes))


@FAMILIES
def test_latents_are_the_same_alone_and_among_others(load: Load, mask: bytes, name: str) -> None:
    family = load(name)
    value = some_latents(num_images=2)
    requests = [
        ask(latents=of(value), num_images=2, num_inference_steps=9, first_step=5, seed=1),
        ask(latents=of(value[:1]), mask=mask, scheduler="DPM++ 2M", seed=2),
        ask(latents=zeros(), last_step=2, keeps_noise=True, scheduler="Heun", seed=3),
        ask("a lake", seed=4, guidance_scale=1.0, gives_latents=True),
    ]
    together = latents_of(family, *requests)
    alone = np.concatenate([latents_of(family, request) for request in requests])
    assert difference(together, alone) < 1e-3


def test_the_stock_pipeline_draws_what_zeros_begin(load: Load) -> None:
    family: Any = load("sd")
    request = ask(latents=zeros(), scheduler="DDIM")
    pipeline = diffusers.StableDiffusionPipeline(**family.base.components)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = schedulers.build("DDIM", "normal", pipeline.scheduler.config, 0)
    expected = pipeline(
        request.prompt,
        width=64,
        height=64,
        num_inference_steps=4,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(7),
        output_type="latent",
    ).images
    assert difference(latents_of(family, request), expected) < 1e-3
