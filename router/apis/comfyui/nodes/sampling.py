"""Nodes that denoise latents, and those that set how."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from deployments.types import SamplingParams
from router.apis.comfyui.denoising import Denoising, make_requests, plan_steps
from router.apis.comfyui.drawing import Drawing
from router.apis.comfyui.node import Input, Node
from router.apis.comfyui.samplers import SAMPLERS, SCHEDULERS
from router.apis.comfyui.values import Conditioning, Latent, Model
from router.apis.comfyui.widgets import choice, number, whole

#: Largest seed.
MAX_SEED: Final = 2**64 - 1


async def sample(
    drawing: Drawing,
    *,
    model: Model,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    denoise: float = 1.0,
) -> tuple[Latent]:
    """Draw over latents: from noise alone at ``denoise`` 1, not at all at 0."""
    if denoise <= 0:
        return (latent_image,)
    total, first = plan_steps(steps, denoise)
    asked = Denoising(
        model=model,
        positive=positive,
        negative=negative,
        latent=latent_image,
        seed=seed,
        cfg=cfg,
        sampler=sampler_name,
        scheduler=scheduler,
        params=SamplingParams(num_inference_steps=total, first_step=first),
    )
    return (await draw_over(drawing, asked),)


async def sample_advanced(
    drawing: Drawing,
    *,
    model: Model,
    add_noise: str,
    noise_seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    start_at_step: int,
    end_at_step: int,
    return_with_leftover_noise: str,
) -> tuple[Latent]:
    """Walk a part of a schedule."""
    last = min(end_at_step, steps)
    if start_at_step >= last:
        return (latent_image,)
    asked = Denoising(
        model=model,
        positive=positive,
        negative=negative,
        latent=latent_image,
        seed=noise_seed,
        cfg=cfg,
        sampler=sampler_name,
        scheduler=scheduler,
        params=SamplingParams(
            num_inference_steps=steps,
            first_step=start_at_step,
            last_step=last if last < steps else None,
            adds_noise=add_noise == "enable",
            keeps_noise=return_with_leftover_noise == "enable" and last < steps,
        ),
    )
    return (await draw_over(drawing, asked),)


def set_shift(*, model: Model, shift: float) -> tuple[Model]:
    """The model with another shift of its flow's schedule."""
    return (replace(model, shift=shift),)


async def draw_over(drawing: Drawing, asked: Denoising) -> Latent:
    """The denoised latents, with the mask and the noise that they had."""
    card = drawing.card(asked.model.id)
    requests = await asyncio.to_thread(make_requests, card, asked)
    return replace(
        asked.latent,
        pictures=await drawing.sample(requests),
        model=card.id,
        source=(),
        is_noisy=asked.params.keeps_noise,
    )


def seed_input(name: str, minimum: int = 0) -> Input:
    """A seed, which clients may draw anew after each graph."""
    return whole(name, 0, minimum, MAX_SEED, control_after_generate=True)


MODEL: Final = Input(name="model", type="MODEL")
STEPS: Final = whole("steps", 20, 1, 10000)
CFG: Final = number("cfg", 8.0, 0.0, 100.0, step=0.1, round=0.01)
SAMPLER: Final = choice("sampler_name", *SAMPLERS)
SCHEDULER: Final = choice("scheduler", *SCHEDULERS)
POSITIVE: Final = Input(name="positive", type="CONDITIONING")
NEGATIVE: Final = Input(name="negative", type="CONDITIONING")
LATENT: Final = Input(name="latent_image", type="LATENT")
DENOISE: Final = number("denoise", 1.0, 0.0, 1.0)

NODES: Final = (
    Node(
        class_type="KSampler",
        run=sample,
        inputs=(
            MODEL,
            seed_input("seed"),
            STEPS,
            CFG,
            SAMPLER,
            SCHEDULER,
            POSITIVE,
            NEGATIVE,
            LATENT,
            DENOISE,
        ),
        outputs=("LATENT",),
        category="sampling",
        display_name="KSampler",
        description="Draws latents by what two texts say: one what shall be, one what shall not.",
    ),
    Node(
        class_type="KSamplerAdvanced",
        run=sample_advanced,
        inputs=(
            MODEL,
            choice("add_noise", "enable", "disable"),
            seed_input("noise_seed"),
            STEPS,
            CFG,
            SAMPLER,
            SCHEDULER,
            POSITIVE,
            NEGATIVE,
            LATENT,
            whole("start_at_step", 0, 0, 10000),
            whole("end_at_step", 10000, 0, 10000),
            choice("return_with_leftover_noise", "disable", "enable"),
        ),
        outputs=("LATENT",),
        category="sampling",
        display_name="KSampler (Advanced)",
    ),
    Node(
        class_type="ModelSamplingAuraFlow",
        run=set_shift,
        inputs=(MODEL, number("shift", 1.73, 0.0, 100.0)),
        outputs=("MODEL",),
        category="advanced/model",
        display_name="ModelSamplingAuraFlow",
        module="comfy_extras.nodes_model_advanced",
    ),
    Node(
        class_type="ModelSamplingSD3",
        run=set_shift,
        inputs=(MODEL, number("shift", 3.0, 0.0, 100.0)),
        outputs=("MODEL",),
        category="advanced/model",
        display_name="ModelSamplingSD3",
        module="comfy_extras.nodes_model_advanced",
    ),
)
