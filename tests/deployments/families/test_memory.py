"""Memory of real modules: what is measured is what is taken, and LoRAs have their place in it."""

from __future__ import annotations

import asyncio
import gc
from contextlib import aclosing
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deployments.config import Defaults, ModelConfig
from deployments.engine.calibration import calibrate
from deployments.engine.runner import TorchRunner
from deployments.engine.share import OVERHEAD, Share
from deployments.engine.state import Row
from deployments.errors import MemoryExceeded
from deployments.families import family_class
from deployments.host import ModelHost
from deployments.opening import Reserved, open_engine
from deployments.types import GenerationRequest, GenerationResult, LoraUse
from tests.deployments.families.driver import ask, png
from tests.deployments.families.lora_making import ALL, diffusers_form, factors, write

DEFAULTS = {"width": 64, "height": 64, "num_inference_steps": 4, "guidance_scale": 4.0}


@pytest.fixture(scope="module")
def loras(load: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three LoRAs for ``sd``, of one size."""
    root = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate(("ink", "silk", "wool")):
        made = factors(load("sd").base, seed=seed, rank=8, ends=ALL, loudness=0.1)
        write(root / f"{name}.safetensors", diffusers_form(made))
    return root


def config_of(checkpoints: Path, **fields: Any) -> ModelConfig:
    return ModelConfig(
        family="stable-diffusion",
        weights=str(checkpoints / "sd"),
        device="cpu",
        num_threads=1,
        defaults=DEFAULTS,
        **fields,
    )


async def result_of(host: ModelHost, name: str, request: GenerationRequest) -> GenerationResult:
    async with aclosing(host.generate(name, request)) as news:  # type: ignore[type-var]
        async for item in news:
            if isinstance(item, GenerationResult):
                return item
    raise AssertionError("no result")


def pixels(result: GenerationResult) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(result.images[0].data)), dtype=np.float32)


@pytest.mark.parametrize("tiling", [False, True], ids=["whole", "in tiles"])
def test_larger_pictures_take_what_the_small_one_foretells(checkpoints: Path, tiling: bool) -> None:
    defaults = Defaults(width=512, height=512)
    config = config_of(checkpoints).model_copy(update={"vae_tiling": tiling, "defaults": defaults})
    family: Any = family_class("stable-diffusion").load(config, "cpu", "float32")
    if tiling:  # the family has no such option: its autoencoder stands for those that have
        family.base.vae.enable_tiling()
        family.base.vae.tile_sample_min_size = 64
        family.base.vae.tile_latent_min_size = 8
    runner = TorchRunner("cpu", 1)
    found = calibrate(family, runner, config)
    share = Share(appetite=found.appetite)
    request = ask(width=768, height=640, guidance_scale=4.0, num_inference_steps=2)
    edit = replace(
        request,
        images=(png(np.zeros((640, 768, 3))),),
        params=replace(request.params, strength=0.5),
    )
    weights = family.load_weights(None)
    _, encoded = runner.measure(family.encode, edit, weights)
    [state] = runner.run(family.encode, request, weights)
    rows = [Row(state, 0), Row(state, 1)]
    _, denoised = runner.measure(family.denoise, rows)
    _, decoded = runner.measure(family.decode, [state])
    tokens, appetite = state.tokens, found.appetite
    assert encoded <= appetite.to_encode(tokens) <= 2 * encoded
    assert denoised <= appetite.to_denoise(tokens, 2) <= 2 * denoised
    assert decoded <= appetite.to_decode(tokens) <= 2 * decoded
    assert share.bytes_of(request, found.tokens_per_pixel) >= max(denoised, decoded)
    assert share.bytes_of(edit, found.tokens_per_pixel) >= max(encoded, denoised, decoded)
    assert found.appetite.text > 0


async def test_loras_take_turns_where_memory_holds_one_beside_the_model(
    checkpoints: Path, loras: Path
) -> None:
    open_config = config_of(checkpoints, lora_folder=str(loras))
    free = ModelHost(open_config, "sd")
    requests = [
        ask(f"{k}", seed=k, loras=(LoraUse(name=name),), guidance_scale=4.0)
        for k, name in enumerate(("ink", "silk", "wool") * 2)
    ]
    alone = [await result_of(free, str(k), request) for k, request in enumerate(requests)]
    load = await free.load()
    kinds = {holding.name: holding.kind for holding in load.holdings}
    assert kinds == {"": "base", "ink": "lora", "silk": "lora", "wool": "lora"}
    one = load.lora_bytes // 3
    assert [h.num_bytes for h in load.holdings if h.kind == "lora"] == [one] * 3
    await asyncio.sleep(0.3)  # until the engine's thread has put down what it told
    gc.collect()
    evicted = await free.evict()
    assert (set(evicted.weights), evicted.num_bytes) == ({"ink", "silk", "wool"}, 3 * one)
    assert (await free.load()).lora_bytes == 0
    free.close()

    usable = load.weight_bytes + load.picture_bytes + one + one // 2
    tight = ModelHost(
        open_config.model_copy(update={"memory_bytes": round(usable / (1 - OVERHEAD))}), "sd"
    )
    most, loads = 0, []

    async def watch() -> None:
        nonlocal most
        while True:
            now = await tight.load()
            loads.append(now)
            most = max(most, now.weight_bytes + now.lora_bytes + now.work_bytes)
            await asyncio.sleep(0.001)

    watcher = asyncio.create_task(watch())
    results = await asyncio.gather(
        *(result_of(tight, str(k), request) for k, request in enumerate(requests))
    )
    watcher.cancel()
    for result, expected in zip(results, alone, strict=True):
        assert np.abs(pixels(result) - pixels(expected)).max() <= 1
    assert most <= usable + 1
    assert any(h.is_used for now in loads for h in now.holdings if h.kind == "lora")
    two = replace(requests[0], loras=(LoraUse(name="ink"), LoraUse(name="wool")))
    with pytest.raises(MemoryExceeded, match=r"for its weights and .* for LoRAs and .* a picture"):
        await result_of(tight, "two", two)
    with pytest.raises(MemoryExceeded, match="ask for a smaller picture"):
        await result_of(tight, "large", ask(width=1024, height=1024))
    tight.close()


def test_fixed_loras_are_in_the_sum_of_a_model_that_does_not_fit(
    checkpoints: Path, loras: Path
) -> None:
    with pytest.raises(ValueError, match=r"weights .* \+ .* of fixed LoRAs \+ .* default size ="):
        open_engine(
            config_of(
                checkpoints,
                lora_folder=str(loras),
                fixed_loras={"ink": 1.0},
                memory_bytes=2_000_000,
            )
        )


def test_share_on_a_cpu_is_the_memory_that_the_cluster_reserved(checkpoints: Path) -> None:
    opened = open_engine(config_of(checkpoints), Reserved(memory=10**9))
    load = opened.engine.load()
    opened.engine.stop()
    assert load.memory_bytes == 10**9
    assert load.device is not None
    assert load.device.id == "cpu"


def test_model_that_memory_does_not_hold_while_it_is_read_is_told_its_size(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(family_class("stable-diffusion"), "load", fail)
    with pytest.raises(ValueError, match=r"share of 1\.00 GiB .* its files hold .* MiB of weights"):
        open_engine(config_of(checkpoints, memory_bytes=2**30))
