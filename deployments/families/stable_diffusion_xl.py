"""StableDiffusionXL: SDXL base checkpoints, Turbo and other distillations among them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from deployments.families.latent_diffusion import LatentDiffusion
from deployments.families.text_encoder import Conditioning, TextEncoder, embedded
from deployments.families.wording import Part, Wording, parts_of

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        """(1, 77 k, width) per part, with ``text_embeds`` (1, pooled) and ``time_ids`` (1, 6).

        Both encoders give their last layer but one, without its norm, as SDXL was trained;
        ``clip_skip`` above 2 goes deeper. The pooled text is the second encoder's for the first
        chunk. Without a negative prompt the negative branch is zeros where the checkpoint's
        ``force_zeros_for_empty_prompt`` says so.
        """
        first = TextEncoder(pipeline.tokenizer, pipeline.text_encoder)
        second = TextEncoder(pipeline.tokenizer_2, pipeline.text_encoder_2)
        # Original size, top left of the crop, target size, as (height, width) each.
        size = [request.params.height, request.params.width]
        time_ids = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32, device=self.device)

        def encode(wording: Wording, texts: Sequence[list[Chunk]]) -> Conditioning:
            layer, notation = max(wording.clip_skip, 2), request.notation
            with self.text_adapted(pipeline, wording.loras):
                _, one = first.encode(texts[0], layer, notation, is_normed=False)
                output, other = second.encode(texts[1], layer, notation, is_normed=False)
            added = {"text_embeds": output.text_embeds[:1], "time_ids": time_ids}
            return Conditioning(text=torch.cat([one, other], dim=-1), added=added)

        parts = parts_of(request)
        if pipeline.config.force_zeros_for_empty_prompt and not request.negative_parts:
            parts = [_zeroed_if_empty(part) for part in parts]
        return embedded(request, parts, [first, second], encode)


def _zeroed_if_empty(part: Part) -> Part:
    """A negative part without text as zeros."""
    if not part.is_negative or any(wording.text for wording in part.wordings):
        return part
    return replace(part, wordings=(replace(part.wordings[0], is_zeroed=True),))
