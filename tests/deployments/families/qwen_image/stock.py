"""What diffusers' own pipelines draw: the pictures that the family's must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit_plus
from transformers import Qwen2VLProcessor

from deployments import pictures
from deployments.families.qwen_image_text import image_processor
from deployments.types import GenerationRequest

#: About what the denoiser sees of a reference in these tests; the pipeline's own is 1024 * 1024.
REFERENCE_PIXELS = 96 * 96


class Stock:
    """Stock pipelines over one set of modules, read from ``folder`` apart from the family's."""

    def __init__(self, folder: Path) -> None:
        self._base = diffusers.QwenImagePipeline.from_pretrained(folder / "qwen")
        self._processor = _processor(str(folder / "qwen-edit"), self._base.tokenizer)

    def draw(self, kind: str, request: GenerationRequest, **inputs: Any) -> np.ndarray:
        """The picture of ``QwenImage{kind}Pipeline``, (height, width, 3) in 0..255."""
        return self.draw_all(kind, request, **inputs)[0]

    def draw_all(self, kind: str, request: GenerationRequest, **inputs: Any) -> np.ndarray:
        """All pictures of a request, from generators of seed + k."""
        params = request.params
        pipeline = self.pipeline(kind)
        seeds = [params.seed + k for k in range(params.num_images)]
        options = {
            "negative_prompt": request.negative_prompt or " ",
            "true_cfg_scale": params.true_cfg_scale,
            "width": params.width,
            "height": params.height,
            "num_inference_steps": params.num_inference_steps,
            "num_images_per_prompt": params.num_images,
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "max_sequence_length": params.max_sequence_length or 512,
            "output_type": "np",
            **inputs,
        }
        if len(seeds) == 1 and kind != "":
            options["generator"] = options["generator"][0]
        return 255 * pipeline(prompt=request.prompt, **options).images

    def edit(self, request: GenerationRequest, **inputs: Any) -> np.ndarray:
        """The edit of the request's pictures, their size in the denoiser that of these tests."""
        images = [pictures.decode_image(data).convert("RGB") for data in request.images]
        own, edit_plus.VAE_IMAGE_SIZE = edit_plus.VAE_IMAGE_SIZE, REFERENCE_PIXELS
        try:
            return self.draw("EditPlus", request, image=images, **inputs)
        finally:
            edit_plus.VAE_IMAGE_SIZE = own

    def pipeline(self, kind: str) -> Any:
        """A fresh ``QwenImage{kind}Pipeline``."""
        parts = dict(self._base.components)
        parts["scheduler"] = type(parts["scheduler"]).from_config(parts["scheduler"].config)
        if kind.startswith("Edit"):
            parts["processor"] = self._processor
            parts["text_encoder"] = Positioned(parts["text_encoder"])
        pipeline = getattr(diffusers, f"QwenImage{kind}Pipeline")(**parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


class Positioned:
    """A text encoder whose calls tell which tokens are of pictures, whoever leaves that out.

    diffusers' edit pipelines do (its issue 14194): with transformers 5 the tokens of pictures have
    then not the positions of rows and columns that Qwen2.5-VL was trained with, as transformers 4
    found by itself. Of a diffusers that tells them this changes nothing.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, *, input_ids: torch.Tensor, **inputs: Any) -> Any:
        is_picture = (input_ids == self._model.config.image_token_id).int()
        return self._model(input_ids=input_ids, **{"mm_token_type_ids": is_picture, **inputs})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _processor(folder: str, tokenizer: Any) -> Any:
    """The stock processor without its videos' part, which needs torchvision even to be made."""
    processor = Qwen2VLProcessor.__new__(Qwen2VLProcessor)
    processor.image_processor, processor.tokenizer = image_processor(folder), tokenizer
    processor.video_processor = processor.chat_template = None
    processor.image_token = "<|image_pad|>"
    processor.image_token_id = tokenizer.convert_tokens_to_ids(processor.image_token)
    processor.video_token = "<|video_pad|>"
    return processor
