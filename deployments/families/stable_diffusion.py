"""StableDiffusion: Stable Diffusion 1.x checkpoints and their DreamBooth offspring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from deployments.families.latent_diffusion import LatentDiffusion
from deployments.families.text_encoder import Conditioning, TextEncoder, embedded
from deployments.families.wording import Wording, parts_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deployments.families.prompt import Chunk
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
        """(1, 77 k, width) per part; ``clip_skip`` picks the layer, its norm the last one's."""
        encoder = TextEncoder(pipeline.tokenizer, pipeline.text_encoder)

        def encode(wording: Wording, texts: Sequence[list[Chunk]]) -> Conditioning:
            [chunks], skip, notation = texts, wording.clip_skip, request.notation
            with self.text_adapted(pipeline, wording.loras):
                _, text = encoder.encode(chunks, skip, notation, is_normed=True)
            return Conditioning(text=text)

        return embedded(request, parts_of(request), [encoder], encode)
