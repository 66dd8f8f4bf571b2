"""QwenCheckpoint: a Qwen-Image read from its folder, made small if asked, and put on devices."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from diffusers import DiffusionPipeline, GGUFQuantizationConfig, QwenImageTransformer2DModel

from deployments.config import locate, variable
from deployments.families.checkpoint import read_pipeline
from deployments.families.quantization import read_quantized
from deployments.families.qwen_image_autoencoder import see_stills
from deployments.families.qwen_image_placement import Placement, place
from deployments.families.qwen_image_text import image_processor

if TYPE_CHECKING:
    from deployments.config import ModelConfig

logger = logging.getLogger(__name__)

#: diffusers' pipelines whose checkpoints are read, and whether they edit.
PIPELINES: Final = {"QwenImagePipeline": False, "QwenImageEditPlusPipeline": True}

#: Pixels that the denoiser sees of a reference, as diffusers' ``VAE_IMAGE_SIZE``.
REFERENCE_PIXELS: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class QwenCheckpoint:
    """Modules, ready to run.

    Attributes:
        pipeline: a diffusers pipeline, as the holder of its modules.
        images: Qwen2.5-VL's picture processor; None for checkpoints that do not edit.
        reference_pixels: about as many the denoiser sees of a reference; 0 is as many as of the
            output.
        placement: of the modules.
        bound_by: why no other transformer can take the place of this one; empty when one can.
    """

    pipeline: Any
    images: Any
    reference_pixels: int
    placement: Placement
    bound_by: str


def read_checkpoint(config: ModelConfig, device: str, dtype: str) -> QwenCheckpoint:
    """Read ``config.weights``. Raises ``ValueError`` for what this device or library cannot do."""
    folder = _folder(config)
    device_map = _device_map(config, device)
    _check(config, device, device_map)
    index = DiffusionPipeline.load_config(folder)
    if (name := index["_class_name"]) not in PIPELINES:
        known = ", ".join(PIPELINES)
        raise ValueError(f"{config.weights} is for {name}; this family reads: {known}")
    told = QwenImageTransformer2DModel.load_config(folder, subfolder="transformer")
    refuse_unheard_guidance(told)
    is_editor = PIPELINES[name]
    options = {"dtype": getattr(torch, dtype), **_made_small(config, folder, dtype, device)}
    if is_editor:
        # The pipeline's own processor would need torchvision, for videos.
        options["processor"] = None
    pipeline = read_pipeline(name, folder, options)
    see_stills(pipeline.vae)
    if config.vae_tiling:
        pipeline.vae.enable_tiling()
    return QwenCheckpoint(
        pipeline=pipeline,
        images=image_processor(folder) if is_editor else None,
        reference_pixels=index.get("_reference_pixels", REFERENCE_PIXELS)
        if config.reference_pixels is None
        else config.reference_pixels,
        placement=place(pipeline, config, torch.device(device), device_map),
        bound_by=_bound(config, device_map),
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
    if config.personal and (reason := _bound(config, device_map)):
        raise ValueError(f"{reason} leaves no place for personal weights")
    if device_map == "balanced" and config.offload != "none":
        raise ValueError("device_map 'balanced' places the modules itself: it takes no offload")
    if device_map == "balanced" and config.quantization == "nf4":
        raise ValueError("quantization 'nf4' reads onto one GPU: it takes no device_map 'balanced'")
    if config.gguf is not None and config.quantization != "none":
        raise ValueError("a gguf file is quantized already: it takes no quantization")
    if config.attention_slicing:
        raise ValueError(
            "attention_slicing: this model's attention never holds all of its matrix, "
            "so there is nothing to slice"
        )


def _bound(config: ModelConfig, device_map: str) -> str:
    """Why no other transformer could take this one's place; empty when one can.

    Owners' weights come whole and go to one device, like the base's own then.
    """
    reasons = {
        f"quantization {config.quantization!r}": config.quantization != "none",
        "a gguf file": config.gguf is not None,
        f"offload {config.offload!r}": config.offload != "none",
        f"device_map {device_map!r}": device_map != "cuda",
    }
    return next((reason for reason, is_so in reasons.items() if is_so), "")


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
    if path.startswith("https://"):
        return path
    folder = locate(str(Path(path).parent))
    file = Path(folder) / Path(path).name
    if not file.is_file():
        hub = "https://huggingface.co/owner/repository/blob/main/file.gguf"
        raise ValueError(f"there is no gguf file {path!r}; accepted: a path, or {hub}")
    return str(file)


def refuse_unheard_guidance(told: dict[str, Any]) -> None:
    """Raise for a guidance-distilled transformer that this diffusers has no place for.

    diffusers 0.42 has none for any: its ``QwenTimestepProjEmbeddings`` has no layer for a scale,
    whose weights would be left out, and a forward pass with one fails. Nor have the original code,
    ComfyUI or others, so there is nothing to tell what such a layer should be.

    Args:
        told: the transformer's configuration.
    """
    if not told.get("guidance_embeds"):
        return
    with torch.device("meta"):
        transformer = QwenImageTransformer2DModel.from_config({**told, "num_layers": 1})
    if "guidance" not in signature(transformer.time_text_embed.forward).parameters:
        raise ValueError(
            "the transformer's configuration says guidance_embeds: true, but diffusers' "
            f"{type(transformer).__name__} has no layer that takes a guidance scale: its forward "
            "pass fails. A model that was distilled to one scale needs none: set guidance_embeds "
            "to false there, and true_cfg_scale to 1 in the model's defaults"
        )
