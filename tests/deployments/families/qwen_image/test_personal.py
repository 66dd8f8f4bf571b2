"""Owners' own transformers beside the base's other modules, against stock pipelines with them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from safetensors.torch import save_file

from deployments.config import ModelConfig
from deployments.errors import GenerationFailed, InvalidRequest, UnsupportedField
from deployments.families import family_class
from deployments.families.base import Family
from deployments.families.qwen_image_checkpoint import read_checkpoint
from deployments.types import LoraUse, WeightsSource
from tests.deployments.families.driver import draw, states_of
from tests.deployments.families.qwen_image.stock import REFERENCE_PIXELS, Stock
from tests.deployments.families.qwen_image.test_golden import difference, scene, want
from tests.deployments.families.qwen_image.test_lora import factors

Load = Callable[..., Family]


@pytest.fixture(scope="module")
def alice(load_qwen: Load) -> Any:
    """A transformer of the base's structure, of other weights."""
    base: Any = load_qwen("qwen").base  # type: ignore[attr-defined]
    own = copy.deepcopy(base.transformer)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.mul_(1 + torch.randn_like(parameter) / 4)
    return own


def of_alice(stock: Stock, alice: Any) -> Stock:
    dressed = copy.deepcopy(stock)
    dressed._base.register_modules(transformer=alice)
    return dressed


def prefixed(prefix: str, alice: Any) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": t.contiguous() for name, t in alice.state_dict().items()}


def write(layout: str, alice: Any, folder: Path) -> Path:
    """A checkpoint of it; the path."""
    path = folder / "alice.safetensors"
    if layout == "folder":
        alice.save_pretrained(folder / "transformer")
        return folder
    if layout == "shards":
        alice.save_pretrained(folder / "transformer", max_shard_size="200KB")
        assert len(list(folder.glob("transformer/*.safetensors"))) > 1
        return folder
    if layout == "comfyui":
        tensors = prefixed("model.diffusion_model.", alice)
        save_file({**tensors, "first_stage_model.conv1.bias": torch.zeros(4)}, path)
    elif layout == "half":
        save_file({n: t.bfloat16() for n, t in prefixed("", alice).items()}, path)
    else:
        save_file(prefixed({"plain": "", "parted": "transformer."}[layout], alice), path)
    return path


def with_weights(family: Family, location: Path, request: Any) -> Any:
    """The request as the engine has it, for weights of its owner's at ``location``."""
    source = WeightsSource(id=f"pm_{location}", kind="path", location=str(location))
    assert family.sources is not None
    return family.sources.resolve(replace(request, weights="mine", weights_source=source))


@pytest.mark.parametrize("layout", ["folder", "shards", "plain", "parted", "comfyui", "half"])
def test_an_owner_s_transformer_draws_the_stock_picture(
    load_qwen: Load, stock_qwen: Stock, alice: Any, tmp_path: Path, layout: str
) -> None:
    family, path = load_qwen("qwen"), write(layout, alice, tmp_path)
    checked = family.check_weights(WeightsSource(id="a", kind="path", location=str(path)), 2**40)
    assert checked.parts == ("transformer",)
    request = with_weights(family, path, want(width=96))
    [picture] = draw(family, request)
    expected = of_alice(stock_qwen, alice).draw("", request)
    if layout == "half":
        assert abs(picture - expected).mean() < 20
    else:
        assert difference(picture, expected) <= 0.01
    assert difference(picture, stock_qwen.draw("", request)) > 20


def test_edits_of_two_owners_and_of_none_are_their_own_pictures(
    qwen_checkpoints: Path, stock_qwen: Stock, alice: Any, tmp_path: Path
) -> None:
    config = ModelConfig(
        family="qwen-image",
        weights=str(qwen_checkpoints / "qwen-edit"),
        reference_pixels=REFERENCE_PIXELS,
        personal={"alice": str(write("folder", alice, tmp_path))},
    )
    family = family_class("qwen-image").load(config, "cpu", "float32")
    assert family.sources is not None
    assert family.sources.names == ("alice",)
    plain = want("make it red", images=(scene(),))
    hers = family.sources.resolve(want("make it red", images=(scene(),), weights="alice"))
    keys = {state.batch_key for state in states_of(family, plain, hers)}
    assert len(keys) == 2
    own, of_base = draw(family, hers, plain)
    assert difference(own, of_alice(stock_qwen, alice).edit(hers)) <= 0.01
    assert difference(of_base, stock_qwen.edit(plain)) <= 0.01


def test_the_base_s_other_modules_and_rotary_tables_are_shared(
    load_qwen: Load, alice: Any, tmp_path: Path
) -> None:
    family: Any = load_qwen("qwen")
    request = with_weights(family, write("plain", alice, tmp_path), want())
    own = family.load_weights(request.weights)
    assert not own.pipeline.transformer.training
    for part in ("text_encoder", "vae"):
        assert getattr(own.pipeline, part) is getattr(family.base, part)
    assert own.pipeline.transformer.pos_embed is family.base.transformer.pos_embed
    parameters = family.base.transformer.parameters()
    assert own.num_bytes == sum(p.numel() * 4 for p in parameters)
    assert own.num_bytes == family.expected_bytes(request.weights)
    assert family.expected_bytes(None) > own.num_bytes


def test_loras_adapt_an_owner_s_transformer_as_the_base_s(
    qwen_checkpoints: Path, stock_qwen: Stock, alice: Any, tmp_path: Path
) -> None:
    tensors = {}
    for name, (down, up) in factors(alice, 5).items():
        tensors[f"transformer.{name}.lora_A.weight"] = down
        tensors[f"transformer.{name}.lora_B.weight"] = up
    save_file(tensors, tmp_path / "ink.safetensors")
    config = ModelConfig(
        family="qwen-image",
        weights=str(qwen_checkpoints / "qwen"),
        loras={"ink": str(tmp_path / "ink.safetensors")},
    )
    family = family_class("qwen-image").load(config, "cpu", "float32")
    path = write("plain", alice, tmp_path)
    request = with_weights(family, path, want(loras=(LoraUse(name="ink", weight=0.7),)))
    stock = of_alice(stock_qwen, copy.deepcopy(alice))
    stock._base.load_lora_weights(str(tmp_path), weight_name="ink.safetensors", adapter_name="ink")
    stock._base.set_adapters(["ink"], [0.7])
    assert difference(draw(family, request)[0], stock.draw("", request)) <= 0.01


def test_what_is_no_transformer_of_this_model_is_refused(
    load_qwen: Load, checkpoints: Path, alice: Any, tmp_path: Path
) -> None:
    family = load_qwen("qwen")

    def check(location: Path) -> None:
        family.check_weights(WeightsSource(id="a", kind="path", location=str(location)), 2**40)

    with pytest.raises(InvalidRequest, match="no transformer in it"):
        check(checkpoints / "sd-user")
    with pytest.raises(InvalidRequest, match="no transformer in it"):
        check(next((checkpoints / "sd-user" / "unet").glob("*.safetensors")))
    path = tmp_path / "wrong.safetensors"
    tensors = prefixed("", alice)
    save_file({**tensors, "img_in.bias": torch.zeros(3)}, path)
    with pytest.raises(InvalidRequest, match=r"transformer has img_in.bias of shape \(3,\)"):
        check(path)
    with pytest.raises(GenerationFailed, match="do not fit this model"):
        draw(family, with_weights(family, path, want()))
    del tensors["proj_out.bias"]
    save_file(tensors, path)
    with pytest.raises(InvalidRequest, match=r"proj_out.bias of shape None"):
        check(path)
    small = {n: t.to(torch.float8_e4m3fn) for n, t in prefixed("", alice).items()}
    save_file(small, path)
    with pytest.raises(InvalidRequest, match="F8_E4M3; accepted: F16, BF16, F32"):
        check(path)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        pytest.param({"quantization": "int8"}, "quantization 'int8'", id="quantized"),
        pytest.param({"gguf": "a.gguf"}, "a gguf file", id="gguf"),
        pytest.param({"offload": "group"}, "offload 'group'", id="offloaded"),
    ],
)
def test_a_base_that_is_not_whole_has_no_place_for_owners_weights(
    qwen_checkpoints: Path, options: dict[str, Any], text: str
) -> None:
    config = ModelConfig(
        family="qwen-image",
        weights=str(qwen_checkpoints / "qwen"),
        personal={"default": "a"},
        **options,
    )
    with pytest.raises(ValueError, match=f"{text} leaves no place for personal weights"):
        read_checkpoint(config, "cpu", "float32")


def test_an_offloaded_base_takes_no_weights_later_either(load_qwen: Load) -> None:
    family = load_qwen("qwen", offload="group")
    assert family.sources is None
    with pytest.raises(UnsupportedField, match="its own: offload 'group' leaves no place"):
        family.check_weights(WeightsSource(id="a", kind="path", location="a"), 1)
    with pytest.raises(InvalidRequest, match="unknown weights 'a'"):
        family.load_weights("a")


def test_other_structures_do_not_fit(load_qwen: Load, tmp_path: Path) -> None:
    other = QwenImageTransformer2DModel(
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=16,
        axes_dims_rope=(4, 6, 6),
        joint_attention_dim=16,
        in_channels=16,
        out_channels=4,
    )
    source = WeightsSource(id="a", kind="path", location=str(write("plain", other, tmp_path)))
    with pytest.raises(InvalidRequest, match="the base has"):
        load_qwen("qwen").check_weights(source, 2**40)
