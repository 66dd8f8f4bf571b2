"""Makes the embedded LoRAs: ``python -m deployments.sketch.loras [folder]``.

They are random turns of the layers that they adapt, each from a seed of its own: on a model that
draws something they are a style without a name, and on whatever model they show that LoRAs work.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from deployments.sketch.assemble import WEIGHTS

#: Name -> seed, ends of the names of the UNet's layers that it adapts, and how loud it is.
LORAS: Final[dict[str, tuple[int, tuple[str, ...], float]]] = {
    "marble": (11, ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"), 0.6),
    "woven": (12, ("conv1", "conv2", "conv_shortcut"), 0.4),
}
#: Folder of the pipeline that they are for.
BASE: Final = "sdxl-turbo"
#: Folder of the LoRAs.
FOLDER: Final = "loras"
RANK: Final = 4


def write_loras(base: Path, folder: Path) -> None:
    """Write every LoRA for the pipeline in ``base`` under ``folder``, in diffusers' form."""
    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet", use_safetensors=True)
    folder.mkdir(parents=True, exist_ok=True)
    for name, (seed, ends, loudness) in LORAS.items():
        tensors = turned(unet, seed, ends, loudness)
        save_file(tensors, folder / f"{name}.safetensors", {"format": "pt"})


def turned(unet: Any, seed: int, ends: tuple[str, ...], loudness: float) -> dict[str, torch.Tensor]:
    """Factors in float16 whose product is ``loudness`` times as long as the layer's own weight."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, layer in unet.named_modules():
        if not name.endswith(ends):
            continue
        weight = layer.weight.float()
        down = torch.randn(RANK, *weight.shape[1:], generator=generator)
        up = torch.randn(len(weight), RANK, *[1] * (weight.ndim - 2), generator=generator)
        length = (up.flatten(1) @ down.flatten(1)).norm()
        up = up * (loudness * weight.norm() / length)
        tensors[f"unet.{name}.lora_A.weight"] = down.half()
        tensors[f"unet.{name}.lora_B.weight"] = up.half()
    return tensors


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else WEIGHTS
    write_loras(WEIGHTS / BASE, root / FOLDER)
