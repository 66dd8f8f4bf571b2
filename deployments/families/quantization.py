"""Quantization: a Qwen-Image's two large modules in eight or four bits, read as such."""

from __future__ import annotations

from typing import Any, Final

import diffusers
import torch
import transformers
from diffusers import QwenImageTransformer2DModel
from transformers import Qwen2_5_VLForConditionalGeneration

#: Layers that stay as they are: few bytes, and much hangs on them.
KEPT: Final = {
    "transformer": ["img_in", "txt_in", "time_text_embed", "norm_out", "proj_out"],
    "text_encoder": ["visual", "lm_head"],
}

#: GPUs older than this (Ada and Hopper) have no arithmetic for eight-bit floats.
_FLOAT8_CAPABILITY: Final = (8, 9)


def read_quantized(quantization: str, folder: str, dtype: str, device: str) -> dict[str, Any]:
    """``transformer`` and ``text_encoder`` of a folder or hub id, quantized while they are read.

    Args:
        quantization: ``int8`` (weights alone), ``fp8`` (on a GPU the inputs of each layer, too,
            with a scale per token) or ``nf4``.
        device: a torch device name; where they will run.
    Raises:
        ValueError: a package is missing, or the GPU has no such arithmetic, in this dtype.
    """
    if quantization == "fp8" and device.startswith("cuda") and dtype != "bfloat16":
        raise ValueError(f"quantization 'fp8' on a GPU takes dtype 'bfloat16', not {dtype!r}")
    kinds = {
        "transformer": (QwenImageTransformer2DModel, diffusers),
        "text_encoder": (Qwen2_5_VLForConditionalGeneration, transformers),
    }
    compute = getattr(torch, dtype)
    read = {}
    for part, (kind, library) in kinds.items():
        try:
            config = _config(quantization, library, part, compute, device)
        except ImportError as error:
            package = "bitsandbytes" if quantization == "nf4" else "torchao"
            message = f"quantization {quantization!r} needs a package: pip install {package}"
            raise ValueError(message) from error
        options = {"device_map": {"": device}} if quantization == "nf4" else {}
        read[part] = kind.from_pretrained(
            folder,
            subfolder=part,
            dtype=compute,
            use_safetensors=True,
            quantization_config=config,
            **options,
        ).eval()
    return read


def _config(quantization: str, library: Any, part: str, compute: torch.dtype, device: str) -> Any:
    if quantization == "nf4":
        names = "modules_to_not_convert" if library is diffusers else "llm_int8_skip_modules"
        return library.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=compute,
            **{names: KEPT[part]},
        )
    return library.TorchAoConfig(
        torchao_type(quantization, device), modules_to_not_convert=KEPT[part]
    )


def torchao_type(quantization: str, device: str) -> Any:
    """torchao's configuration of ``int8`` or ``fp8`` for a device. Raises ``ValueError`` for a GPU
    without such arithmetic."""
    from torchao import quantization as torchao

    if quantization == "int8":
        return torchao.Int8WeightOnlyConfig()
    if not device.startswith("cuda"):
        return torchao.Float8WeightOnlyConfig()
    if torch.cuda.get_device_capability(device) < _FLOAT8_CAPABILITY:
        raise ValueError("quantization 'fp8' needs a GPU of compute capability 8.9 or newer")
    return torchao.Float8DynamicActivationFloat8WeightConfig(granularity=torchao.PerRow())
