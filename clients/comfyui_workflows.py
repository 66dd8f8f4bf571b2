"""The two workflows of the course: a picture from text, and an edit of a picture."""

from __future__ import annotations

import secrets
from typing import Any, Final

#: The model as its loader names it.
QWEN: Final = "Qwen-Image-Edit-2509-FP8"


def text2image_workflow(
    prompt: str,
    negative_prompt: str = "",
    *,
    width: int = 512,
    height: int = 512,
    steps: int = 20,
    cfg: float = 7.0,
    seed: int = -1,
    batch_size: int = 1,
    sampler_name: str = "euler_ancestral",
    scheduler: str = "normal",
    model: str = QWEN,
    filename_prefix: str = "Qwen_T2I",
) -> dict[str, Any]:
    """A picture from text, in the API format; a seed of -1 draws one."""
    return {
        "1": _node("QwenVLCLIPLoader", model_path=model),
        "2": _node("TextEncodeQwenImageEdit", text=prompt, clip=["1", 0]),
        "3": _node("TextEncodeQwenImageEdit", text=negative_prompt, clip=["1", 0]),
        "4": _node("QwenVLEmptyLatent", width=width, height=height, batch_size=batch_size),
        "5": _node(
            "QwenImageSamplerNode",
            seed=_seed(seed),
            steps=steps,
            cfg=cfg,
            sampler_name=sampler_name,
            scheduler=scheduler,
            transformer=["1", 1],
            positive=["2", 0],
            negative=["3", 0],
            latent_image=["4", 0],
        ),
        "6": _node("VAEDecode", samples=["5", 0], vae=["1", 2]),
        "7": _node("SaveImage", filename_prefix=filename_prefix, images=["6", 0]),
    }


def edit_workflow(
    image: str,
    prompt: str,
    negative_prompt: str = "",
    *,
    denoise: float = 0.6,
    edit_strength: float = 1.0,
    steps: int = 25,
    cfg: float = 7.5,
    seed: int = -1,
    model: str = QWEN,
    filename_prefix: str = "Qwen_I2I",
) -> dict[str, Any]:
    """An edit of an uploaded picture, by the name that the upload gave."""
    return {
        "1": _node("LoadImage", image=image),
        "2": _node("QwenVLCLIPLoader", model_path=model),
        "3": _node("QwenVLImageToLatent", image=["1", 0], vae=["2", 2]),
        "4": _node("TextEncodeQwenImageEdit", text=prompt, clip=["2", 0]),
        "5": _node("TextEncodeQwenImageEdit", text=negative_prompt, clip=["2", 0]),
        "6": _node(
            "QwenImageSamplerWithEdit",
            seed=_seed(seed),
            steps=steps,
            cfg=cfg,
            denoise=denoise,
            edit_strength=edit_strength,
            transformer=["2", 1],
            positive=["4", 0],
            negative=["5", 0],
            image=["3", 0],
        ),
        "7": _node("VAEDecode", samples=["6", 0], vae=["2", 2]),
        "8": _node("SaveImage", filename_prefix=filename_prefix, images=["7", 0]),
    }


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def _seed(seed: int) -> int:
    return secrets.randbelow(2**32) if seed < 0 else seed
