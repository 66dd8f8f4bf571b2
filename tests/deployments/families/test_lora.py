"""LoRAs of requests: the pictures against stock pipelines, alone against together; what is kept."""

from __future__ import annotations

import asyncio
import copy
import gc
import itertools
import re
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from deployments import pictures
from deployments.config import ModelConfig
from deployments.errors import GenerationFailed, InvalidRequest
from deployments.families import family_class
from deployments.families.base import Family
from deployments.host import ModelHost
from deployments.types import GenerationResult, LoraUse, PromptPart, SecondPass
from tests.deployments.families.driver import ask, denoise, draw, states_of, stock
from tests.deployments.families.lora_making import (
    ALL,
    diffusers_form,
    factors,
    kohya_form,
    parts_of,
    with_stock_loras,
    write,
)

# Diffusers loads a second adapter in PEFT's way and is warned of it.
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")

STOCK = {
    "sd": diffusers.StableDiffusionPipeline,
    "sdxl": diffusers.StableDiffusionXLPipeline,
}
FAMILIES = pytest.mark.parametrize("name", STOCK)

Load = Callable[[str], Family]


@pytest.fixture(scope="module")
def folder(load: Load, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``sd`` and ``sdxl`` of LoRAs: in diffusers' form ``ink``, in kohya's ``wool``."""
    root = tmp_path_factory.mktemp("loras")
    for name in STOCK:
        (root / name).mkdir()
        base = load(name).base
        ink = factors(base, seed=1)
        write(root / name / "ink.safetensors", diffusers_form(ink))
        wool = factors(base, seed=2, rank=8, ends=ALL)
        write(root / name / "wool.safetensors", kohya_form(wool, alpha=4))
    return root


@pytest.fixture(scope="module")
def dress(checkpoints: Path, folder: Path) -> Callable[[str], Family]:
    """Load a family with its LoRAs, once."""
    loaded: dict[str, Family] = {}

    def load_once(name: str) -> Family:
        if name not in loaded:
            family = "stable-diffusion-xl" if name == "sdxl" else "stable-diffusion"
            config = ModelConfig(
                family=family,
                weights=str(checkpoints / name),
                personal={"alice": str(checkpoints / "sd-user")},
                lora_folder=str(folder / name),
            )
            loaded[name] = family_class(family).load(config, "cpu", "float32")
        return loaded[name]

    return load_once


def off(picture: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(picture - expected).max())


@FAMILIES
@pytest.mark.parametrize("lora", ["ink", "wool"], ids=["diffusers-attention", "kohya-convolutions"])
def test_a_lora_draws_the_stock_picture(dress: Load, folder: Path, name: str, lora: str) -> None:
    family, path = dress(name), folder / name / f"{lora}.safetensors"
    request = ask(loras=(LoraUse(name=lora, weight=0.8),), negative_prompt="blurry")
    expected = stock(with_stock_loras(family, {path: 0.8}), STOCK[name], request)
    [picture] = draw(family, request)
    [plain] = draw(family, ask(negative_prompt="blurry"))
    assert off(picture, expected) <= 0.05
    assert np.abs(picture - plain).mean() > 10


@FAMILIES
def test_two_loras_with_weights_of_their_own_draw_the_stock_picture(
    dress: Load, folder: Path, name: str
) -> None:
    family = dress(name)
    uses = LoraUse(name="ink", weight=-0.5, text_weight=0.7), LoraUse(name="wool", weight=0.6)
    texts = {part: 0.7 for part in parts_of(family.base) if part != "unet"}
    weights = {
        folder / name / "ink.safetensors": {"unet": -0.5, **texts},
        folder / name / "wool.safetensors": 0.6,
    }
    request = ask(loras=uses, guidance_scale=1.0)
    expected = stock(with_stock_loras(family, weights), STOCK[name], request)
    assert off(draw(family, request)[0], expected) <= 0.05


def test_layers_named_as_kohya_names_those_of_sdxl_draw_the_stock_picture(
    dress: Load, folder: Path, tmp_path: Path
) -> None:
    family = dress("sdxl")
    made = factors(family.base, seed=3, ends=ALL)
    path = write(tmp_path / "sgm.safetensors", kohya_form(made, rename=sgm_name))
    request = ask(loras=(LoraUse(name="sgm"),))
    expected = stock(with_stock_loras(family, {path: 1.0}), STOCK["sdxl"], request)
    [picture] = draw(with_loras("sdxl", family, {"sgm": path}), request)
    assert off(picture, expected) <= 0.05
    assert len(made) > 60


@FAMILIES
def test_requests_with_unlike_loras_and_none_share_a_forward_and_draw_as_alone(
    dress: Load, name: str
) -> None:
    family = dress(name)
    requests = [
        ask(seed=1, loras=(LoraUse(name="ink"),)),
        ask("a star", seed=2),
        ask("a cross", seed=3, loras=(LoraUse(name="wool", weight=0.7),), guidance_scale=1.0),
        ask(seed=4, loras=(LoraUse(name="wool", weight=-0.4), LoraUse(name="ink", weight=0.5))),
        ask(seed=1, num_inference_steps=6, num_images=2, loras=(LoraUse(name="ink"),)),
    ]
    keys = {state.batch_key for state in states_of(family, *requests)}
    together = draw(family, *requests)
    alone = [picture for request in requests for picture in draw(family, request)]
    assert len(keys) == 1
    assert len(together) == 6
    for one, other in zip(together, alone, strict=True):
        assert off(one, other) <= 0.05


def test_weight_0_is_no_lora(dress: Load) -> None:
    family = dress("sd")
    [plain], [zero] = draw(family, ask()), draw(family, ask(loras=(LoraUse(name="ink", weight=0),)))
    assert np.array_equal(plain, zero)


def test_a_lora_named_twice_counts_with_the_sum_of_its_weights(dress: Load) -> None:
    family = dress("sd")
    half = LoraUse(name="ink", weight=0.5)
    [twice] = draw(family, ask(loras=(half, half)))
    [once] = draw(family, ask(loras=(LoraUse(name="ink"),)))
    assert off(twice, once) <= 0.05


def test_the_model_is_as_before_when_a_request_with_loras_is_done(dress: Load) -> None:
    family = dress("sdxl")
    [before] = draw(family, ask())
    draw(family, ask(loras=(LoraUse(name="wool"),)))
    [after] = draw(family, ask())
    assert np.array_equal(before, after)


def test_tiled_pictures_meet_at_their_edges_in_the_lora_too(dress: Load) -> None:
    family = dress("sd")
    lora = family.loras.get("wool")
    merged = with_loras("sd", SimpleNamespace(base=copy.deepcopy(family.base)), {})
    for part, layers in lora.layers.items():
        for name, low in layers.items():
            layer = getattr(merged.base, part).get_submodule(name)
            layer.weight.data += (low.up.flatten(1) @ low.down.flatten(1)).view_as(layer.weight)
    [picture] = draw(family, ask(tiling=True, loras=(LoraUse(name="wool"),)))
    [expected] = draw(merged, ask(tiling=True))
    assert off(picture, expected) <= 0.05


def test_personal_weights_take_the_loras_of_their_base(dress: Load, folder: Path) -> None:
    family = dress("sd")
    own = SimpleNamespace(base=family.load_weights("alice").pipeline)
    request = ask(weights="alice", loras=(LoraUse(name="ink"),))
    path = folder / "sd" / "ink.safetensors"
    expected = stock(with_stock_loras(own, {path: 1.0}), STOCK["sd"], request)
    assert off(draw(family, request)[0], expected) <= 0.05


def test_a_part_s_loras_act_on_its_text_in_place_of_the_request_s(dress: Load) -> None:
    family = dress("sd")
    ink = LoraUse(name="ink")
    silent = LoraUse(name="ink", text_weight=0)
    own, none, inherited = (
        PromptPart(text="a star", **loras) for loras in ({"loras": (ink,)}, {"loras": ()}, {})
    )

    def drawn(part: PromptPart, *loras: LoraUse) -> np.ndarray:
        return draw(family, ask(parts=(part,), loras=loras, guidance_scale=1.0))[0]

    assert off(drawn(own, silent), drawn(inherited, ink)) <= 0.05
    assert off(drawn(none, ink), drawn(inherited, silent)) <= 0.05
    different = [drawn(inherited, ink), drawn(none, ink), drawn(own), drawn(none)]
    for one, other in itertools.combinations(different, 2):
        assert np.abs(one - other).mean() > 1


def test_a_second_pass_has_the_first_s_loras_unless_it_names_its_own(dress: Load) -> None:
    family, ink = dress("sdxl"), LoraUse(name="ink")
    second = {"width": 96, "height": 96, "strength": 0.5}
    requests = [
        ask(loras=(ink,), second_pass=SecondPass(**second)),
        ask(loras=(ink,), second_pass=SecondPass(**second, loras=(ink,))),
        ask(loras=(ink,), second_pass=SecondPass(**second, loras=())),
    ]
    inherited, same, none = draw_twice(family, requests)
    assert off(inherited, same) <= 0.05
    assert np.abs(inherited - none).mean() > 1


def test_fixed_loras_are_part_of_every_request_and_stay(
    checkpoints: Path, folder: Path, dress: Load
) -> None:
    family = fresh(checkpoints, folder, fixed_loras={"ink": 0.5}, max_lora_bytes=0)
    half = LoraUse(name="ink", weight=0.5)
    [fixed], [more] = draw(family, ask()), draw(family, ask(loras=(half,)))
    [expected] = draw(dress("sd"), ask(loras=(half,)))
    [expected_more] = draw(dress("sd"), ask(loras=(LoraUse(name="ink"),)))
    assert off(fixed, expected) <= 0.05
    assert off(more, expected_more) <= 0.05
    assert family.evict().weights == ()
    with pytest.raises(ValueError, match="fixed LoRA 'x' is not there; known: ink, wool"):
        fresh(checkpoints, folder, fixed_loras={"x": 1})


def test_names_are_told_and_unknown_ones_refused(dress: Load) -> None:
    family = dress("sd")
    assert family.loras.names == ("ink", "wool")
    with pytest.raises(InvalidRequest, match="unknown LoRA 'x'; known: ink, wool"):
        states_of(family, ask(loras=(LoraUse(name="x"),)))


def test_a_request_in_flight_keeps_its_lora_and_others_share_it(
    checkpoints: Path, folder: Path
) -> None:
    family = fresh(checkpoints, folder, max_lora_bytes=0)
    [state] = states_of(family, ask(loras=(LoraUse(name="ink"),)))
    ink = family.loras.get("ink")
    family.loras.get("wool")
    assert family.loras.get("ink") is ink is state.branches[0].adapters[0][0]
    family.loras.get("wool")
    family.evict()
    assert family.loras.num_bytes == ink.num_bytes > 0
    del state, ink
    gc.collect()
    assert family.loras.num_bytes == 0


def test_the_least_recently_used_leaves_first_and_evict_tells_what_left(
    checkpoints: Path, folder: Path
) -> None:
    family = fresh(checkpoints, folder)
    sizes = {name: family.loras.get(name).num_bytes for name in ("ink", "wool")}
    assert family.loras.num_bytes == sum(sizes.values())
    assert family.evict().weights == ("ink", "wool")
    tight = fresh(checkpoints, folder, max_lora_bytes=sizes["wool"])
    tight.prepare(ask(loras=(LoraUse(name="ink"), LoraUse(name="wool"))))
    assert tight.loras.num_bytes == sizes["wool"]
    evicted = tight.evict()
    assert (evicted.weights, evicted.num_bytes) == (("wool",), sizes["wool"])


def test_a_file_that_went_away_fails_the_request_alone(
    checkpoints: Path, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "gone.safetensors"
    path.write_bytes((folder / "sd" / "ink.safetensors").read_bytes())
    family = fresh(checkpoints, folder, loras={"gone": str(path)})
    path.unlink()
    with pytest.raises(GenerationFailed, match="LoRA 'gone' cannot be read"):
        states_of(family, ask(loras=(LoraUse(name="gone"),)))


def test_in_bfloat16_a_lora_is_near_float32(checkpoints: Path, folder: Path, dress: Load) -> None:
    rough = fresh(checkpoints, folder, dtype="bfloat16")
    request = ask(guidance_scale=1.0, loras=(LoraUse(name="wool", weight=0.3),))
    assert rough.loras.get("wool").layers["unet"]["conv_in"].down.dtype == torch.bfloat16
    assert np.abs(draw(rough, request)[0] - draw(dress("sd"), request)[0]).mean() < 10


async def test_a_host_draws_them_side_by_side_and_lets_go_of_them(
    checkpoints: Path, folder: Path
) -> None:
    config = ModelConfig(
        family="stable-diffusion",
        weights=str(checkpoints / "sd"),
        device="cpu",
        num_threads=1,
        lora_folder=str(folder / "sd"),
    )
    host = ModelHost(config, "sd")
    requests = [
        ask(seed=seed, num_inference_steps=20, loras=tuple(LoraUse(name=name) for name in names))
        for seed, names in enumerate([("ink",), (), ("wool",), ("ink", "wool")])
    ]
    try:
        assert (await host.card()).loras == ("ink", "wool")
        alone = [await result_of(host, request) for request in requests]
        results = await asyncio.gather(*(result_of(host, request) for request in requests))
        with pytest.raises(InvalidRequest, match="unknown LoRA 'x'"):
            await result_of(host, ask(loras=(LoraUse(name="x"),)))
        await asyncio.sleep(0.3)  # until the engine's thread has put down what it told
        gc.collect()
        evicted = await host.evict()
    finally:
        host.close()
    assert max(result.max_batch_rows for result in results) == 8
    assert set(evicted.weights) == {"ink", "wool"}
    for one, other in zip(results, alone, strict=True):
        assert off(pixels(one), pixels(other)) <= 1
    assert all(
        np.abs(pixels(one) - pixels(other)).mean() > 10
        for one, other in itertools.combinations(results, 2)
    )


def test_a_family_without_loras_refuses_the_options(folder: Path) -> None:
    config = ModelConfig(family="fake", lora_folder=str(folder))
    with pytest.raises(ValueError, match="lora_folder is not for family 'fake'"):
        ModelHost(config, "fake")


async def result_of(host: ModelHost, request: Any) -> GenerationResult:
    async with aclosing(host.generate(str(id(request)), request)) as items:
        async for item in items:
            if isinstance(item, GenerationResult):
                return item
    raise AssertionError


def pixels(result: GenerationResult) -> np.ndarray:
    return np.asarray(pictures.decode_image(result.images[0].data), np.float32)


def fresh(checkpoints: Path, folder: Path, dtype: str = "float32", **options: Any) -> Any:
    config = ModelConfig(
        family="stable-diffusion",
        weights=str(checkpoints / "sd"),
        lora_folder=str(folder / "sd"),
        **options,
    )
    return family_class("stable-diffusion").load(config, "cpu", dtype)


def with_loras(name: str, family: Any, loras: dict[str, Path]) -> Any:
    """A family over the modules of another, with these LoRAs."""
    kind = "stable-diffusion-xl" if name == "sdxl" else "stable-diffusion"
    config = ModelConfig(family=kind, loras={name: str(path) for name, path in loras.items()})
    return family_class(kind)(config, family.base)


def draw_twice(family: Family, requests: list[Any]) -> list[np.ndarray]:
    """Pictures of requests with second passes, side by side."""
    states = states_of(family, *requests)
    while not all(state.is_denoised for state in states):
        denoise(family, states)
        with torch.inference_mode():
            for state in states:
                if state.is_denoised:
                    family.follow(state)
    with torch.inference_mode():
        return [family.decode([state])[0] * 255 for state in states]


def sgm_name(name: str) -> str:
    """The name that a layer of the tiny SDXL's UNet has in Stability's own code."""
    for ours, theirs in (
        ("conv1", "in_layers.2"),
        ("conv2", "out_layers.3"),
        ("time_emb_proj", "emb_layers.1"),
        ("conv_shortcut", "skip_connection"),
    ):
        name = re.sub(rf"\.{ours}$", f".{theirs}", name)
    kinds = {"resnets": 0, "attentions": 1}
    if match := re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions)\.(\d)(.*)", name):
        way, block, kind, layer, rest = match.groups()
        place = 2 * int(block) + int(layer) + (way == "down")
        return f"{'input' if way == 'down' else 'output'}_blocks.{place}.{kinds[kind]}{rest}"
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d)(.*)", name):
        kind, layer, rest = match.groups()
        return f"middle_block.{2 * int(layer) + kinds[kind]}{rest}"
    if match := re.match(r"down_blocks\.(\d)\.downsamplers\.0\.conv", name):
        return f"input_blocks.{2 * int(match[1]) + 2}.0.op"
    if match := re.match(r"up_blocks\.(\d)\.upsamplers\.0\.conv", name):
        return f"output_blocks.{2 * int(match[1]) + 1}.2.conv"
    return {"conv_in": "input_blocks.0.0", "conv_out": "out.2"}.get(name, name)
