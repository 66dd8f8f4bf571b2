"""Input pictures: what lies under a mask, boxes drawn at full size, latents resized, tiling."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from deployments import pictures
from deployments.errors import InvalidImage, InvalidRequest
from deployments.families.base import Family
from deployments.families.frame import Frame, redrawn_box
from tests.deployments.families.driver import ask, denoise, draw, png, states_of, stock

Load = Callable[[str], Family]
FAMILIES = pytest.mark.parametrize("name", ["sd", "sdxl"])


def scene(width: int = 160, height: int = 96) -> bytes:
    y, x = np.mgrid[0:height, 0:width]
    return png(np.stack([x / width, y / height, (x + y) / (width + height)], axis=-1))


def mask_of(
    left: int, top: int, right: int, bottom: int, size: tuple[int, int] = (160, 96)
) -> Image.Image:
    gray = Image.new("L", size)
    gray.paste(255, (left, top, right, bottom))
    return gray


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("mask", "padding", "size", "box"),
    [
        pytest.param(mask_of(70, 40, 90, 60), 0, (64, 64), (70, 40, 90, 60), id="as it is"),
        pytest.param(mask_of(70, 40, 90, 60), 6, (64, 64), (64, 34, 96, 66), id="wider"),
        pytest.param(mask_of(70, 40, 90, 60), 0, (128, 64), (60, 40, 100, 60), id="to its shape"),
        pytest.param(mask_of(70, 40, 90, 60), 0, (64, 128), (70, 30, 90, 70), id="upright"),
        pytest.param(mask_of(0, 0, 20, 40), 0, (64, 64), (0, 0, 40, 40), id="in the corner"),
        pytest.param(mask_of(150, 80, 160, 96), 32, (64, 64), (112, 48, 160, 96), id="at the end"),
        pytest.param(mask_of(0, 0, 160, 20), 0, (64, 64), (0, -32, 160, 128), id="beyond"),
        pytest.param(mask_of(0, 0, 0, 0), 4, (160, 96), (0, 0, 160, 96), id="black"),
    ],
)
def test_box_is_the_mask_s_in_the_target_s_shape(
    mask: Image.Image, padding: int, size: tuple[int, int], box: tuple[int, ...]
) -> None:
    assert redrawn_box(mask, padding, *size) == box


def test_frame_takes_the_drawn_where_the_mask_is_white_alone() -> None:
    image, mask = pictures.decode_image(scene()), mask_of(0, 0, 160, 20)
    frame = Frame(image, mask, redrawn_box(mask, 0, 64, 64))
    inside, gray = frame.inside()
    assert inside.size == gray.size == (160, 160)
    whole = frame.filled(np.zeros((64, 64, 3), np.float32))
    assert whole.shape == (96, 160, 3)
    assert whole.dtype == np.float32
    assert not whole[:20].any()
    assert np.array_equal(np.round(whole[20:] * 255), np.asarray(image)[20:])


def test_frame_keeps_what_is_not_a_number() -> None:
    image, mask = pictures.decode_image(scene()), mask_of(70, 40, 90, 60)
    frame = Frame(image, mask, redrawn_box(mask, 0, 64, 64))
    assert np.isnan(frame.filled(np.full((64, 64, 3), np.nan, np.float32))).any()


@FAMILIES
def test_padding_draws_the_box_as_a_picture_of_its_own(load: Load, name: str) -> None:
    mask, photo, box = mask_of(60, 20, 100, 60), scene(), (48, 8, 112, 72)
    image = pictures.decode_image(photo)
    known = {"scheduler": "Euler a", "strength": 0.7}
    [whole] = draw(load(name), ask(images=(photo,), mask=encoded(mask), mask_padding=12, **known))
    crops = {"images": (encoded(image.crop(box)),), "mask": encoded(mask.crop(box))}
    expected = np.array(image, dtype=np.float32)
    expected[8:72, 48:112] = draw(load(name), ask(**crops, **known))[0]
    assert whole.shape == (96, 160, 3)
    assert np.abs(whole - expected).max() < 1e-3


def test_padding_draws_a_small_box_at_the_full_size(load: Load) -> None:
    mask = encoded(mask_of(70, 40, 90, 60))
    request = ask(images=(scene(),), mask=mask, mask_padding=6, width=128, height=128)
    assert states_of(load("sd"), request)[0].latents.shape[2:] == (16, 16)
    assert draw(load("sd"), request)[0].shape == (96, 160, 3)


@FAMILIES
def test_masked_content_is_what_the_drawing_begins_with(
    load: Load, photo: bytes, mask: bytes, name: str
) -> None:
    known: dict[str, Any] = {"images": (photo,), "mask": mask, "strength": 0.5}
    [original], [noise], [zeros] = (
        states_of(load(name), ask(masked_content=content, **known))
        for content in ("original", "noise", "zeros")
    )
    redrawn = original.extra["redrawn"].bool().expand_as(original.latents)
    assert torch.equal(original.latents[~redrawn], noise.latents[~redrawn])
    assert torch.equal(original.latents[~redrawn], zeros.latents[~redrawn])
    drawn, kept = original.extra["noise"][redrawn], original.extra["kept"][redrawn]
    assert torch.allclose(original.latents[redrawn] - zeros.latents[redrawn], kept, atol=1e-4)
    assert torch.allclose(noise.latents[redrawn] - zeros.latents[redrawn], drawn, atol=1e-4)


def test_latent_resize_is_stock_on_interpolated_latents(load: Load) -> None:
    family: Any = load("sd")
    photo = scene(96, 80)
    request = ask(images=(photo,), is_latent_resize=True, scheduler="DDIM")
    generator = torch.Generator().manual_seed(7)
    pixels = torch.tensor(np.asarray(pictures.decode_image(photo)).astype(np.float32)) / 127.5 - 1
    with torch.inference_mode():
        distribution = family.autoencoder.encode(pixels.permute(2, 0, 1)[None])
        latents = family.autoencoder.sample(distribution, generator)
        latents = torch.nn.functional.interpolate(latents, (8, 8), mode="bilinear")
    expected = stock(
        family,
        diffusers.StableDiffusionImg2ImgPipeline,
        request,
        image=latents,
        strength=0.6,
        generator=generator,
    )
    assert np.abs(draw(family, request)[0] - expected).max() <= 1


def test_inputs_at_their_own_size_have_a_limit(load: Load, mask: bytes) -> None:
    large = png(np.zeros((2100, 2000)))
    with pytest.raises(InvalidImage, match="2000 by 2100; at its own size it may have 4194304"):
        states_of(load("sd"), ask(images=(large,), is_latent_resize=True))
    larger = png(np.zeros((4200, 4200)))
    with pytest.raises(InvalidImage, match="it may have 16777216 pixels"):
        states_of(load("sd"), ask(images=(larger,), mask=mask, mask_padding=3))


@FAMILIES
def test_tiling_turns_pictures_with_their_noise(load: Load, name: str) -> None:
    """What is joined at the edges has no edge: rolled noise makes the rolled picture."""
    family = load(name)
    [state], [rolled] = states_of(family, ask(tiling=True)), states_of(family, ask(tiling=True))
    rolled.latents = rolled.latents.roll((4, 4), (2, 3))
    pictures = [run(family, s) for s in (state, rolled)]
    assert np.abs(np.roll(pictures[0], (32, 32), (0, 1)) - pictures[1]).max() <= 1
    assert np.abs(pictures[0] - draw(family, ask())[0]).mean() > 0.1


def run(family: Family, state: Any) -> np.ndarray:
    while not state.is_denoised:
        denoise(family, [state])
    with torch.inference_mode():
        return family.decode([state])[0] * 255


def test_tiling_shares_no_forward_pass_and_leaves_no_trace(load: Load) -> None:
    family = load("sd")
    [before] = draw(family, ask())
    tiled, plain = states_of(family, ask(tiling=True), ask())
    assert tiled.batch_key != plain.batch_key
    together = draw(family, ask(tiling=True), ask())
    assert np.abs(together[1] - before).max() <= 1
    assert np.abs(together[0] - draw(family, ask(tiling=True))[0]).max() <= 1


def test_a_mask_whose_box_reaches_far_beyond_the_picture_is_refused(
    load: Callable[[str], Family],
) -> None:
    wide, white = png(np.zeros((100, 2000, 3))), png(np.ones((100, 2000, 3)))
    request = ask(images=(wide,), mask=white, mask_padding=0, width=64, height=2048)
    with pytest.raises(InvalidRequest, match="2000 by 64000"):
        states_of(load("sd"), request)


def test_a_picture_smaller_than_a_latent_is_refused(load: Callable[[str], Family]) -> None:
    request = ask(images=(png(np.zeros((400, 5, 3))),), is_latent_resize=True)
    with pytest.raises(InvalidRequest, match="too small"):
        states_of(load("sd"), request)
