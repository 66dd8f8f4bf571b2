"""The embedded LoRAs: how they are made, and that the committed ones fit their model."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from deployments.families.lora_file import convert_stable_diffusion, read_layers
from deployments.sketch.assemble import WEIGHTS
from deployments.sketch.loras import BASE, FOLDER, LORAS, write_loras


def test_write_loras_writes_the_committed_files(tmp_path: Path) -> None:
    write_loras(WEIGHTS / BASE, tmp_path)
    for name in LORAS:
        made = load_file(tmp_path / f"{name}.safetensors")
        committed = load_file(WEIGHTS / FOLDER / f"{name}.safetensors")
        assert made.keys() == committed.keys()
        for key, tensor in made.items():
            assert torch.allclose(tensor.float(), committed[key].float(), rtol=0.01, atol=1e-3)


def test_committed_loras_are_small_and_fit_their_model() -> None:
    unet = UNet2DConditionModel.from_pretrained(WEIGHTS / BASE, subfolder="unet")
    files = sorted((WEIGHTS / FOLDER).iterdir())
    assert [file.stem for file in files] == sorted(LORAS)
    for file in files:
        layers = read_layers(file, {"unet": unet}, convert_stable_diffusion(unet.config))
        assert len(layers["unet"]) > 20
        assert file.stat().st_size < 500_000
