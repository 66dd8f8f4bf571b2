"""Loaders: parts of hosted models by their ids and aliases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deployments.errors import UnsupportedField
from deployments.types import LoraUse
from router.apis.comfyui.node import Offer
from router.apis.comfyui.nodes import NODES
from router.apis.comfyui.nodes.loaders import (
    list_models,
    load_checkpoint,
    load_clip,
    load_diffusion_model,
    load_dual_clip,
    load_lora,
    load_model_lora,
    load_vae,
)
from router.apis.comfyui.nodes.qwen import load_model
from router.apis.comfyui.values import Clip, Model, Vae
from router.fake_models import FakeModels
from tests.router.apis.comfyui.easel import QWEN, SDXL, Easel

ALIAS = QWEN.aliases[0]


def drawing() -> Any:
    return Easel()  # of which loaders need the cards alone


def test_models_that_work_on_latents_are_offered_by_every_name() -> None:
    remote = replace(SDXL, id="remote", has_latents=False)
    keyless = replace(SDXL, id="keyless", unavailable="it has no key")
    offer = Offer(cards=(SDXL, QWEN, remote, keyless))
    assert list_models(offer) == ["sdxl-turbo", "qwen-image-edit", ALIAS]


async def test_alias_loads_the_model() -> None:
    parts = {Model(id=QWEN.id), Clip(model=QWEN.id), Vae(model=QWEN.id)}
    assert set(await load_checkpoint(drawing(), ckpt_name=ALIAS)) == parts
    assert await load_model(drawing(), model_path=ALIAS) == (
        Clip(model=QWEN.id),
        Model(id=QWEN.id),
        Vae(model=QWEN.id),
    )


async def test_parts_are_loaded_alone() -> None:
    assert await load_diffusion_model(drawing(), unet_name=ALIAS, weight_dtype="default") == (
        Model(id=QWEN.id),
    )
    assert await load_clip(drawing(), clip_name=ALIAS, type="qwen_image") == (Clip(model=QWEN.id),)
    assert await load_vae(drawing(), vae_name=ALIAS) == (Vae(model=QWEN.id),)


async def test_both_encoders_are_of_one_model() -> None:
    both = {"clip_name1": ALIAS, "clip_name2": QWEN.id}
    assert await load_dual_clip(drawing(), **both) == (Clip(model=QWEN.id),)
    with pytest.raises(UnsupportedField, match="cannot be joined"):
        await load_dual_clip(drawing(), clip_name1=SDXL.id, clip_name2=QWEN.id)


@pytest.mark.parametrize(
    ("class_type", "name", "value"),
    [
        ("UNETLoader", "weight_dtype", "fp8_e5m2"),
        ("CLIPLoader", "device", "cpu"),
        ("DualCLIPLoader", "device", "cpu"),
    ],
)
def test_what_the_host_decides_is_refused_before_it_runs(
    class_type: str, name: str, value: str
) -> None:
    check = NODES[class_type].check
    assert check is not None
    assert check(Offer(), {}) is None
    assert check(Offer(), {name: value}) == (
        name,
        f"{value!r} cannot be chosen here; accepted: 'default'",
    )


@pytest.mark.parametrize("class_type", ["LoraLoader", "LoraLoaderModelOnly"])
def test_every_model_s_loras_are_offered_by_name_and_as_files(class_type: str) -> None:
    row = NODES[class_type].find_input("lora_name")
    assert row is not None
    cards = replace(SDXL, loras=("wool", "ink")), replace(QWEN, loras=("fast", "ink"))
    names = ["fast", "ink", "wool"]
    files = [f"{name}.safetensors" for name in names]
    assert row.list_choices(Offer(cards=cards)) == names + files
    assert row.list_choices(Offer(cards=(SDXL,))) == []


async def test_loras_add_up_from_loader_to_loader() -> None:
    easel: Any = Easel(FakeModels(replace(SDXL, loras=("ink", "wool"))))
    model, clip = Model(id=SDXL.id), Clip(model=SDXL.id, skip=2)
    strengths = {"strength_model": 0.5, "strength_clip": -1.0}
    model, clip = await load_lora(easel, model=model, clip=clip, lora_name="ink", **strengths)
    (model,) = await load_model_lora(
        easel, model=model, lora_name="wool.safetensors", strength_model=2.0
    )
    ink = LoraUse(name="ink", weight=0.5, text_weight=0.0)
    wool = LoraUse(name="wool", weight=2.0, text_weight=0.0)
    assert model == Model(id=SDXL.id, loras=(ink, wool))
    assert clip == Clip(model=SDXL.id, skip=2, loras=(LoraUse(name="ink", weight=-1.0),))


async def test_a_lora_of_strength_0_is_none_and_another_model_s_is_refused() -> None:
    cards = replace(SDXL, loras=("ink",)), replace(QWEN, loras=("fast",))
    easel: Any = Easel(FakeModels(*cards))
    model = Model(id=SDXL.id)
    asked = {"model": model, "strength_model": 0.0}
    assert await load_model_lora(easel, lora_name="ink", **asked) == (model,)
    with pytest.raises(UnsupportedField, match="'sdxl-turbo' has no LoRA 'fast'; known: ink"):
        await load_model_lora(easel, lora_name="fast", **asked)
