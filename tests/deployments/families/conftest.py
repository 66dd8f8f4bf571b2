"""Tiny checkpoints on disk."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deployments.config import ModelConfig
from deployments.families import family_class
from deployments.families.base import Family
from deployments.sketch.captions import captions
from deployments.sketch.modules import stable_diffusion, stable_diffusion_xl
from deployments.sketch.tokenizer import learn_tokenizer
from tests.deployments.families.driver import png

TINY = {"unet_widths": (8, 16), "vae_widths": (8, 8, 8, 16)}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return learn_tokenizer(itertools.islice(captions(), 200))


@pytest.fixture(scope="session")
def checkpoints(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``sd``, ``sd-inpainting``, ``sdxl`` and the personal ``sd-user``."""
    root = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    pipelines = {
        "sd": stable_diffusion(tokenizer, **TINY),
        "sd-inpainting": stable_diffusion(tokenizer, **TINY, in_channels=9),
        "sdxl": stable_diffusion_xl(tokenizer, **TINY),
        "sd-user": stable_diffusion(tokenizer, **TINY),
    }
    for name, pipeline in pipelines.items():
        _strengthen(pipeline)
        pipeline.save_pretrained(root / name)
    return root


@pytest.fixture(scope="session")
def load(checkpoints: Path) -> Callable[[str], Family]:
    """Load a family by its checkpoint's name, once."""
    loaded: dict[str, Family] = {}

    def load_once(name: str) -> Family:
        if name not in loaded:
            family = "stable-diffusion-xl" if name == "sdxl" else "stable-diffusion"
            config = ModelConfig(
                family=family,
                weights=str(checkpoints / name),
                personal={"alice": str(checkpoints / "sd-user"), "bob": str(checkpoints / "sdxl")},
            )
            loaded[name] = family_class(family).load(config, "cpu", "float32")
        return loaded[name]

    return load_once


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A 64 by 64 PNG of smooth colours."""
    y, x = np.mgrid[0:64, 0:64] / 63
    return png(np.stack([x, y, (1 - x) * y], axis=-1))


@pytest.fixture(scope="session")
def mask() -> bytes:
    """White in the middle with a soft left edge, black around."""
    gray = np.zeros((64, 64))
    gray[16:48, 16:48] = 1
    gray[16:48, 12:20] = np.linspace(0, 1, 8)
    return png(gray)


def _strengthen(pipeline: Any) -> None:
    """Make text and noise matter: fresh layers are so weak that a mistake would hardly show."""
    with torch.no_grad():
        for name, module in pipeline.unet.named_modules():
            if name.endswith("attn2.to_out.0"):
                module.weight.mul_(20)
        pipeline.unet.conv_out.weight.mul_(3)
        pipeline.vae.decoder.conv_out.weight.mul_(3)
        pipeline.vae.quant_conv.bias[4:].sub_(3)
