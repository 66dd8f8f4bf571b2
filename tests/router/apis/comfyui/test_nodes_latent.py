"""Nodes over latents: batches, masks, sizes, and the way between pictures and latents."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deployments.errors import InvalidRequest, UnsupportedField
from deployments.types import GenerationRequest, Latents
from router.apis.comfyui.node import Offer
from router.apis.comfyui.nodes import NODES
from router.apis.comfyui.nodes.latent import (
    empty_latent,
    repeat_batch,
    set_noise_mask,
    take_from_batch,
    upscale,
    upscale_by,
)
from router.apis.comfyui.nodes.vae import _cover, encode, encode_for_inpaint
from router.apis.comfyui.values import Images, Latent, Masks, Pixels, Vae
from router.fake_models import FakeModels
from tests.router.apis.comfyui.easel import QWEN, SDXL, Easel, execution, node, text_to_image


class Desk:
    """A drawing whose latents are the numbers of the pictures that it was given."""

    def __init__(self) -> None:
        self.encoded: list[bytes] = []

    def card(self, model: str) -> Any:
        assert model == SDXL.id
        return SDXL

    async def encode(self, model: str, pictures: Sequence[bytes]) -> tuple[Latents, ...]:
        self.encoded += pictures
        sizes = [Images(encoded=[data]) for data in pictures]
        return tuple(
            Latents(num_images=1, width=one.width, height=one.height, value=k)
            for k, one in enumerate(sizes)
        )

    async def decode(self, model: str, latents: Sequence[Latents]) -> Images:
        return Images(pixels=[np.zeros((one.height, one.width, 3), np.uint8) for one in latents])


def zeros(count: int = 1, width: int = 64, height: int = 32) -> Latent:
    (latent,) = empty_latent(width=width, height=height, batch_size=count)
    return latent


def made(count: int = 1, **fields: Any) -> Latent:
    pictures = tuple(
        Latents(num_images=1, width=64, height=32, value=k, num_bytes=4) for k in range(count)
    )
    return Latent(pictures=pictures, model=SDXL.id, **fields)


def masks(*levels: float, size: tuple[int, int] = (4, 4)) -> Masks:
    return Masks(values=np.stack([np.full(size, level, np.float32) for level in levels]))


def picture(width: int, height: int, channels: int = 3) -> Images:
    return Images(pixels=[np.full((height, width, channels), 200, np.uint8)])


# -- batches ------------------------------------------------------------------------------------


def test_batch_is_one_latent_for_each_picture() -> None:
    latent = zeros(3)
    assert len(latent.pictures) == 3
    assert latent.indices == (0, 1, 2)
    assert (latent.width, latent.height) == (64, 32)


def test_batch_beyond_all_measure_is_refused_before_it_runs() -> None:
    check = NODES["EmptyLatentImage"].check
    assert check is not None
    assert check(Offer(), {"batch_size": 4}) is None
    assert check(Offer(), {"batch_size": 4096}) == (
        "batch_size",
        "more than 256 pictures at once are too many",
    )


def test_repeated_batch_counts_on() -> None:
    (latent,) = repeat_batch(samples=made(2), amount=3)
    assert [one.value for one in latent.pictures] == [0, 1, 0, 1, 0, 1]
    assert latent.indices == (0, 1, 2, 3, 4, 5)


def test_repeated_part_of_a_batch_counts_on_from_its_own() -> None:
    (latent,) = repeat_batch(samples=made(2, noise_indices=(4, 6)), amount=2)
    assert latent.indices == (4, 6, 7, 9)


def test_repeated_masks_stay_with_their_pictures() -> None:
    (latent,) = repeat_batch(samples=made(3, mask=masks(0, 1)), amount=2)
    assert latent.mask is not None
    assert [float(latent.mask.values[k % 3].mean()) for k in range(6)] == [0, 1, 0, 0, 1, 0]


def test_batch_is_not_repeated_beyond_all_measure() -> None:
    with pytest.raises(InvalidRequest, match="5 x 64 pictures are too many"):
        repeat_batch(samples=made(5), amount=64)


@pytest.mark.parametrize(
    ("index", "length", "expected"),
    [(1, 2, (1, 2)), (3, 9, (3,)), (60, 1, (3,)), (0, 64, (0, 1, 2, 3))],
)
def test_part_of_a_batch_keeps_its_noise(index: int, length: int, expected: Any) -> None:
    whole = made(4, mask=masks(0, 0.25, 0.5, 0.75), source=(b"0", b"1", b"2", b"3"))
    (latent,) = take_from_batch(samples=whole, batch_index=index, length=length)
    assert latent.indices == expected
    assert tuple(one.value for one in latent.pictures) == expected
    assert latent.mask is not None
    assert [float(mask.mean()) for mask in latent.mask.values] == [k / 4 for k in expected]
    assert latent.source == tuple(b"%d" % k for k in expected)


def test_one_mask_is_for_every_part() -> None:
    (latent,) = set_noise_mask(samples=made(4), mask=masks(1))
    (part,) = take_from_batch(samples=latent, batch_index=2, length=1)
    assert part.mask is latent.mask


# -- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (128, 128, (128, 128)),
        (0, 64, (128, 64)),
        (256, 0, (256, 128)),
        (8, 8, (64, 64)),
        (0, 0, (64, 32)),
        (131, 70, (128, 64)),
    ],
)
async def test_zeros_take_any_size(width: int, height: int, expected: tuple[int, int]) -> None:
    (latent,) = await upscale(
        Desk(),  # type: ignore[arg-type]
        samples=zeros(2),
        upscale_method="bilinear",
        width=width,
        height=height,
        crop="disabled",
    )
    assert (latent.width, latent.height) == expected
    assert len(latent.pictures) == 2


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"])
async def test_latents_are_resized_by_way_of_pixels(method: str) -> None:
    (latent,) = await upscale_by(
        Desk(),  # type: ignore[arg-type]
        samples=made(2, noise_indices=(3, 4), mask=masks(1)),
        upscale_method=method,
        scale_by=1.5,
    )
    assert (latent.width, latent.height) == (96, 48)
    assert [one.value for one in latent.pictures] == [0, 1]
    assert latent.indices == (3, 4)
    assert latent.mask is not None


async def test_latents_that_hold_noise_are_not_resized() -> None:
    with pytest.raises(UnsupportedField, match="still hold noise"):
        await upscale_by(
            Desk(),  # type: ignore[arg-type]
            samples=made(is_noisy=True),
            upscale_method="area",
            scale_by=2,
        )


# -- from pictures ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 48), (64, 48)), ((71, 57), (64, 56)), ((65, 64), (64, 64))]
)
async def test_edges_beyond_the_models_multiple_are_cut(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    (latent,) = await encode(Desk(), pixels=picture(*size), vae=Vae(model=SDXL.id))  # type: ignore[arg-type]
    assert (latent.width, latent.height) == expected
    assert latent.model == SDXL.id


async def test_alpha_is_no_colour() -> None:
    desk = Desk()
    await encode(desk, pixels=picture(64, 64, 4), vae=Vae(model=SDXL.id))  # type: ignore[arg-type]
    assert not Images(encoded=desk.encoded).has_alpha


async def test_what_is_inpainted_is_grey_and_its_mask_grows() -> None:
    desk = Desk()
    values = np.zeros((1, 64, 64), np.float32)
    values[0, 32, 32] = 1
    (latent,) = await encode_for_inpaint(
        desk,  # type: ignore[arg-type]
        pixels=picture(64, 64),
        vae=Vae(model=SDXL.id),
        mask=Masks(values=values),
        grow_mask_by=6,
    )
    pixels = Images(encoded=desk.encoded).pixels[0]
    assert pixels[32, 32].tolist() == [128] * 3
    assert (pixels == 200).all(axis=2).sum() == 64 * 64 - 1
    assert latent.mask is not None
    rows, columns = np.nonzero(latent.mask.values[0])
    assert (len(set(rows)), len(set(columns)), len(rows)) == (6, 6, 36)


def test_masks_grow_in_place() -> None:
    image = Images(pixels=[np.zeros((512, 512, 3), np.uint8)])
    mask = Masks(values=np.zeros((1, 512, 512), np.float32))
    mask.values[0, 256, 256] = 1
    tracemalloc.start()
    _, grown = _cover(image, mask, 64)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown.values.sum() == 64 * 64
    assert peak < 12 * mask.values.nbytes


async def test_ungrown_mask_is_the_mask() -> None:
    values = np.eye(64, dtype=np.float32)[None]
    (latent,) = await encode_for_inpaint(
        Desk(),  # type: ignore[arg-type]
        pixels=picture(64, 64),
        vae=Vae(model=SDXL.id),
        mask=Masks(values=values),
        grow_mask_by=0,
    )
    assert latent.mask is not None
    assert np.array_equal(latent.mask.values, values)


# -- in graphs ----------------------------------------------------------------------------------


async def test_batch_is_drawn_with_seeds_in_a_row() -> None:
    graph = text_to_image()
    graph["5"]["inputs"]["batch_size"] = 3
    easel = Easel()
    await execution(easel, graph).run()
    assert len(easel.result["outputs"]["9"]["images"]) == 3
    calls: list[GenerationRequest] = easel.models.calls  # type: ignore[attr-defined]
    assert [call.params.seed for call in calls if call.task == "generate"] == [5, 6, 7]


async def pixels_of(easel: Easel) -> tuple[Pixels, ...]:
    """What the graph saved."""
    files = [await easel.images.get(picture.key) for picture in easel.pictures.values()]
    return Images(encoded=files).pixels


async def test_picture_of_a_batch_alone_is_the_same_picture() -> None:
    graph = text_to_image()
    graph["5"]["inputs"]["batch_size"] = 3
    graph["part"] = node("LatentFromBatch", samples=["5", 0], batch_index=2, length=1)
    alone = node("KSampler", **{**graph["3"]["inputs"], "latent_image": ["part", 0]})
    easel = Easel()
    await execution(easel, graph).run()
    batch = await pixels_of(easel)
    await execution(easel, {**graph, "3": alone}, id="img_2").run()
    (one,) = await pixels_of(easel)
    assert np.array_equal(one, batch[2])
    assert not np.array_equal(one, batch[0])


async def test_second_pass_draws_over_larger_latents() -> None:
    graph = text_to_image()
    graph["up"] = node("LatentUpscaleBy", samples=["3", 0], upscale_method="bilinear", scale_by=2.0)
    again = {**graph["3"]["inputs"], "latent_image": ["up", 0], "denoise": 0.5}
    graph["again"] = node("KSampler", **again)
    graph["8"]["inputs"]["samples"] = ["again", 0]
    easel = Easel()
    await execution(easel, graph).run()
    (picture_,) = easel.pictures.values()
    assert (picture_.width, picture_.height) == (128, 128)


async def test_autoencoder_of_a_model_of_the_same_family_will_do() -> None:
    graph = text_to_image()
    graph["other"] = node("VAELoader", vae_name="qwen-image-edit")
    graph["8"]["inputs"]["vae"] = ["other", 0]
    easel = Easel()
    await execution(easel, graph).run()
    assert len(easel.pictures) == 1


async def test_autoencoder_of_another_family_will_not() -> None:
    graph = text_to_image()
    graph["other"] = node("VAELoader", vae_name="qwen-image-edit")
    graph["8"]["inputs"]["vae"] = ["other", 0]
    easel = Easel(FakeModels(SDXL, replace(QWEN, family="qwen")))
    with pytest.raises(InvalidRequest, match="do not fit 'qwen-image-edit'"):
        await execution(easel, graph).run()


async def test_inpainting_keeps_to_its_mask() -> None:
    graph = text_to_image()
    graph["image"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0x00FF00)
    graph["mask"] = node("SolidMask", value=1.0, width=64, height=64)
    graph["5"] = node(
        "VAEEncodeForInpaint", pixels=["image", 0], vae=["4", 2], mask=["mask", 0], grow_mask_by=6
    )
    easel = Easel()
    await execution(easel, graph).run()
    calls: list[GenerationRequest] = easel.models.calls  # type: ignore[attr-defined]
    (call,) = [call for call in calls if call.task == "generate"]
    assert call.mask is not None
    assert Images(encoded=[call.mask]).pixels[0].min() == 255
