"""QwenCheckpoint: a Qwen-Image read from its folder, made small if asked, and put on devices."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from diffusers import DiffusionPipeline, GGUFQuantizationConfig, QwenImageTransformer2DModel
from diffusers.hooks import apply_group_offloading

from deployments.config import locate, variable
from deployments.families.checkpoint import read_pipeline
from deployments.families.offload import Offload
from deployments.families.quantization import read_quantized
from deployments.families.qwen_image_autoencoder import see_stills
from deployments.families.qwen_image_text import image_processor

if TYPE_CHECKING:
    from deployments.config import ModelConfig

logger = logging.getLogger(__name__)

#: diffusers' pipelines whose checkpoints are read, and whether they edit.
PIPELINES: Final = {"QwenImagePipeline": False, "QwenImageEditPlusPipeline": True}

#: Pixels that the denoiser sees of a reference, as diffusers' ``VAE_IMAGE_SIZE``.
REFERENCE_PIXELS: Final = 1024 * 1024

#: The modules of a pipeline, and which of their own modules a call of each begins with.
ENTRANCES: Final = {
    "text_encoder": ("",),
    "transformer": ("",),
    "vae": ("encoder", "decoder", "quant_conv", "post_quant_conv"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QwenCheckpoint:
    """Modules, ready to run.

    Attributes:
        pipeline: a diffusers pipeline, as the holder of its modules.
        images: Qwen2.5-VL's picture processor; None for checkpoints that do not edit.
        reference_pixels: about as many the denoiser sees of a reference.
        devices: by the component's name, where it computes.
    """

    pipeline: Any
    images: Any
    reference_pixels: int
    devices: dict[str, torch.device]


def read_checkpoint(config: ModelConfig, device: str, dtype: str) -> QwenCheckpoint:
    """Read ``config.weights``. Raises ``ValueError`` for what this device or library cannot do."""
    folder = _folder(config)
    device_map = _device_map(config, device)
    _check(config, device, device_map)
    index = DiffusionPipeline.load_config(folder)
    if (name := index["_class_name"]) not in PIPELINES:
        known = ", ".join(PIPELINES)
        raise ValueError(f"{config.weights} is for {name}; this family reads: {known}")
    is_editor = PIPELINES[name]
    options = {"dtype": getattr(torch, dtype), **_made_small(config, folder, dtype, device)}
    if is_editor:
        # The pipeline's own processor would need torchvision, for videos.
        options["processor"] = None
    if device_map == "balanced":
        options["device_map"] = device_map
    pipeline = read_pipeline(name, folder, options)
    refuse_unheard_guidance(pipeline.transformer)
    see_stills(pipeline.vae)
    if config.vae_tiling:
        pipeline.vae.enable_tiling()
    return QwenCheckpoint(
        pipeline=pipeline,
        images=image_processor(folder) if is_editor else None,
        reference_pixels=config.reference_pixels
        or index.get("_reference_pixels", REFERENCE_PIXELS),
        devices=_place(pipeline, config, torch.device(device), device_map),
    )


def _folder(config: ModelConfig) -> str:
    """The checkpoint: ``QWEN_MODEL_DIR`` itself or a folder in it, else the configured weights."""
    if models := variable("QWEN_MODEL_DIR"):
        names = [Path(alias).name for alias in config.aliases]
        folders = [Path(models), *(Path(models) / name for name in names)]
        for folder in folders:
            if (folder / "model_index.json").is_file():
                return str(folder)
        tried = ", ".join(dict.fromkeys(map(str, folders)))
        raise ValueError(f"QWEN_MODEL_DIR holds no diffusers checkpoint; looked into: {tried}")
    if config.weights is None:
        raise ValueError(f"family {config.family!r} needs weights")
    return locate(config.weights)


def _device_map(config: ModelConfig, device: str) -> str:
    """``balanced`` over all GPUs, or ``cuda``; the environment's is a wish where there are none."""
    if config.device_map is not None:
        return config.device_map
    wish = variable("DEVICE_MAP") or "cuda"
    if wish not in ("cuda", "balanced"):
        raise ValueError(f"unknown DEVICE_MAP {wish!r}; known: cuda, balanced")
    if variable("DEVICE_MAP") and device == "cpu":
        logger.warning("DEVICE_MAP=%s, but there is no GPU to use: on the CPU", wish)
        return "cuda"
    return wish


def _check(config: ModelConfig, device: str, device_map: str) -> None:
    """Raise ``ValueError`` for what needs another device, and for what excludes each other."""
    needs_gpu = {
        "quantization 'nf4'": config.quantization == "nf4",
        "offload 'model'": config.offload == "model",
        "device_map 'balanced'": device_map == "balanced",
    }
    for what, is_asked in needs_gpu.items():
        if is_asked and not device.startswith("cuda"):
            raise ValueError(f"{what} needs a CUDA device, and this model runs on {device!r}")
    if config.personal:
        raise ValueError("family 'qwen-image' hosts no personal weights")
    if device_map == "balanced" and config.offload != "none":
        raise ValueError("device_map 'balanced' places the modules itself: it takes no offload")
    if config.gguf is not None and config.quantization != "none":
        raise ValueError("a gguf file is quantized already: it takes no quantization")
    if config.attention_slicing:
        raise ValueError(
            "attention_slicing: this model's attention never holds all of its matrix, "
            "so there is nothing to slice"
        )


def _made_small(config: ModelConfig, folder: str, dtype: str, device: str) -> dict[str, Any]:
    """The components that are not read as they are."""
    if config.gguf is not None:
        try:
            transformer = QwenImageTransformer2DModel.from_single_file(
                locate_file(config.gguf),
                config=folder,
                subfolder="transformer",
                dtype=getattr(torch, dtype),
                quantization_config=GGUFQuantizationConfig(compute_dtype=getattr(torch, dtype)),
            )
        except ImportError as error:
            raise ValueError("gguf files need a package: pip install gguf") from error
        return {"transformer": transformer.eval()}
    if config.quantization == "none":
        return {}
    return read_quantized(config.quantization, folder, dtype, device)


def locate_file(path: str) -> str:
    """A file beside the configuration's folders as an absolute path; a URL as it stands."""
    folder = locate(str(Path(path).parent))
    file = Path(folder) / Path(path).name
    return str(file) if file.is_file() else path


def _place(
    pipeline: Any, config: ModelConfig, device: torch.device, device_map: str
) -> dict[str, torch.device]:
    """Put the modules where they belong; where each computes."""
    parts = {name: getattr(pipeline, name) for name in ENTRANCES}
    if device_map == "balanced":
        return {name: part.device for name, part in parts.items()}
    if config.offload == "group":
        for part in parts.values():
            apply_group_offloading(
                part,
                onload_device=device,
                offload_device=torch.device("cpu"),
                offload_type="leaf_level",
                use_stream=device.type == "cuda",
            )
    elif config.offload == "model":
        offload = Offload(device)
        for name, part in parts.items():
            offload.add(part, [part.get_submodule(entrance) for entrance in ENTRANCES[name]])
    else:
        for name, part in parts.items():
            if not (config.quantization == "nf4" and name != "vae"):
                part.to(device)  # four-bit modules are there already
    return dict.fromkeys(parts, device)


def refuse_unheard_guidance(transformer: Any) -> None:
    """Raise for a distilled checkpoint when this diffusers' transformer has no place for its scale.

    diffusers 0.42 has not: with ``guidance_embeds`` its forward pass fails.
    """
    heard = signature(transformer.time_text_embed.forward).parameters
    if transformer.config.guidance_embeds and "guidance" not in heard:
        raise ValueError("this version of diffusers cannot run a guidance-distilled Qwen-Image")
