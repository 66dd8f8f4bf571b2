"""StableDiffusion: Stable Diffusion 1.x checkpoints and their DreamBooth offspring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from deployments.families.latent_diffusion import Conditioning, LatentDiffusion

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
        """(1, 77, width) per branch; longer prompts are cut at 77 tokens, as diffusers does."""
        is_guided = (request.params.guidance_scale or 0) > 1
        prompt, negative = pipeline.encode_prompt(
            request.prompt, self.device, 1, is_guided, request.negative_prompt or None
        )
        texts = (prompt, negative) if is_guided else (prompt,)
        return tuple(Conditioning(text=text) for text in texts)
