"""Few-step LoRAs as configuration: files as those of lightx2v/Qwen-Image-Lightning, their schedule
and their steps, against diffusers' own loader."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from deployments.config import PROJECT_ROOT, ModelConfig
from deployments.families import family_class
from deployments.families.base import Family
from deployments.opening import open_engine
from deployments.types import LoraUse
from tests.deployments.families.driver import draw, states_of
from tests.deployments.families.qwen_image.stock import Stock
from tests.deployments.families.qwen_image.test_golden import difference, scene, want

Load = Callable[..., Family]

#: All linear layers of a block but the modulations: what Lightning's files adapt.
LAYERS = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    *("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"),
)
#: As the files' own: the factors count an eighth.
RANK, ALPHA = 64, 8.0
#: The scheduler of ModelTC/Qwen-Image-Lightning, generate_with_diffusers.py: "We use shift=3".
SCHEDULE = {
    "base_image_seq_len": 256,
    "base_shift": math.log(3),
    "max_image_seq_len": 8192,
    "max_shift": math.log(3),
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": None,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}
#: What a deployment's stanza says, beside the LoRA's file.
LIGHTNING = {"fixed_loras": {"lightning": 1.0}, "shift": 3.0}


def lightning(transformer: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A LoRA under the names, and of the rank, alpha and formats, of the files of 4 and 8 steps."""
    generator, tensors = torch.Generator().manual_seed(4), {}
    for name, layer in transformer.named_modules():
        if not name.endswith(LAYERS):
            continue
        down = torch.randn(RANK, layer.in_features, generator=generator)
        up = torch.randn(layer.out_features, RANK, generator=generator)
        tensors[f"{name}.lora_down.weight"] = (down / layer.in_features**0.5).to(dtype)
        tensors[f"{name}.lora_up.weight"] = (up / 2).to(dtype)
        tensors[f"{name}.alpha"] = torch.tensor(ALPHA, dtype=dtype)
    return tensors


@pytest.fixture(scope="module")
def files(load_qwen: Load, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One LoRA in the forms in which it is shared."""
    folder, transformer = tmp_path_factory.mktemp("lightning"), load_qwen("qwen").base.transformer
    whole, half = lightning(transformer, torch.float32), lightning(transformer, torch.bfloat16)
    plain = {name: tensor for name, tensor in whole.items() if not name.endswith(".alpha")}
    for name in list(plain):
        if name.endswith(".lora_up.weight"):
            plain[name] = plain[name] * (ALPHA / RANK)
    forms = {
        "whole": whole,
        "half": half,
        "native": {f"diffusion_model.{name}": tensor for name, tensor in half.items()},
        "parted": {f"transformer.{name}": tensor for name, tensor in half.items()},
        "peft": {f"transformer.{name}": tensor for name, tensor in _peft(plain).items()},
        "peft-bare": _peft(plain),
        "parted-unscaled": {f"transformer.{name}": tensor for name, tensor in plain.items()},
        "old": {
            f"transformer.{name.replace('lora_', 'lora.')}": tensor
            for name, tensor in plain.items()
        },
    }
    for form, tensors in forms.items():
        save_file(tensors, folder / f"{form}.safetensors")
    return {form: folder / f"{form}.safetensors" for form in forms}


def _peft(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.replace("lora_down", "lora_A").replace("lora_up", "lora_B"): tensor
        for name, tensor in tensors.items()
    }


@pytest.fixture(scope="module")
def load_fast(qwen_checkpoints: Path, files: dict[str, Path]) -> Callable[..., Any]:
    """The family of a checkpoint as a stanza for few steps configures it."""

    def load(name: str, form: str, **changes: Any) -> Any:
        config = ModelConfig(
            family="qwen-image",
            weights=str(qwen_checkpoints / name),
            loras={"lightning": str(files[form])},
            **{"reference_pixels": 96 * 96, **LIGHTNING, **changes},
        )
        return family_class("qwen-image").load(config, "cpu", "float32")

    return load


def fast_stock(stock: Stock, file: Path) -> Stock:
    """The stock pipelines with Lightning's scheduler and diffusers' own LoRA."""
    dressed = copy.deepcopy(stock)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(SCHEDULE)
    dressed._base.register_modules(scheduler=scheduler)
    dressed._base.load_lora_weights(str(file.parent), weight_name=file.name)
    return dressed


@pytest.mark.parametrize("steps", [4, 8])
@pytest.mark.parametrize("form", ["whole", "half", "native", "peft", "old"])
def test_few_steps_are_the_stock_picture(
    load_fast: Callable[..., Any],
    stock_qwen: Stock,
    files: dict[str, Path],
    form: str,
    steps: int,
) -> None:
    request = want(width=96, true_cfg_scale=1.0, num_inference_steps=steps)
    family, stock = load_fast("qwen", form), fast_stock(stock_qwen, files[form])
    [state] = states_of(family, request)
    assert (state.num_rows, state.num_visits) == (1, steps)
    [picture] = draw(family, request)
    assert difference(picture, stock.draw("", request)) <= 0.01
    assert difference(picture, stock_qwen.draw("", request)) > 10


@pytest.mark.parametrize("steps", [4, 8])
@pytest.mark.parametrize("num_images", [1, 2])
def test_few_steps_of_an_edit_are_the_stock_picture(
    load_fast: Callable[..., Any],
    stock_qwen: Stock,
    files: dict[str, Path],
    num_images: int,
    steps: int,
) -> None:
    photos = (scene(), scene(64, 128, 0.3))[:num_images]
    request = want("make it red", images=photos, true_cfg_scale=1.0, num_inference_steps=steps)
    [picture] = draw(load_fast("qwen-edit", "half"), request)
    expected = fast_stock(stock_qwen, files["half"]).edit(request)
    assert difference(picture, expected) <= 0.01


@pytest.mark.parametrize("form", ["parted", "parted-unscaled", "peft-bare"])
def test_forms_that_diffusers_mistakes_are_read_as_the_others(
    load_fast: Callable[..., Any], form: str
) -> None:
    request = want(true_cfg_scale=1.0)
    [expected] = draw(load_fast("qwen", "half" if form == "parted" else "whole"), request)
    [picture] = draw(load_fast("qwen", form), request)
    assert difference(picture, expected) <= 0.01


def test_the_factors_are_merged_as_the_repository_merges_them(
    load_fast: Callable[..., Any], load_qwen: Load, files: dict[str, Path]
) -> None:
    """``weight + alpha / rank * up @ down``, its ``load_and_merge_lora_weight``."""
    merged: Any = load_fast("qwen", "whole", fixed_loras={})
    tensors = load_file(files["whole"])
    with torch.no_grad():
        for name, weight in merged.base.transformer.named_parameters():
            layer = name.removesuffix(".weight")
            if (down := tensors.get(f"{layer}.lora_down.weight")) is None:
                continue
            up, alpha = tensors[f"{layer}.lora_up.weight"], tensors[f"{layer}.alpha"]
            weight.add_(alpha / len(down) * up @ down)
    request = want(true_cfg_scale=1.0)
    [expected] = draw(merged, request)
    [picture] = draw(load_fast("qwen", "whole"), request)
    assert difference(picture, expected) <= 0.01


def test_a_request_s_own_shift_and_loras_are_heard_beside(load_fast: Callable[..., Any]) -> None:
    family = load_fast("qwen", "half")
    [told, own] = states_of(family, want(), want(shift=1.0))
    assert told.timesteps[1] > own.timesteps[1] + 50
    request = want(true_cfg_scale=1.0)
    twice = want(true_cfg_scale=1.0, loras=(LoraUse(name="lightning"),))
    [expected, picture] = draw(family, request, twice)
    assert difference(picture, expected) > 5
    assert [weight for _, weight in states_of(family, twice)[0].branches[0].adapters] == [2.0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_few_steps_on_quantized_weights_draw_nearly_the_same(
    load_fast: Callable[..., Any], quantization: str
) -> None:
    request = want(true_cfg_scale=1.0, width=96)
    [expected] = draw(load_fast("qwen", "half"), request)
    [picture] = draw(load_fast("qwen", "half", quantization=quantization), request)
    assert 0 < abs(picture - expected).mean() < 40


def test_the_comment_of_the_graph_s_stanza_is_a_configuration() -> None:
    """Uncommented, it is what these tests configure, for the files as the hub has them."""
    text = (PROJECT_ROOT / "serve_config.yaml").read_text()
    stanza = text.partition("- name: qwen-image-edit")[2].partition("\n  - name:")[0]
    lines = re.findall(r"^ +#   (.*)$", stanza, re.MULTILINE)
    config = ModelConfig(family="qwen-image", **yaml.safe_load("\n".join(lines)))
    assert config.fixed_loras == LIGHTNING["fixed_loras"]
    assert config.shift == LIGHTNING["shift"]
    assert (config.defaults.num_inference_steps, config.defaults.true_cfg_scale) == (4, 1.0)
    assert config.loras["lightning"].startswith(
        "lightx2v/Qwen-Image-Lightning/Qwen-Image-Edit-2509"
    )
    assert config.loras["lightning"].endswith("4steps-V1.0-bf16.safetensors")


def test_a_fixed_lora_that_is_not_there_is_said_at_start(load_fast: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="fixed LoRA 'fast' is not there; known: lightning"):
        load_fast("qwen", "half", fixed_loras={"fast": 1.0})


def test_a_shift_is_refused_where_schedules_have_none() -> None:
    with pytest.raises(ValueError, match="shift is not for family 'fake'"):
        open_engine(ModelConfig(family="fake", shift=3.0))
    with pytest.raises(ValueError, match="shift"):
        ModelConfig(family="qwen-image", shift=0.0)
