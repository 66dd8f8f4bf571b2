"""LoRA files: the forms that are read, and those that are refused at start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from deployments.config import ModelConfig
from deployments.families import family_class, lora_place
from deployments.families.base import Family
from deployments.families.lora_file import (
    MAX_TENSORS,
    Layers,
    convert_stable_diffusion,
    read_layers,
)
from tests.deployments.families.lora_making import (
    ALL,
    diffusers_form,
    factors,
    kohya_form,
    parts_of,
    write,
)

Load = Callable[[str], Family]

NAME = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
LAYER = f"unet.{NAME}"


def read(family: Any, path: Path, **options: Any) -> Layers:
    convert = convert_stable_diffusion(family.base.unet.config)
    return read_layers(path, parts_of(family.base), convert, **options)


def product(layers: Layers, part: str, name: str) -> torch.Tensor:
    low = layers[part][name]
    return low.up.flatten(1) @ low.down.flatten(1)


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_both_forms_hold_the_same_layers(load: Load, tmp_path: Path, name: str) -> None:
    made = factors(load(name).base, seed=1, ends=ALL)
    ours = read(load(name), write(tmp_path / "a.safetensors", diffusers_form(made)))
    kohya = read(load(name), write(tmp_path / "b.safetensors", kohya_form(made, alpha=1)))
    for part, layer in made:
        expected = product(ours, part, layer) / 4  # kohya's alpha / rank
        assert torch.allclose(product(kohya, part, layer), expected, atol=1e-6)
    assert sum(map(len, ours.values())) == len(made)


def test_shapes_alone_are_read_without_the_factors(load: Load, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", kohya_form(factors(load("sd").base, seed=1)))
    layers = read(load("sd"), path, is_meta=True)
    assert all(low.down.is_meta and low.up.is_meta for low in layers["unet"].values())


def test_an_alpha_of_every_layer_s_own_is_heeded(load: Load, tmp_path: Path) -> None:
    made = factors(load("sd").base, seed=1)
    tensors = kohya_form(made)
    alphas = [name for name in tensors if name.endswith(".alpha")]
    for n, name in enumerate(alphas):
        tensors[name] = torch.tensor(float(n))
    layers = read(load("sd"), write(tmp_path / "a.safetensors", tensors))
    for n, ((part, name), (down, up)) in enumerate(made.items()):
        assert torch.allclose(product(layers, part, name), n / 4 * up @ down, atol=1e-5)


@pytest.mark.parametrize(
    ("configuration", "factor"),
    [
        ({}, 1),
        ({"unet.lora_alpha": 8}, 2),
        ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 4),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 2}}, 0.5),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"to_q": 12, "ff": 2}}, 3),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {f"^{NAME}": 2, "to_q": 4}}, 0.5),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"^attn1.to_q": 2}}, 2),
        ({"text_encoder.lora_alpha": 8}, 1),
    ],
    ids=["none", "alpha", "rslora", "end", "ends", "whole", "not-whole", "another-part"],
)
def test_peft_s_configuration_is_heeded(
    load: Load, tmp_path: Path, configuration: dict[str, Any], factor: float
) -> None:
    down, up = factors(load("sd").base, seed=1)["unet", NAME]
    tensors = {f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": up}
    layers = read(load("sd"), write(tmp_path / "a.safetensors", tensors, **configuration))
    assert torch.allclose(product(layers, "unet", NAME), factor * up @ down, atol=1e-5)


def test_a_convolution_of_one_pixel_fits_a_linear_layer_and_the_reverse(
    load: Load, tmp_path: Path
) -> None:
    made = factors(load("sd").base, seed=1, ends=("proj_in", "conv_shortcut"))
    tensors = {
        name: t[:, :, None, None] if t.ndim == 2 else t.flatten(1)
        for name, t in diffusers_form(made).items()
    }
    layers = read(load("sd"), write(tmp_path / "a.safetensors", tensors))
    for (part, name), (down, up) in made.items():
        assert layers[part][name].down.shape == down.shape
        assert layers[part][name].up.shape == up.shape


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x.hada_w1_a": (1,)}, "it is LoHa"),
        ({"lora_unet_x.lokr_w1": (1,)}, "it is LoKr"),
        ({"lora_unet_x.dora_scale": (1,)}, "it is DoRA"),
        ({f"{LAYER}.lora_magnitude_vector": (1,)}, "it is DoRA"),
        ({"model.diffusion_model.weight": (4, 4)}, "no layer of this model"),
        ({"lora_unet_nothing.lora_down.weight": (4, 16)}, "names that mean nothing"),
        ({"transformer.x.lora_A.weight": (4, 4)}, "no layer of this model"),
        ({"lora_unet_x.lora_down.weight": (0, 16), "lora_unet_x.alpha": (2,)}, "mean nothing"),
        ({f"{LAYER}.lora_A.weight": (16,), f"{LAYER}.lora_B.weight": (16,)}, "are no matrices"),
        ({f"{LAYER}.lora_A.weight": (4, 16)}, "lacks the upper factor"),
        (
            {f"{LAYER}.lora_A.weight": (4, 16), f"{LAYER}.lora_B.bias": (16,)},
            "lacks the upper factor",
        ),
        (
            {
                f"{LAYER}.lora_A.weight": (4, 16),
                f"{LAYER}.lora_B.weight": (16, 4),
                f"{LAYER}.lora_B.bias": (16,),
            },
            "lora_B.bias, which is not supported",
        ),
        (
            {f"{LAYER}.lora_A.weight": (4, 32), f"{LAYER}.lora_B.weight": (16, 4)},
            r"shapes \(4, 32\) and \(16, 4\); this model's would have \(4, 16\) and \(16, 4\)",
        ),
        (
            {f"{LAYER}x.lora_A.weight": (4, 16), f"{LAYER}x.lora_B.weight": (16, 4)},
            "to_qx, which this model has not",
        ),
        (
            {"unet.mid_block.lora_A.weight": (4, 16), "unet.mid_block.lora_B.weight": (16, 4)},
            "no layer that can be adapted",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    load: Load, tmp_path: Path, tensors: dict[str, tuple[int, ...]], message: str
) -> None:
    path = write(tmp_path / "a.safetensors", {n: torch.ones(s) for n, s in tensors.items()})
    with pytest.raises(ValueError, match=message):
        read(load("sd"), path)


def test_a_lora_of_sdxl_is_refused_by_stable_diffusion(load: Load, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", diffusers_form(factors(load("sdxl").base, seed=1)))
    with pytest.raises(ValueError, match="it is for a model that has 'text_encoder_2'"):
        read(load("sd"), path)


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_a_configuration_that_makes_no_sense_is_refused(
    load: Load, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "a.safetensors"
    save_file(
        diffusers_form(factors(load("sd").base, seed=1)), path, {"lora_adapter_metadata": text}
    )
    with pytest.raises(ValueError, match="its configuration cannot be read"):
        read(load("sd"), path)


def test_factors_of_eight_bits_are_scaled_as_others(load: Load, tmp_path: Path) -> None:
    down, up = (
        factor.to(torch.float8_e4m3fn) for factor in factors(load("sd").base, seed=1)["unet", NAME]
    )
    tensors = {f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": up}
    path = write(tmp_path / "a.safetensors", tensors, **{"unet.lora_alpha": 8})
    low = read(load("sd"), path)["unet"][NAME]
    assert torch.equal(low.up, 2 * up.float())


def test_more_tensors_than_a_model_has_layers_for_are_refused(load: Load, tmp_path: Path) -> None:
    tensors = {f"unet.a{n}.lora_A.weight": torch.zeros(1, 1) for n in range(MAX_TENSORS + 1)}
    with pytest.raises(ValueError, match="it has 4097 tensors; accepted: at most 4096"):
        read(load("sd"), write(tmp_path / "a.safetensors", tensors))


def test_pickles_and_noise_are_not_read(load: Load, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="not a safetensors file"):
        read(load("sd"), tmp_path / "a.safetensors")


def test_a_folder_is_listed_by_its_paths_and_files_of_other_models_are_left_out(
    load: Load, checkpoints: Path, tmp_path: Path
) -> None:
    (tmp_path / "styles").mkdir()
    for name, file in (("sd", "styles/ink"), ("sdxl", "wool"), ("sd", "line.v1")):
        tensors = diffusers_form(factors(load(name).base, seed=1))
        write(tmp_path / f"{file}.safetensors", tensors)
    (tmp_path / "old.pt").write_bytes(b"")
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    other = write(tmp_path / "styles" / "x.bin.safetensors", tensors)
    family = start(checkpoints, lora_folder=str(tmp_path), loras={"mine": str(other)})
    assert family.loras.names == ("line.v1", "mine", "styles/ink", "styles/x.bin")


@pytest.mark.parametrize(
    ("loras", "message"),
    [
        ({"a": "/none/such.safetensors"}, "LoRA 'a': there is no file '/none/such.safetensors'"),
        ({"a": "sd-user"}, "LoRA 'a': there is no file 'sd-user'"),
        ({"a": "{folder}/a.bin"}, "LoRA 'a': 'a.bin' is no .safetensors file"),
        ({"a": "{folder}"}, "LoRA 'a' needs the name of one .safetensors file; there are: none"),
        ({"a": "{folder}/full"}, "LoRA 'a' does not fit this model: it is not a safetensors file"),
    ],
)
def test_a_lora_that_the_configuration_names_must_be_there_and_fit(
    checkpoints: Path, tmp_path: Path, loras: dict[str, str], message: str
) -> None:
    (tmp_path / "a.bin").write_bytes(b"")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match=message):
        start(checkpoints, loras={n: s.format(folder=tmp_path) for n, s in loras.items()})


@pytest.mark.parametrize("source", ["ann/inks", "ann/inks/styles/ink.safetensors"])
def test_a_hub_s_file_is_named_or_the_only_one(
    load: Load, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    path = write(tmp_path / "ink.safetensors", diffusers_form(factors(load("sd").base, seed=1)))
    asked = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(path)

    listed = ["README.md", "ink.safetensors", "checkpoint/x.safetensors"]
    monkeypatch.setattr(lora_place, "list_repo_files", lambda repository: listed)
    monkeypatch.setattr(lora_place, "hf_hub_download", download)
    assert start(checkpoints, loras={"a": source}).loras.names == ("a",)
    [(repository, file)] = asked
    assert (repository, Path(file).name) == ("ann/inks", "ink.safetensors")


def test_a_folder_that_is_not_there_is_told(checkpoints: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder 'none/such' of LoRAs"):
        start(checkpoints, lora_folder="none/such")


def start(checkpoints: Path, **options: Any) -> Family:
    config = ModelConfig(family="stable-diffusion", weights=str(checkpoints / "sd"), **options)
    return family_class("stable-diffusion").load(config, "cpu", "float32")
