"""LoRAs of Qwen-Image: the pictures against stock pipelines, and alone against together."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from safetensors.torch import save_file

from deployments.families.base import Family
from deployments.families.fitter import Fitter
from deployments.families.lora import Lora
from deployments.families.lora_file import LowRank
from deployments.types import LoraUse
from tests.deployments.families.driver import draw, states_of
from tests.deployments.families.qwen_image.stock import Stock
from tests.deployments.families.qwen_image.test_golden import difference, scene, want

Load = Callable[..., Family]

#: Ends of the names of the layers that Lightning's LoRAs adapt, and of some that others do.
ENDS = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.to_add_out"),
    *("img_mlp.net.2", "txt_mlp.net.0.proj", "img_mod.1", "txt_mod.1", "proj_out"),
)


def factors(transformer: Any, seed: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, layer in transformer.named_modules():
        if name.endswith(ENDS):
            down = torch.randn(4, layer.in_features, generator=generator)
            up = torch.randn(layer.out_features, 4, generator=generator)
            made[name] = down / layer.in_features**0.5, up / 2
    return made


@pytest.fixture(scope="module")
def folder(load_qwen: Load, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRAs: in diffusers' form ``ink``, and as Lightning's are shared ``fast``."""
    root, transformer = tmp_path_factory.mktemp("loras"), load_qwen("qwen").base.transformer
    tensors = {}
    for name, (down, up) in factors(transformer, 1).items():
        tensors[f"transformer.{name}.lora_A.weight"] = down
        tensors[f"transformer.{name}.lora_B.weight"] = up
    save_file(tensors, root / "ink.safetensors")
    tensors = {}
    for name, (down, up) in factors(transformer, 2).items():
        tensors[f"{name}.lora_down.weight"] = down.bfloat16()
        tensors[f"{name}.lora_up.weight"] = up.bfloat16()
        tensors[f"{name}.alpha"] = torch.tensor(6.0)
    save_file(tensors, root / "fast.safetensors")
    return root


def with_lora(stock: Stock, folder: Path, name: str, weight: float) -> Stock:
    """The stock pipelines with diffusers' own LoRA."""
    dressed = copy.deepcopy(stock)
    dressed._base.load_lora_weights(
        str(folder), weight_name=f"{name}.safetensors", adapter_name=name
    )
    dressed._base.set_adapters([name], [weight])
    return dressed


@pytest.mark.parametrize(("lora", "weight"), [("ink", 0.5), ("fast", 0.8)])
def test_a_lora_draws_the_stock_picture(
    load_qwen: Load, stock_qwen: Stock, folder: Path, lora: str, weight: float
) -> None:
    family = load_qwen("qwen", lora_folder=str(folder))
    request = want(loras=(LoraUse(name=lora, weight=weight),), width=96)
    [picture] = draw(family, request)
    expected = with_lora(stock_qwen, folder, lora, weight).draw("", request)
    assert difference(picture, expected) <= 0.01
    assert difference(picture, stock_qwen.draw("", request)) > 20


def test_an_edit_with_a_lora_is_the_stock_picture(
    load_qwen: Load, stock_qwen: Stock, folder: Path
) -> None:
    family = load_qwen("qwen-edit", lora_folder=str(folder))
    request = want("make it red", images=(scene(),), loras=(LoraUse(name="fast"),))
    expected = with_lora(stock_qwen, folder, "fast", 1.0).edit(request)
    assert difference(draw(family, request)[0], expected) <= 0.01


def test_edits_with_unlike_loras_and_none_share_a_forward_and_draw_as_alone(
    load_qwen: Load, folder: Path
) -> None:
    family = load_qwen("qwen-edit", lora_folder=str(folder))
    requests = [
        want("make it red", images=(scene(),), seed=1, loras=(LoraUse(name="ink"),)),
        want("remove the boat", images=(scene(turn=0.5),), seed=2),
        want(images=(scene(),), seed=3, true_cfg_scale=1.0, loras=(LoraUse(name="fast"),)),
        want(
            images=(scene(turn=0.2),),
            seed=4,
            loras=(LoraUse(name="fast", weight=-0.5), LoraUse(name="ink", weight=0.3)),
        ),
    ]
    assert len({state.batch_key for state in states_of(family, *requests)}) == 1
    together = draw(family, *requests)
    for picture, request in zip(together, requests, strict=True):
        assert difference(picture, draw(family, request)[0]) <= 0.01


def test_layers_that_see_all_rows_twice_adapt_each_row_both_times() -> None:
    torch.manual_seed(0)
    transformer = QwenImageTransformer2DModel(
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=16,
        axes_dims_rope=(4, 6, 6),
        joint_attention_dim=16,
        in_channels=16,
        out_channels=4,
        zero_cond_t=True,
    ).eval()
    made = factors(transformer, 1)
    layers = {name: LowRank(down, up) for name, (down, up) in made.items()}
    lora = Lora("a", {"transformer": layers})
    rows: list[Any] = [((lora, 1.0),), (), ((lora, -0.5),)]

    def run(picked: list[int]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        latents, texts = (torch.randn(3, n, 16, generator=generator) for n in (8, 5))
        fitted = Fitter().fitted(transformer, "transformer", [rows[k] for k in picked])
        with fitted, torch.inference_mode():
            return transformer(
                hidden_states=latents[picked],
                timestep=torch.tensor([0.3, 0.6, 0.9])[picked],
                encoder_hidden_states=texts[picked],
                img_shapes=[[(1, 2, 2), (1, 2, 2)]] * len(picked),
            ).sample

    together = run([0, 1, 2])
    alone = torch.cat([run([0]), run([1]), run([2])])
    assert torch.allclose(together, alone, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=0.1)
