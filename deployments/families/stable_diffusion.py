"""StableDiffusion: Stable Diffusion 1.x checkpoints and their DreamBooth offspring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from deployments.families.latent_diffusion import LatentDiffusion
from deployments.families.text_encoder import Conditioning, TextEncoder, padded

if TYPE_CHECKING:
    from deployments.types import GenerationRequest


class StableDiffusion(LatentDiffusion):
    """One CLIP text encoder; its last hidden state steers the UNet."""

    pipeline = "StableDiffusionPipeline"
    omitted: ClassVar[dict[str, Any]] = {
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
        "requires_safety_checker": False,
    }
    personal = ("unet", "text_encoder")

    def embed(self, request: GenerationRequest, pipeline: Any) -> tuple[Conditioning, ...]:
        """(1, 77 k, width) per branch; ``clip_skip`` picks the layer, its norm the last one's."""
        encoder = TextEncoder(pipeline.tokenizer, pipeline.text_encoder)
        is_guided = (request.params.guidance_scale or 0) > 1
        prompts = (request.prompt, request.negative_prompt)[: 2 if is_guided else 1]
        texts = [encoder.chunks(prompt, is_weighted=request.is_weighted) for prompt in prompts]
        layer = request.params.clip_skip
        return tuple(
            Conditioning(text=encoder.encode(chunks, layer, is_normed=True)[1])
            for chunks in padded(texts)
        )
