"""Edits that also begin with their first picture, sizes of references, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import QwenImageEditPlusPipeline
from PIL import Image

from deployments import pictures
from deployments.config import ModelConfig
from deployments.errors import InvalidImage, InvalidRequest, UnsupportedField
from deployments.families.base import Family
from deployments.families.qwen_image_denoiser import pack, unpack
from deployments.families.qwen_image_references import ReferenceReader, size_of
from deployments.host import ModelHost
from tests.deployments.families.driver import draw, inpainted, png, states_of
from tests.deployments.families.qwen_image.stock import Stock
from tests.deployments.families.qwen_image.test_golden import difference, scene, want

Load = Callable[..., Family]


def stock_edit_from(
    stock: Stock, request: Any, blend: Callable[..., Any] | None = None
) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    """The stock edit, told to begin with the first picture's noised latents."""
    params, tools = request.params, stock.pipeline("Img2Img")
    generator = torch.Generator().manual_seed(params.seed)
    image = pictures.decode_image(request.images[0]).convert("RGB")
    pixels = tools.image_processor.preprocess(image, params.height, params.width)[:, :, None]
    with torch.no_grad():
        kept = tools._encode_vae_image(pixels, generator)[:, :, 0]
    noise = torch.randn(kept.shape, generator=generator)
    steps = params.num_inference_steps
    skipped = int(steps - steps * params.strength)
    sigmas = np.linspace(1.0, 1 / steps, steps)[skipped:]
    shifted = _shifted(stock, sigmas, kept.shape[2] * kept.shape[3] // 4)
    start = pack(shifted[0] * noise + (1 - shifted[0]) * kept)
    parts = {"kept": pack(kept), "noise": pack(noise), "sigmas": shifted}

    def after_step(_pipeline: Any, step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        return {"latents": blend(step, values["latents"], **parts) if blend else values["latents"]}

    drawn = stock.edit(
        request,
        latents=start,
        sigmas=sigmas,
        callback_on_step_end=after_step,
        callback_on_step_end_tensor_inputs=["latents"],
    )
    return drawn, parts


@pytest.mark.parametrize("strength", [0.3, 0.6])
def test_an_edit_with_strength_is_the_stock_edit_of_the_noised_picture(
    load_qwen: Load, stock_qwen: Stock, strength: float
) -> None:
    request = want("make it red", images=(scene(), scene(64, 64)), strength=strength)
    expected, _ = stock_edit_from(stock_qwen, request)
    assert difference(draw(load_qwen("qwen-edit"), request)[0], expected) <= 0.01


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_an_edit_with_a_mask_keeps_the_rest_at_every_step(
    load_qwen: Load, stock_qwen: Stock, mask: bytes, strength: float
) -> None:
    request = want("make it red", images=(scene(64),), mask=mask, strength=strength)
    image = pictures.decode_image(request.images[0])
    gray = pictures.decode_mask(mask, image.size)
    hard = torch.tensor(np.asarray(gray) >= 127.5).float()[None, None]
    redrawn = pack(torch.nn.functional.interpolate(hard, (8, 8)).expand(1, 16, 8, 8))

    def blend(step: int, latents: Any, *, kept: Any, noise: Any, sigmas: Any) -> Any:
        level = sigmas[step + 1]
        return (1 - redrawn) * (level * noise + (1 - level) * kept) + redrawn * latents

    drawn, _ = stock_edit_from(stock_qwen, request, blend)
    expected = inpainted(drawn, image, gray)
    assert difference(draw(load_qwen("qwen-edit"), request)[0], expected) <= 0.01


def test_references_have_the_stock_size_unless_configured(
    load_qwen: Load, stock_qwen: Stock
) -> None:
    family = load_qwen("qwen-edit", reference_pixels=1024 * 1024)
    request = want("make it red", images=(scene(),), num_inference_steps=2, true_cfg_scale=1.0)
    [state] = states_of(family, request)
    assert state.tokens == 16 + 78 * 52
    image = pictures.decode_image(request.images[0])
    expected = stock_qwen.draw("EditPlus", request, image=[image])
    assert difference(draw(family, request)[0], expected) <= 0.01


def test_two_pictures_are_those_of_seeds_one_apart(load_qwen: Load, stock_qwen: Stock) -> None:
    family, photos = load_qwen("qwen-edit"), (scene(),)
    together = draw(family, want("make it red", images=photos, num_images=2, seed=5))
    for k, picture in enumerate(together):
        expected = stock_qwen.edit(want("make it red", images=photos, seed=5 + k))
        assert difference(picture, expected) <= 0.01
    assert np.abs(together[0] - together[1]).mean() > 5


@pytest.mark.parametrize(
    ("num_pixels", "ratio", "size"),
    [
        pytest.param(1024 * 1024, 1.0, (1024, 1024), id="square"),
        pytest.param(1024 * 1024, 1.5, (1248, 832), id="wide"),
        pytest.param(384 * 384, 0.5, (256, 544), id="tall"),
        pytest.param(384 * 384, 100.0, (3840, 32), id="thin"),
        pytest.param(64 * 64, 100.0, (640, 32), id="never nothing"),
    ],
)
def test_size_of_is_about_the_pixels(num_pixels: int, ratio: float, size: tuple[int, int]) -> None:
    assert size_of(num_pixels, ratio) == size


@pytest.mark.parametrize(
    ("picture", "output", "seen"),
    [
        pytest.param((300, 200), (480, 320), (480, 320), id="same shape"),
        pytest.param((300, 200), (496, 320), (496, 320), id="nearly the same"),
        pytest.param((100, 400), (512, 512), (256, 1024), id="another shape"),
    ],
)
def test_references_without_a_size_of_their_own_lie_at_the_outputs_places(
    picture: tuple[int, int], output: tuple[int, int], seen: tuple[int, int]
) -> None:
    data = png(np.zeros((picture[1], picture[0], 3), np.uint8))
    reference = ReferenceReader(16, 0).read(data, output)
    assert tuple(reference.pixels.shape[:1:-1]) == seen


def test_pack_is_the_stock_order_and_unpack_its_way_back() -> None:
    latents = torch.arange(16 * 4 * 6, dtype=torch.float32).view(1, 16, 4, 6)
    expected = QwenImageEditPlusPipeline._pack_latents(latents, 1, 16, 4, 6)
    assert torch.equal(pack(latents), expected)
    assert torch.equal(unpack(expected, 4, 6), latents)


def test_a_picture_with_a_mask_and_padding_is_redrawn_in_its_box(load_qwen: Load) -> None:
    gray = Image.new("L", (160, 96))
    gray.paste(255, (70, 40, 90, 60))
    request = want(
        images=(scene(160, 96),), mask=png(np.asarray(gray) / 255), mask_padding=6, strength=0.7
    )
    [picture] = draw(load_qwen("qwen-edit"), request)
    image = np.asarray(pictures.decode_image(request.images[0]).convert("RGB"), np.float32)
    changed = np.abs(picture - image).max(axis=-1) > 0.5
    assert picture.shape == (96, 160, 3)
    assert changed[40:60, 70:90].mean() > 0.9
    changed[40:60, 70:90] = False
    assert not changed.any()


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        pytest.param({"images": (scene(),) * 4}, InvalidRequest, "4 input pictures", id="four"),
        pytest.param({"tiling": True}, UnsupportedField, "edges", id="tiling"),
        pytest.param({"clip_skip": 2}, UnsupportedField, "skips", id="clip_skip"),
        pytest.param({"scheduler": "PNDM"}, InvalidRequest, "unknown scheduler", id="scheduler"),
        pytest.param({"max_sequence_length": 1025}, InvalidRequest, "1 to 1024", id="length"),
        pytest.param({"images": (b"no",)}, InvalidImage, "picture", id="no picture"),
        pytest.param({"images": (scene(303, 3),)}, InvalidImage, "100 times", id="too thin"),
        pytest.param(
            {"images": (scene(),), "prompt": "漢" * 4000}, InvalidRequest, "at most", id="too long"
        ),
        pytest.param({"weights": "alice"}, InvalidRequest, "unknown weights", id="weights"),
    ],
)
def test_what_cannot_be_done_is_refused(
    load_qwen: Load, changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        states_of(load_qwen("qwen-edit"), want(**changes))


async def test_a_large_input_is_not_made_smaller_than_it_is_looked_at(
    load_qwen: Load, qwen_checkpoints: Path
) -> None:
    options = {"reference_pixels": 1024 * 1024}
    config = ModelConfig(
        family="qwen-image", weights=str(qwen_checkpoints / "qwen-edit"), **options
    )
    pixels = np.random.default_rng(0).random((2000, 2100, 3))
    request = want(images=(png(pixels),), num_inference_steps=1, true_cfg_scale=1.0)
    host = ModelHost(config, "qwen")
    *_, result = [news async for news in host.generate("one", request)]
    host.close()
    drawn = np.asarray(Image.open(io.BytesIO(result.images[0].data)).convert("RGB"), np.float32)
    [expected] = draw(load_qwen("qwen-edit", **options), request)
    assert np.abs(drawn - expected).max() <= 1


def test_a_checkpoint_that_only_draws_takes_one_picture(load_qwen: Load) -> None:
    family = load_qwen("qwen")
    assert family.modes == ("text-to-image", "image-to-image", "inpainting")
    assert "edit" in load_qwen("qwen-edit").modes
    with pytest.raises(InvalidRequest, match="at most 1"):
        states_of(family, want(images=(scene(), scene())))


def _shifted(stock: Stock, sigmas: np.ndarray, tokens: int) -> torch.Tensor:
    from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift

    scheduler = stock.pipeline("").scheduler
    config = scheduler.config
    mu = calculate_shift(
        tokens,
        *(config[k] for k in ("base_image_seq_len", "max_image_seq_len")),
        *(config[k] for k in ("base_shift", "max_shift")),
    )
    scheduler.set_timesteps(sigmas=sigmas, mu=mu)
    return scheduler.sigmas
