"""StableDiffusionXL: SDXL base checkpoints, Turbo and other distillations among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from deployments.families.latent_diffusion import Conditioning, LatentDiffusion

if TYPE_CHECKING:
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
        """(1, 77, width) per branch, with ``text_embeds`` (1, pooled) and ``time_ids`` (1, 6).

        Without a negative prompt the negative branch is zeros where the checkpoint's
        ``force_zeros_for_empty_prompt`` says so.
        """
        params = request.params
        is_guided = (params.guidance_scale or 0) > 1
        prompt, negative, pooled, negative_pooled = pipeline.encode_prompt(
            request.prompt,
            device=self.device,
            do_classifier_free_guidance=is_guided,
            negative_prompt=request.negative_prompt or None,
        )
        # Original size, top left of the crop, target size, as (height, width) each.
        size = [params.height, params.width]
        time_ids = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32, device=self.device)
        branches = [(prompt, pooled), (negative, negative_pooled)]
        return tuple(
            Conditioning(text=text, added={"text_embeds": pool, "time_ids": time_ids})
            for text, pool in branches[: 2 if is_guided else 1]
        )
