"""Graphs that tests send, as their clients would."""

from __future__ import annotations

from typing import Any

Graph = dict[str, dict[str, Any]]


def flat(color: int = 0, *, output: str = "SaveImage") -> Graph:
    """A picture of one colour: no model has anything to do."""
    given: dict[str, Any] = {"images": ["1", 0]}
    if output == "SaveImage":
        given["filename_prefix"] = "flat"
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": color},
        },
        "9": {"class_type": output, "inputs": given},
    }


def drawn(text: str = "a lighthouse", *, seed: int = 1, steps: int = 4) -> Graph:
    """ComfyUI's own first example, small."""
    sampled = {
        "seed": seed,
        "steps": steps,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
        "model": ["4", 0],
        "positive": ["6", 0],
        "negative": ["7", 0],
        "latent_image": ["5", 0],
    }
    return {
        "3": {"class_type": "KSampler", "inputs": sampled},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sdxl-turbo"}},
        "5": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1},
        },
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": text, "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {
            "class_type": "SaveImage",
            "inputs": {"filename_prefix": "drawn", "images": ["8", 0]},
        },
    }
