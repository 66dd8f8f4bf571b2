"""Where a model's LoRAs come from, by its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from deployments.families.lora import Loras
from deployments.families.lora_file import Convert
from deployments.families.lora_shelf import Shelf

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

    from deployments.config import ModelConfig


def open_loras(
    config: ModelConfig,
    modules: Mapping[str, Module],
    convert: Convert,
    device: torch.device | None = None,
) -> Loras:
    """The LoRAs of ``config.loras`` and of ``config.lora_folder``; a name in both is the former's.

    ``device`` is where the modules compute when that is not where they are.
    Raises ``ValueError`` naming a LoRA that is not there or does not fit; those of the folder that
    do not fit are left out, since many models may share one folder.
    """
    return Loras(
        Shelf(modules, convert, config.loras, config.lora_folder),
        modules,
        max_bytes=config.max_lora_bytes,
        fixed=config.fixed_loras,
        device=device,
    )
