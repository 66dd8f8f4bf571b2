"""A tiny Qwen-Image and a tiny Qwen-Image-Edit on disk, our families of them and the stock ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import QwenImagePipeline

from deployments.config import ModelConfig
from deployments.families import family_class
from deployments.families.base import Family
from deployments.sketch.captions import captions
from deployments.sketch.qwen_image import (
    QwenSizes,
    qwen_image_edit,
    qwen_tokenizer,
    write_processor,
)
from tests.deployments.families.qwen_image.stock import REFERENCE_PIXELS, Stock

TINY = QwenSizes(
    layers=2,
    heads=2,
    axes=(4, 6, 6),
    text_width=64,
    vision_width=32,
    vae_width=8,
    latents_mean=None,
    latents_std=None,
)


@pytest.fixture(scope="session")
def qwen_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``qwen`` and ``qwen-edit``, of the same modules."""
    root = tmp_path_factory.mktemp("qwen")
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer(itertools.islice(captions(), 200))
    editor = qwen_image_edit(tokenizer, TINY)
    _strengthen(editor)
    editor.save_pretrained(root / "qwen-edit")
    write_processor(tokenizer, root / "qwen-edit")
    parts = {name: part for name, part in editor.components.items() if name != "processor"}
    QwenImagePipeline(**parts).save_pretrained(root / "qwen")
    return root


@pytest.fixture(scope="session")
def load_qwen(qwen_checkpoints: Path) -> Callable[..., Family]:
    """Load the family of a checkpoint by its name, once for each configuration."""
    loaded: dict[Any, Family] = {}

    def load(name: str, **changes: Any) -> Family:
        key = name, *sorted(changes.items())
        if key not in loaded:
            config = ModelConfig(
                family="qwen-image",
                weights=str(qwen_checkpoints / name),
                **{"reference_pixels": REFERENCE_PIXELS, **changes},
            )
            loaded[key] = family_class("qwen-image").load(config, "cpu", "float32")
        return loaded[key]

    return load


@pytest.fixture(scope="session")
def stock_qwen(qwen_checkpoints: Path) -> Stock:
    """diffusers' own pipelines on modules of their own."""
    return Stock(qwen_checkpoints)


def _strengthen(pipeline: Any) -> None:
    """Make text and noise matter: fresh layers are so weak that a mistake would hardly show."""
    with torch.no_grad():
        for name, module in pipeline.transformer.named_modules():
            if name.endswith(("to_out.0", "to_add_out", "img_mod.1", "txt_mod.1")):
                module.weight.mul_(4)
        pipeline.transformer.proj_out.weight.mul_(4)
        pipeline.vae.decoder.conv_out.weight.mul_(6)
        pipeline.vae.quant_conv.bias[16:].sub_(2)
