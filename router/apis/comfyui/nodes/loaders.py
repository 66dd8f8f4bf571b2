"""Nodes that load models: the names are the hosted models' ids and aliases, and those of weights.

A checkpoint, a diffusion model, a text encoder and an autoencoder are each a part of one hosted
model, or of one with personal weights. What kind of text encoder it is, its precision and its
device are the host's to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from deployments.errors import UnsupportedField
from deployments.types import LoraUse
from router.apis.comfyui.drawing import Drawing
from router.apis.comfyui.node import Input, Node, Offer
from router.apis.comfyui.values import Clip, Model, Vae
from router.apis.comfyui.widgets import choice, number

LORA_EXTENSION: Final = ".safetensors"

_CLIP_TYPES: Final = (
    "stable_diffusion",
    "stable_cascade",
    "sd3",
    "stable_audio",
    "mochi",
    "ltxv",
    "pixart",
    "cosmos",
    "lumina2",
    "wan",
    "hidream",
    "chroma",
    "ace",
    "omnigen2",
    "qwen_image",
    "hunyuan_image",
    "flux2",
    "ovis",
    "longcat_image",
)
_DUAL_CLIP_TYPES: Final = (
    "sdxl",
    "sd3",
    "flux",
    "hunyuan_video",
    "hidream",
    "hunyuan_image",
    "hunyuan_video_15",
    "kandinsky5",
    "kandinsky5_image",
    "ltxv",
    "newbie",
    "ace",
)


def list_models(offer: Offer) -> list[str]:
    """Ids of the models that work on latents, then their aliases, then names of weights for them:
    the owner's, the configuration's."""
    cards = [card for card in offer.cards if card.has_latents and not card.unavailable]
    aliases = [alias for card in cards for alias in card.aliases]
    names = [one.name for one in offer.own.variants(cards)]
    return list(dict.fromkeys([*names[: len(cards)], *aliases, *names]))


async def load_checkpoint(drawing: Drawing, *, ckpt_name: str) -> tuple[Model, Clip, Vae]:
    """All parts of a model."""
    variant = drawing.variant(ckpt_name)
    return Model(id=variant.name), Clip(model=variant.name), Vae(model=variant.card.id)


async def load_diffusion_model(drawing: Drawing, *, unet_name: str, **_: str) -> tuple[Model]:
    """The part of a model that denoises."""
    return (Model(id=drawing.variant(unet_name).name),)


async def load_clip(drawing: Drawing, *, clip_name: str, **_: str) -> tuple[Clip]:
    """The text encoder of a model, of whatever type it is."""
    return (Clip(model=drawing.variant(clip_name).name),)


async def load_dual_clip(
    drawing: Drawing, *, clip_name1: str, clip_name2: str, **_: str
) -> tuple[Clip]:
    """Both text encoders of a model, which both names must mean."""
    first, second = drawing.variant(clip_name1).name, drawing.variant(clip_name2).name
    if first != second:
        raise UnsupportedField(
            f"text encoders of two models, {first!r} and {second!r}, cannot be joined; "
            "accepted: the same model in clip_name1 and clip_name2"
        )
    return (Clip(model=first),)


async def load_vae(drawing: Drawing, *, vae_name: str) -> tuple[Vae]:
    """The autoencoder of a model."""
    return (Vae(model=drawing.card(vae_name).id),)


async def load_lora(
    drawing: Drawing,
    *,
    model: Model,
    clip: Clip,
    lora_name: str,
    strength_model: float,
    strength_clip: float,
) -> tuple[Model, Clip]:
    """A model and a text encoder with a LoRA added to those that they have."""
    (model,) = await load_model_lora(
        drawing, model=model, lora_name=lora_name, strength_model=strength_model
    )
    name = _find_lora(drawing, clip.model, lora_name)
    if strength_clip == 0:
        return model, clip
    use = LoraUse(name=name, weight=strength_clip)
    return model, replace(clip, loras=(*clip.loras, use))


async def load_model_lora(
    drawing: Drawing, *, model: Model, lora_name: str, strength_model: float
) -> tuple[Model]:
    """A model with a LoRA added to those that it has; its text encoder stays as it is."""
    name = _find_lora(drawing, model.id, lora_name)
    if strength_model == 0:
        return (model,)
    use = LoraUse(name=name, weight=strength_model, text_weight=0.0)
    return (replace(model, loras=(*model.loras, use)),)


def _find_lora(drawing: Drawing, model: str, lora_name: str) -> str:
    """The LoRA, which must be one of the model's, or the owner's for it."""
    known, name = drawing.loras(model), lora_name.removesuffix(LORA_EXTENSION)
    if name not in known:
        message = f"model {model!r} has no LoRA {lora_name!r:.200}; known: "
        raise UnsupportedField(message + (", ".join(known) or "none"))
    return name


def _find_choice_of_hosts(offer: Offer, literals: Mapping[str, Any]) -> tuple[str, str] | None:  # noqa: ARG001
    """What only a model's host decides."""
    for name in ("weight_dtype", "device"):
        if (value := literals.get(name, "default")) != "default":
            return name, f"{value!r} cannot be chosen here; accepted: 'default'"
    return None


def _list_loras(offer: Offer) -> list[str]:
    """Names of all models' LoRAs and the owner's, then the same as files, as graphs from elsewhere
    name them."""
    names = sorted({name for card in offer.cards for name in offer.own.loras(card)})
    return [*names, *(f"{name}{LORA_EXTENSION}" for name in names)]


_DEVICE: Final = Input(name="device", choices=("default", "cpu"), is_optional=True)
_LORA: Final = Input(name="lora_name", choices=_list_loras)

NODES: Final = (
    Node(
        class_type="CheckpointLoaderSimple",
        run=load_checkpoint,
        inputs=(Input(name="ckpt_name", choices=list_models),),
        outputs=("MODEL", "CLIP", "VAE"),
        category="loaders",
        display_name="Load Checkpoint",
        description="All parts of a hosted model.",
    ),
    Node(
        class_type="UNETLoader",
        run=load_diffusion_model,
        inputs=(
            Input(name="unet_name", choices=list_models),
            choice("weight_dtype", "default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"),
        ),
        outputs=("MODEL",),
        category="advanced/loaders",
        display_name="Load Diffusion Model",
        check=_find_choice_of_hosts,
    ),
    Node(
        class_type="CLIPLoader",
        run=load_clip,
        inputs=(
            Input(name="clip_name", choices=list_models),
            choice("type", *_CLIP_TYPES),
            _DEVICE,
        ),
        outputs=("CLIP",),
        category="advanced/loaders",
        display_name="Load CLIP",
        check=_find_choice_of_hosts,
    ),
    Node(
        class_type="DualCLIPLoader",
        run=load_dual_clip,
        inputs=(
            Input(name="clip_name1", choices=list_models),
            Input(name="clip_name2", choices=list_models),
            choice("type", *_DUAL_CLIP_TYPES),
            _DEVICE,
        ),
        outputs=("CLIP",),
        category="advanced/loaders",
        display_name="DualCLIPLoader",
        check=_find_choice_of_hosts,
    ),
    Node(
        class_type="VAELoader",
        run=load_vae,
        inputs=(Input(name="vae_name", choices=list_models),),
        outputs=("VAE",),
        category="loaders",
        display_name="Load VAE",
    ),
    Node(
        class_type="LoraLoader",
        run=load_lora,
        inputs=(
            Input(name="model", type="MODEL"),
            Input(name="clip", type="CLIP"),
            _LORA,
            number("strength_model", 1.0, -10.0, 10.0),
            number("strength_clip", 1.0, -10.0, 10.0),
        ),
        outputs=("MODEL", "CLIP"),
        category="loaders",
        display_name="Load LoRA",
    ),
    Node(
        class_type="LoraLoaderModelOnly",
        run=load_model_lora,
        inputs=(
            Input(name="model", type="MODEL"),
            _LORA,
            number("strength_model", 1.0, -10.0, 10.0),
        ),
        outputs=("MODEL",),
        category="loaders",
        display_name="LoraLoaderModelOnly",
    ),
)
