"""A denoising loop written out over diffusers' parts, to compare ours with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from deployments.families import schedulers
from deployments.types import GenerationRequest


class StockLoop:
    """Diffusers' parts of a family, to write loops with: one picture, guided.

    Attributes:
        generator: the request's, nothing drawn yet.
    """

    def __init__(self, family: Any, request: GenerationRequest) -> None:
        params = request.params
        self.unet = family.base.unet
        self.scale = params.guidance_scale
        self.scheduler = schedulers.build(
            params.scheduler, params.sigmas, family.base.scheduler.config, params.seed
        )
        self.scheduler.set_timesteps(params.num_inference_steps)
        self.family = family
        self.size = [params.height, params.width]
        self.prompts = [request.negative_prompt, request.prompt]
        self.weights = [1.0]
        self.generator = torch.Generator().manual_seed(params.seed)

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, prompts: Sequence[str] | None = None
    ) -> torch.Tensor:
        """The guided prediction; ``prompts`` are the negative one and the others."""
        scaled = self.scheduler.scale_model_input(latents, timestep)
        negative, *positive = (
            self._row(scaled, timestep, prompt) for prompt in prompts or self.prompts
        )
        ways = zip(self.weights, positive, strict=True)
        return negative + self.scale * sum(weight * (one - negative) for weight, one in ways)

    def _row(self, scaled: torch.Tensor, timestep: torch.Tensor, prompt: str) -> torch.Tensor:
        texts = self.family.base.encode_prompt(
            prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        added = {}
        if len(texts) > 2:
            times = torch.tensor([[*self.size, 0, 0, *self.size]]).float()
            added = {"text_embeds": texts[2], "time_ids": times}
        return self.unet(
            scaled, timestep, encoder_hidden_states=texts[0], added_cond_kwargs=added
        ).sample

    def draw(self, prompts: Callable[[int], Sequence[str]] | None = None) -> torch.Tensor:
        """Text-to-image latents; ``prompts`` tells those of a step."""
        shape = (1, 4, self.size[0] // 8, self.size[1] // 8)
        latents = torch.randn(shape, generator=self.generator) * self.scheduler.init_noise_sigma
        with torch.inference_mode():
            for step, timestep in enumerate(self.scheduler.timesteps):
                prediction = self.predict(latents, timestep, prompts(step) if prompts else None)
                latents = self.scheduler.step(prediction, timestep, latents).prev_sample
        return latents
