"""Makes LoRA files in the forms that are shared, and stock pipelines that have them loaded."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn import Conv2d, Linear, Module

#: Prefix of a part's layers in kohya's form; with one text encoder it is ``te``.
_KOHYA = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}

#: Ends of the names of the layers that LoRAs usually adapt.
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")
#: What else trainers of convolutions adapt.
ALL = (
    *ATTENTION,
    *("ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "fc1", "fc2"),
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj", "samplers.0.conv", "conv_in", "conv_out"),
)

Factors = Mapping[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]


def parts_of(pipeline: Any) -> dict[str, Module]:
    parts = ("unet", "text_encoder", "text_encoder_2")
    return {part: getattr(pipeline, part) for part in parts if hasattr(pipeline, part)}


def factors(
    pipeline: Any, *, seed: int, rank: int = 4, ends: Iterable[str] = ATTENTION, loudness: float = 1
) -> Factors:
    """Random factors, strong enough to be seen, of every layer whose name ends so."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for part, module in parts_of(pipeline).items():
        for name, layer in module.named_modules():
            if not name.endswith(tuple(ends)) or not isinstance(layer, Linear | Conv2d):
                continue
            down = torch.randn(rank, *layer.weight.shape[1:], generator=generator)
            up = torch.randn(len(layer.weight), rank, generator=generator)
            up = up[:, :, None, None] if isinstance(layer, Conv2d) else up
            down, up = down / down[0].numel() ** 0.5, up * loudness / rank**0.5
            made[part, name] = down, up
    return made


def diffusers_form(made: Factors) -> dict[str, torch.Tensor]:
    tensors = {}
    for (part, name), (down, up) in made.items():
        tensors[f"{part}.{name}.lora_A.weight"] = down
        tensors[f"{part}.{name}.lora_B.weight"] = up
    return tensors


def kohya_form(
    made: Factors, *, alpha: float = 2, rename: Callable[[str], str] = lambda name: name
) -> dict[str, torch.Tensor]:
    is_xl = any(part == "text_encoder_2" for part, _ in made)
    tensors = {}
    for (part, name), (down, up) in made.items():
        prefix = _KOHYA[part] if is_xl else _KOHYA[part].removesuffix("1")
        text = "" if part == "unet" else "text_model_"
        layer = f"{prefix}_{text}{rename(name).removeprefix('text_model.').replace('.', '_')}"
        tensors[f"{layer}.lora_down.weight"] = down
        tensors[f"{layer}.lora_up.weight"] = up
        tensors[f"{layer}.alpha"] = torch.tensor(float(alpha))
    return tensors


def write(path: Path, tensors: dict[str, torch.Tensor], **configuration: Any) -> Path:
    """A LoRA file; ``configuration`` is PEFT's, with names such as ``unet.lora_alpha``."""
    metadata = {"format": "pt"}
    if configuration:
        metadata["lora_adapter_metadata"] = json.dumps(configuration)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path


def with_stock_loras(family: Any, uses: Mapping[Path, Any]) -> Any:
    """What ``driver.stock`` takes: a copy of the family's pipeline with diffusers' own LoRAs.

    ``uses`` is file -> weight, or diffusers' weights by part.
    """
    components = {
        name: copy.deepcopy(part) if isinstance(part, Module) else part
        for name, part in family.base.components.items()
    }
    pipeline = type(family.base)(**components)
    for path in uses:
        pipeline.load_lora_weights(
            str(path.parent), weight_name=path.name, adapter_name=path.stem.replace(".", "_")
        )
    pipeline.set_adapters([path.stem.replace(".", "_") for path in uses], list(uses.values()))
    return SimpleNamespace(base=pipeline)
