"""StableDiffusionXL: SDXL base checkpoints, Turbo and other distillations among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from deployments.families.latent_diffusion import LatentDiffusion
from deployments.families.text_encoder import Conditioning, TextEncoder, padded

if TYPE_CHECKING:
    from torch import Tensor

    from deployments.families.prompt import Chunk
    from deployments.types import GenerationRequest


class StableDiffusionXL(LatentDiffusion):
    """Two CLIP text encoders; the second one's pooled text and the size steer the UNet too."""

    pipeline = "StableDiffusionXLPipeline"
    omitted: ClassVar[dict[str, Any]] = {
        "feature_extractor": None,
        "image_encoder": None,
        "add_watermarker": False,
    }
    personal = ("unet", "text_encoder", "text_encoder_2")

    def embed(self, request: GenerationRequest, pipeline: Any) -> tuple[Conditioning, ...]:
        """(1, 77 k, width) per branch, with ``text_embeds`` (1, pooled) and ``time_ids`` (1, 6).

        Both encoders give their last layer but one, without its norm, as SDXL was trained;
        ``clip_skip`` above 2 goes deeper. Without a negative prompt the negative branch is zeros
        where the checkpoint's ``force_zeros_for_empty_prompt`` says so.
        """
        params = request.params
        is_guided = (params.guidance_scale or 0) > 1
        prompts = (request.prompt, request.negative_prompt)[: 2 if is_guided else 1]
        branches = _encoded(prompts, request, pipeline)
        has_zeros = pipeline.config.force_zeros_for_empty_prompt and not request.negative_prompt
        if is_guided and has_zeros:
            branches[1] = tuple(torch.zeros_like(tensor) for tensor in branches[1])
        # Original size, top left of the crop, target size, as (height, width) each.
        size = [params.height, params.width]
        time_ids = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32, device=self.device)
        return tuple(
            Conditioning(text=text, added={"text_embeds": pooled, "time_ids": time_ids})
            for text, pooled in branches
        )


def _encoded(
    prompts: tuple[str, ...], request: GenerationRequest, pipeline: Any
) -> list[tuple[Tensor, ...]]:
    """Per prompt: (1, 77 k, width) of both encoders side by side, and (1, pooled).

    The pooled text is the second encoder's for the first chunk.
    """
    encoders = (
        TextEncoder(pipeline.tokenizer, pipeline.text_encoder),
        TextEncoder(pipeline.tokenizer_2, pipeline.text_encoder_2),
    )
    layer = max(request.params.clip_skip, 2)
    texts: list[list[Chunk]] = padded(
        [e.chunks(prompt, is_weighted=request.is_weighted) for e in encoders for prompt in prompts]
    )
    n = len(prompts)
    encoded: list[tuple[Tensor, ...]] = []
    for first_chunks, second_chunks in zip(texts[:n], texts[n:], strict=True):
        _, first = encoders[0].encode(first_chunks, layer, is_normed=False)
        output, second = encoders[1].encode(second_chunks, layer, is_normed=False)
        encoded.append((torch.cat([first, second], dim=-1), output.text_embeds[:1]))
    return encoded
