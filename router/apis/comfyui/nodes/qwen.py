"""The nodes of the Qwen dialect: the same work as ComfyUI's own, under other names."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from deployments.types import PromptPart, SamplingParams
from router.apis.comfyui.denoising import Denoising, plan_steps
from router.apis.comfyui.drawing import Drawing
from router.apis.comfyui.node import Input, Node
from router.apis.comfyui.nodes.latent import empty_latent, refuse_large_batch
from router.apis.comfyui.nodes.loaders import list_models
from router.apis.comfyui.nodes.sampling import (
    CFG,
    DENOISE,
    LATENT,
    NEGATIVE,
    POSITIVE,
    SAMPLER,
    SCHEDULER,
    STEPS,
    draw_over,
    sample,
    seed_input,
)
from router.apis.comfyui.nodes.vae import encode_pictures
from router.apis.comfyui.values import ANY_SEED, Clip, Conditioning, Images, Latent, Model, Vae
from router.apis.comfyui.widgets import count, image, number, pixels


async def load_model(drawing: Drawing, *, model_path: str) -> tuple[Clip, Model, Vae]:
    """All parts of a model: its text encoder, what denoises, its autoencoder."""
    variant = drawing.variant(model_path)
    return Clip(model=variant.name), Model(id=variant.name), Vae(model=variant.card.id)


async def image_to_latent(drawing: Drawing, *, image: Images, vae: Vae) -> tuple[Latent]:
    """Pictures as latents, which remember the pictures for models that edit."""
    latent = await encode_pictures(drawing, image, vae.model)
    return (replace(latent, source=await asyncio.to_thread(lambda: image.encoded)),)


async def sample_image(
    drawing: Drawing,
    *,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    transformer: Model,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    denoise: float = 1.0,
) -> tuple[Latent]:
    """What KSampler does; a seed of -1 is any."""
    return await sample(
        drawing,
        model=transformer,
        seed=drawing.draw_seed() if seed == ANY_SEED else seed,
        steps=steps,
        cfg=cfg,
        sampler_name=sampler_name,
        scheduler=scheduler,
        positive=positive,
        negative=negative,
        latent_image=latent_image,
        denoise=denoise,
    )


async def sample_edit(
    drawing: Drawing,
    *,
    seed: int,
    steps: int,
    cfg: float,
    denoise: float,
    edit_strength: float,
    transformer: Model,
    positive: Conditioning,
    negative: Conditioning,
    image: Latent,
) -> tuple[Latent]:
    """Edit pictures by an instruction.

    ``denoise`` says how much of a picture is drawn anew. ``edit_strength`` is the share of the
    instruction in what is drawn: the prediction is edit_strength times that for the instruction,
    the rest that for none, which leaves the picture as it is; so at 0 nothing is edited, at 1 all
    that the instruction says, and in between the edit grows evenly.
    """
    if denoise <= 0:
        return (image,)
    total, first = plan_steps(steps, denoise)
    asked = Denoising(
        model=transformer,
        positive=soften(positive, edit_strength),
        negative=negative,
        latent=image,
        seed=drawing.draw_seed() if seed == ANY_SEED else seed,
        cfg=cfg,
        params=SamplingParams(num_inference_steps=total, first_step=first),
    )
    return (await draw_over(drawing, asked),)


def soften(conditioning: Conditioning, share: float) -> Conditioning:
    """Texts of which a share remains, the rest being no text at all."""
    total = sum(part.weight for part in conditioning.parts)
    told = tuple(replace(part, weight=part.weight * share / total) for part in conditioning.parts)
    parts = (*told, PromptPart(text="", weight=1 - share))
    return replace(conditioning, parts=tuple(part for part in parts if part.weight))


_SEED: Final = seed_input("seed", ANY_SEED)
_TRANSFORMER: Final = Input(name="transformer", type="MODEL")

NODES: Final = (
    Node(
        class_type="QwenVLCLIPLoader",
        run=load_model,
        inputs=(Input(name="model_path", choices=list_models),),
        outputs=("CLIP", "MODEL", "VAE"),
        output_names=("clip", "transformer", "vae"),
        category="qwen",
        display_name="Load Qwen Image Edit",
        module="custom_nodes.qwen",
    ),
    Node(
        class_type="QwenVLEmptyLatent",
        run=empty_latent,
        inputs=(
            pixels("width", minimum=16, step=8),
            pixels("height", minimum=16, step=8),
            count("batch_size"),
        ),
        outputs=("LATENT",),
        category="qwen",
        display_name="Qwen Empty Latent",
        check=refuse_large_batch,
        module="custom_nodes.qwen",
    ),
    Node(
        class_type="QwenImageSamplerNode",
        run=sample_image,
        inputs=(
            _SEED,
            STEPS,
            CFG,
            SAMPLER,
            SCHEDULER,
            _TRANSFORMER,
            POSITIVE,
            NEGATIVE,
            LATENT,
            replace(DENOISE, is_optional=True),
        ),
        outputs=("LATENT",),
        category="qwen",
        display_name="Qwen Image Sampler",
        module="custom_nodes.qwen",
    ),
    Node(
        class_type="QwenVLImageToLatent",
        run=image_to_latent,
        inputs=(image(), Input(name="vae", type="VAE")),
        outputs=("LATENT",),
        category="qwen",
        display_name="Qwen Image to Latent",
        module="custom_nodes.qwen",
    ),
    Node(
        class_type="QwenImageSamplerWithEdit",
        run=sample_edit,
        inputs=(
            _SEED,
            STEPS,
            CFG,
            replace(DENOISE, options={**DENOISE.options, "default": 0.6}),
            number("edit_strength", 0.75, 0.0, 1.0),
            _TRANSFORMER,
            POSITIVE,
            NEGATIVE,
            Input(name="image", type="LATENT"),
        ),
        outputs=("LATENT",),
        category="qwen",
        display_name="Qwen Image Sampler with Edit",
        module="custom_nodes.qwen",
    ),
)
