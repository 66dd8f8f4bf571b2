"""Stable Diffusion and SDXL against the stock pipelines, and alone against together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from deployments import pictures
from deployments.config import ModelConfig
from deployments.errors import GenerationFailed, InvalidRequest
from deployments.families import family_class
from deployments.families.base import Family
from tests.deployments.families.driver import (
    ask,
    denoise,
    draw,
    inpainted,
    png,
    states_of,
    stock,
    stock_all,
)

STOCK = {"sd": "StableDiffusion", "sdxl": "StableDiffusionXL"}
FAMILIES = pytest.mark.parametrize("name", STOCK)
GUIDANCE = pytest.mark.parametrize("guidance_scale", [1.0, 6.0], ids=["unguided", "guided"])
NEGATIVE = pytest.mark.parametrize("negative_prompt", ["", "blurry, low quality"], ids=["", "neg"])

Load = Callable[[str], Family]


def pipeline_of(name: str, mode: str = "") -> type:
    return getattr(diffusers, f"{STOCK[name]}{mode}Pipeline")


@FAMILIES
@GUIDANCE
@NEGATIVE
def test_text_to_image_is_the_stock_picture(
    load: Load, name: str, guidance_scale: float, negative_prompt: str
) -> None:
    request = ask(guidance_scale=guidance_scale, negative_prompt=negative_prompt, width=96)
    expected = stock(load(name), pipeline_of(name), request)
    [picture] = draw(load(name), request)
    assert picture.shape == (64, 96, 3)
    assert picture.std() > 20
    assert np.abs(picture - expected).max() <= 1


@FAMILIES
@GUIDANCE
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_image_to_image_is_the_stock_picture(
    load: Load, photo: bytes, name: str, guidance_scale: float, strength: float
) -> None:
    request = ask(guidance_scale=guidance_scale, strength=strength, images=(photo,))
    image = pictures.decode_image(photo)
    expected = stock(
        load(name), pipeline_of(name, "Img2Img"), request, image=image, strength=strength
    )
    assert np.abs(draw(load(name), request)[0] - expected).max() <= 1


@FAMILIES
@GUIDANCE
@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("size", [64, 80], ids=["same-size", "resized"])
def test_inpainting_is_the_stock_picture_with_the_kept_pixels(
    load: Load, photo: bytes, mask: bytes, name: str, guidance_scale: float, strength: float, size
) -> None:
    request = ask(
        guidance_scale=guidance_scale,
        strength=strength,
        images=(photo,),
        mask=mask,
        scheduler="Euler a",
        width=size,
    )
    image = pictures.decode_image(photo)
    gray = pictures.decode_mask(mask, image.size)
    inputs = {"image": image, "mask_image": gray, "strength": strength}
    drawn = stock(load(name), pipeline_of(name, "Inpaint"), request, **inputs)
    lanczos = 1
    expected = inpainted(drawn, image.resize((size, 64), lanczos), gray.resize((size, 64), lanczos))
    assert np.abs(draw(load(name), request)[0] - expected).max() <= 1


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_inpainting_unet_is_the_stock_picture_with_the_kept_pixels(
    load: Load, photo: bytes, mask: bytes, strength: float
) -> None:
    family = load("sd-inpainting")
    request = ask(strength=strength, images=(photo,), mask=mask, scheduler="Euler a")
    image = pictures.decode_image(photo)
    gray = pictures.decode_mask(mask, image.size)
    inputs = {"image": image, "mask_image": gray, "strength": strength}
    drawn = stock(family, diffusers.StableDiffusionInpaintPipeline, request, **inputs)
    assert np.abs(draw(family, request)[0] - inpainted(drawn, image, gray)).max() <= 1


@FAMILIES
def test_two_pictures_are_those_of_a_list_of_generators(load: Load, name: str) -> None:
    request = ask(num_images=2, scheduler="Euler a")
    expected = stock_all(load(name), pipeline_of(name), request)
    first, second = draw(load(name), request)
    assert np.abs(first - expected[0]).max() <= 1
    assert np.abs(second - expected[1]).max() <= 1
    assert np.abs(first - second).mean() > 10


@FAMILIES
def test_two_variations_are_those_of_a_list_of_generators(
    load: Load, photo: bytes, name: str
) -> None:
    request = ask(num_images=2, scheduler="DDPM", images=(photo,))
    expected = stock_all(
        load(name),
        pipeline_of(name, "Img2Img"),
        request,
        image=pictures.decode_image(photo),
        strength=0.6,
    )
    assert np.abs(np.stack(draw(load(name), request)) - expected).max() <= 1


@FAMILIES
def test_a_picture_is_the_same_alone_and_among_others(
    load: Load, photo: bytes, mask: bytes, name: str
) -> None:
    family = load(name)
    requests = [
        ask(seed=1, scheduler="Heun", sigmas="karras", num_inference_steps=3),
        ask("a lake", seed=2, guidance_scale=1.0, scheduler="Euler a", num_inference_steps=5),
        ask("un chat", seed=3, scheduler="DPM++ 2M", num_inference_steps=6, num_images=2),
        ask("a star", seed=4, scheduler="DDIM", images=(photo,), negative_prompt="noise"),
        ask("a cross", seed=5, scheduler="PNDM", images=(photo,), mask=mask),
        ask("a wide one", seed=6, width=96),
        ask("of another", seed=7, weights="alice" if name == "sd" else None),
    ]
    together = draw(family, *requests)
    alone = [picture for request in requests for picture in draw(family, request)]
    assert len(together) == 8
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one - other).max() <= 1


def test_keys_part_sizes_and_weights_but_not_steps_seeds_or_guidance(load: Load) -> None:
    family = load("sd")
    same = ask(), ask(seed=8, num_inference_steps=9, guidance_scale=0.0, scheduler="DDIM")
    other = ask(width=72), ask(weights="alice")
    keys = [state.batch_key for state in states_of(family, *same, *other)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_states_tell_their_tokens_and_rows(load: Load) -> None:
    guided, plain = states_of(load("sd"), ask("a red circle", width=96), ask(guidance_scale=1.0))
    assert (guided.num_rows, plain.num_rows) == (2, 1)
    assert (guided.tokens, plain.tokens) == (96, 64)
    assert guided.prompt_tokens == 5
    assert guided.num_timesteps == 4


def test_seeds_wrap_at_two_to_the_32(load: Load) -> None:
    last, wrapped = draw(load("sd"), ask(seed=2**32 - 1, num_images=2, num_inference_steps=1))
    [zero] = draw(load("sd"), ask(seed=0, num_inference_steps=1))
    assert np.abs(wrapped - zero).max() <= 1
    assert np.abs(last - zero).mean() > 10


def test_a_small_strength_with_few_steps_takes_one_step(load: Load, photo: bytes) -> None:
    [state] = states_of(load("sdxl"), ask(images=(photo,), strength=0.05, scheduler="Euler a"))
    assert state.num_timesteps == 1
    assert int(state.timesteps[0]) < 60


def test_personal_weights_draw_what_their_own_pipeline_draws(load: Load, checkpoints: Path) -> None:
    family = load("sd")
    own = family.load_weights("alice")
    assert own.name == "alice"
    assert 0 < own.num_bytes < family.load_weights(None).num_bytes
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(checkpoints / "sd-user")
    theirs.vae = family.base.vae

    class Theirs:
        base = theirs

    request = ask(weights="alice")
    expected = stock(Theirs, diffusers.StableDiffusionPipeline, request)
    [picture] = draw(family, request)
    assert np.abs(picture - expected).max() <= 1
    assert np.abs(picture - draw(family, ask())[0]).mean() > 5


def test_load_weights_names_the_known_when_the_name_is_not(load: Load) -> None:
    with pytest.raises(InvalidRequest, match="unknown weights 'carol'; known: alice, bob"):
        load("sd").load_weights("carol")


def test_load_weights_names_the_tensor_that_does_not_fit(load: Load) -> None:
    with pytest.raises(GenerationFailed, match=r"'bob' do not fit this model: unet has \S+ of"):
        load("sd").load_weights("bob")


def test_load_weights_of_a_folder_without_text_encoder_keeps_the_base_s(
    checkpoints: Path, tmp_path: Path
) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "unet").symlink_to(checkpoints / "sd-user" / "unet")
    config = ModelConfig(
        family="stable-diffusion",
        weights=str(checkpoints / "sd"),
        personal={"dave": str(tmp_path), "erin": str(tmp_path / "none")},
    )
    family = family_class("stable-diffusion").load(config, "cpu", "float32")
    own = family.load_weights("dave")
    assert own.pipeline.text_encoder is family.base.text_encoder
    with pytest.raises(
        GenerationFailed, match="weights 'erin' do not fit this model: there is no unet"
    ):
        family.load_weights("erin")


def test_load_refuses_pickles(checkpoints: Path, tmp_path: Path) -> None:
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(checkpoints / "sd")
    pipeline.save_pretrained(tmp_path, safe_serialization=False)
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    config = ModelConfig(family="stable-diffusion", weights=str(tmp_path))
    with pytest.raises(OSError, match="safetensors"):
        family_class("stable-diffusion").load(config, "cpu", "float32")


def test_load_wants_weights() -> None:
    with pytest.raises(ValueError, match="needs weights"):
        family_class("stable-diffusion").load(ModelConfig(family="x"), "cpu", "float32")


def test_float16_keeps_a_vae_that_overflows_in_float32(checkpoints: Path) -> None:
    config = ModelConfig(family="stable-diffusion-xl", weights=str(checkpoints / "sdxl"))
    family = family_class("stable-diffusion-xl").load(config, "cpu", "float16")
    assert (family.base.unet.dtype, family.base.vae.dtype) == (torch.float16, torch.float32)
    [picture] = draw(family, ask(num_inference_steps=2, scheduler="Euler a"))
    assert np.isfinite(picture).all()


def test_bfloat16_is_near_float32(load: Load, checkpoints: Path) -> None:
    config = ModelConfig(family="stable-diffusion", weights=str(checkpoints / "sd"))
    family = family_class("stable-diffusion").load(config, "cpu", "bfloat16")
    [rough], [fine] = (
        draw(family, ask(guidance_scale=1.0)),
        draw(load("sd"), ask(guidance_scale=1.0)),
    )
    assert np.abs(rough - fine).mean() < 10


def test_encode_refuses_more_than_one_input_picture(load: Load, photo: bytes) -> None:
    with pytest.raises(InvalidRequest, match="2 input pictures; this model takes one"):
        states_of(load("sd"), ask(images=(photo, photo)))


def test_encode_refuses_text_alone_for_an_inpainting_unet(load: Load) -> None:
    with pytest.raises(InvalidRequest, match="only inpaints"):
        states_of(load("sd-inpainting"), ask())


def test_pictures_without_a_strength_take_the_model_s(load: Load, photo: bytes) -> None:
    [state] = states_of(load("sd"), ask(images=(photo,), strength=None, num_inference_steps=10))
    assert state.num_timesteps == 8


@pytest.mark.parametrize("scheduler", ["Euler", "DPM++ 2M", "LCM"])
def test_preview_shows_the_clean_picture_small(load: Load, scheduler: str) -> None:
    family = load("sd")
    [state] = states_of(family, ask(width=512, height=256, num_previews=1, scheduler=scheduler))
    with torch.inference_mode():
        assert family.preview(state).shape == (128, 256, 3)
    while not state.is_denoised:
        denoise(family, [state])
    with torch.inference_mode():
        preview, [picture] = family.preview(state), family.decode([state])
    assert preview.shape == (128, 256, 3)
    assert 0 <= preview.min() < preview.max() <= 1
    assert np.abs(preview.mean() - picture.mean()) < 0.1


def test_transparent_inputs_are_read_as_their_colours(load: Load, photo: bytes) -> None:
    colours = np.asarray(pictures.decode_image(photo).convert("RGB")) / 255
    clear = png(np.concatenate([colours, np.zeros((64, 64, 1))], axis=-1))
    [one], [other] = draw(load("sd"), ask(images=(clear,))), draw(load("sd"), ask(images=(photo,)))
    assert np.array_equal(one, other)
