"""Prompts through Qwen2.5-VL, guidance and the second pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deployments.config import ModelConfig
from deployments.families import family_class
from deployments.families.base import Family
from deployments.families.qwen_image import QwenImage
from deployments.families.qwen_image_autoencoder import QwenAutoencoder, StillConv, see_stills
from deployments.families.qwen_image_denoiser import DenoiserRow, denoise
from deployments.families.qwen_image_text import EDIT, TEXT_TO_IMAGE, Conditioning, bucket, plain
from deployments.types import SecondPass
from tests.deployments.families.driver import draw, states_of
from tests.deployments.families.qwen_image.stock import Stock
from tests.deployments.families.qwen_image.test_golden import difference, scene, want

Load = Callable[..., Family]


def test_templates_are_the_stock_pipelines(stock_qwen: Stock) -> None:
    for kind, template in (("", TEXT_TO_IMAGE), ("EditPlus", EDIT)):
        pipeline = stock_qwen.pipeline(kind)
        assert template.text == pipeline.prompt_template_encode
        assert template.num_dropped == pipeline.prompt_template_encode_start_idx


@pytest.mark.parametrize("template", [TEXT_TO_IMAGE, EDIT], ids=["text-to-image", "edit"])
def test_small_tokenizer_cuts_templates_as_the_real_one(load_qwen: Load, template: Any) -> None:
    tokenizer = load_qwen("qwen").base.tokenizer
    before, _ = template.text.split("{}")
    assert len(tokenizer(before).input_ids) == template.num_dropped


@pytest.mark.parametrize("length", [8, 512, 1024])
def test_a_long_prompt_is_cut_as_the_stock_pipeline_cuts_it(
    load_qwen: Load, stock_qwen: Stock, length: int
) -> None:
    request = want("blue bird " * 700, max_sequence_length=length, num_inference_steps=2)
    [state] = states_of(load_qwen("qwen"), request)
    assert state.branches[0].num_tokens == length
    assert difference(draw(load_qwen("qwen"), request)[0], stock_qwen.draw("", request)) <= 0.01


def test_an_edit_s_prompt_is_not_cut(load_qwen: Load, stock_qwen: Stock) -> None:
    request = want("blue bird " * 300, images=(scene(),), max_sequence_length=8)
    assert difference(draw(load_qwen("qwen-edit"), request)[0], stock_qwen.edit(request)) <= 0.01


def positions_of(ids: list[int], picture: int, grids: list[list[int]]) -> torch.Tensor:
    """(3, tokens): as ``get_rope_index`` of transformers 4.57 found them, of which the real
    checkpoint learned; words count on, a picture's tokens have its row and column."""
    found: list[tuple[int, int, int]] = []
    start, left = 0, iter(grids)
    while len(found) < len(ids):
        if ids[len(found)] != picture:
            found.append((start, start, start))
            start += 1
            continue
        _, height, width = next(left)
        rows, columns = height // 2, width // 2
        found += [(start, start + k // columns, start + k % columns) for k in range(rows * columns)]
        start += max(rows, columns)
    return torch.tensor(found).T


def test_pictures_have_the_positions_that_the_model_was_trained_with(load_qwen: Load) -> None:
    family: Any = load_qwen("qwen-edit")
    told: list[dict[str, Any]] = []
    model = family.text.model.model

    def note(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        told.append(inputs)

    hooks = [
        part.register_forward_pre_hook(note, with_kwargs=True)
        for part in (model, model.language_model)
    ]
    try:
        request = want("make it red", images=(scene(), scene(64, 128)), true_cfg_scale=1.0)
        states_of(family, request)
    finally:
        for hook in hooks:
            hook.remove()
    seen, words = told
    grids = seen["image_grid_thw"].tolist()
    assert grids[0] != grids[1]
    ids, picture = seen["input_ids"][0].tolist(), model.config.image_token_id
    expected = positions_of(ids, picture, grids)
    assert expected[0, -1] < len(ids) - 100
    assert torch.equal(words["position_ids"][:, 0], expected)


def test_special_tokens_in_a_prompt_are_words(load_qwen: Load) -> None:
    texts = "a <|image_pad|> b", "a < |image_pad| > b"
    branches = [
        states_of(load_qwen("qwen-edit"), want(text, images=(scene(),)))[0].branches[0]
        for text in texts
    ]
    assert torch.equal(branches[0].text, branches[1].text)


def test_weights_of_words_are_not_heard(load_qwen: Load) -> None:
    assert plain("a (red:1.3) [circle] \\(here\\) BREAK or", "a1111") == "a red circle (here)   or"
    assert plain("a (red:1.3) [circle]", "comfyui") == "a red [circle]"
    assert plain("a (red:1.3)", "plain") == "a (red:1.3)"
    weighed, words = want("(a lake:1.4)", is_weighted=True), want("a lake")
    assert difference(*draw(load_qwen("qwen"), weighed, words)) == 0


def test_guidance_scale_steers_when_true_cfg_scale_is_absent(load_qwen: Load) -> None:
    family = load_qwen("qwen")
    one, other = want(true_cfg_scale=None, guidance_scale=3.0), want(true_cfg_scale=3.0)
    assert difference(*draw(family, one, other)) <= 0.01
    assert states_of(family, want(true_cfg_scale=1.0, guidance_scale=7.0))[0].num_rows == 1


def test_a_distilled_transformer_hears_each_row_s_guidance() -> None:
    heard: dict[str, Any] = {}

    def transformer(**inputs: Any) -> tuple[torch.Tensor]:
        heard.update(inputs)
        return (inputs["hidden_states"],)

    transformer.dtype = torch.float32  # type: ignore[attr-defined]
    rows = [
        DenoiserRow(
            latents=torch.zeros(1, 16, 4, 4),
            references=(),
            branch=Conditioning(text=torch.zeros(1, 3, 8)),
            timestep=torch.tensor(500.0),
            guidance=scale,
        )
        for scale in (2.5, 4.0)
    ]
    assert [flow.shape for flow in denoise(transformer, rows)] == [(1, 4, 64)] * 2
    assert heard["guidance"].tolist() == [2.5, 4.0]


@pytest.mark.parametrize("upscaler", ["latent", "lanczos"])
def test_a_second_pass_draws_over_the_first_at_its_own_size(load_qwen: Load, upscaler: str) -> None:
    second = SecondPass(
        width=96, height=96, upscaler=upscaler, strength=0.5, prompt="a lake", guidance_scale=1.0
    )
    request = want(second_pass=second)
    [state] = states_of(load_qwen("qwen"), request)
    assert state.num_visits == 4 + 2
    assert state.following is not None
    assert (len(state.branches), len(state.following.branches)) == (2, 1)
    [picture] = draw_with_passes(load_qwen("qwen"), request)
    assert picture.shape == (96, 96, 3)
    assert picture.std() > 10


def draw_with_passes(family: Any, request: Any) -> list[np.ndarray]:
    from tests.deployments.families.driver import denoise as step

    states = states_of(family, request)
    with torch.inference_mode():
        for state in states:
            while True:
                while not state.is_denoised:
                    step(family, [state])
                if not family.follow(state):
                    break
        return [family.decode([state])[0] * 255 for state in states]


def test_previews_are_small_and_near_the_end_the_picture(load_qwen: Load) -> None:
    from tests.deployments.families.driver import denoise as step

    family = load_qwen("qwen")
    [state] = states_of(family, want(num_previews=2))
    while not state.is_denoised:
        step(family, [state])
    with torch.inference_mode():
        assert np.abs(family.preview(state) - family.decode([state])[0]).max() < 0.02
    [large] = states_of(family, want(width=320, height=64))
    with torch.inference_mode():
        assert family.preview(large).shape[1] <= 256


def test_stills_are_encoded_and_decoded_as_by_the_video_autoencoder(stock_qwen: Stock) -> None:
    video, still = stock_qwen.pipeline("").vae, stock_qwen.pipeline("").vae
    video = type(still).from_config(still.config).eval()
    video.load_state_dict(still.state_dict())
    see_stills(video)
    assert sum(isinstance(module, StillConv) for module in video.modules()) > 20
    cpu = torch.device("cpu")
    ours, theirs = QwenAutoencoder(video, cpu, cpu), QwenAutoencoder(still, cpu, cpu)
    pixels = torch.rand(2, 3, 64, 48) * 2 - 1
    with torch.no_grad():
        latents = theirs.mode(theirs.encode(pixels))
        assert torch.allclose(ours.mode(ours.encode(pixels)), latents, atol=1e-5)
        assert torch.allclose(ours.decode(latents), theirs.decode(latents), atol=1e-5)


@pytest.mark.parametrize(("length", "size"), [(1, 512), (512, 512), (513, 1024), (3000, 4096)])
def test_bucket_is_a_power_of_two(length: int, size: int) -> None:
    assert bucket(length) == size


def test_other_checkpoints_are_refused_by_name(checkpoints: Path) -> None:
    config = ModelConfig(family="qwen-image", weights=str(checkpoints / "sd"))
    with pytest.raises(ValueError, match="StableDiffusionPipeline; this family reads: QwenImage"):
        family_class("qwen-image").load(config, "cpu", "float32")
    with pytest.raises(ValueError, match="needs weights"):
        QwenImage.load(ModelConfig(family="qwen-image"), "cpu", "float32")
