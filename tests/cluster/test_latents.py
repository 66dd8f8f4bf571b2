"""Latents stay where they were made: what travels through the gateway is a reference."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from ray import ObjectRef, serve

from deployments.app import build
from deployments.types import (
    GenerationRequest,
    GenerationResult,
    Latents,
    SamplingParams,
)
from router.cluster import ServeModels
from router.models import WorkerDied, WorkerUnavailable
from router.routing import admit

ZEROS = Latents(num_images=2, width=64, height=64)
PARAMS = SamplingParams(num_inference_steps=4, seed=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root: Path = tmp_path_factory.mktemp("ray")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=str(root))
    serve.start(http_options={"location": "NoServer"})
    serve.run(build({"family": "fake"}), name="fake-model", route_prefix=None)
    yield "fake-model"
    serve.shutdown()
    ray.shutdown()


@pytest.fixture
async def models(model: str) -> AsyncIterator[ServeModels]:
    models = ServeModels("gateway")
    models.start()
    for _ in range(600):
        await asyncio.sleep(0.1)
        if models.are_ready:
            break
    assert [card.id for card in models.cards()] == [model]
    yield models
    models.stop()


async def run(models: ServeModels, asked: GenerationRequest) -> GenerationResult:
    [card] = models.cards()
    async for item in models.generate(card.id, os.urandom(8).hex(), admit(card, asked)):
        result = item
    assert isinstance(result, GenerationResult)
    return result


async def test_latents_travel_by_reference_and_come_back(models: ServeModels) -> None:
    asked = GenerationRequest(prompt="a", latents=ZEROS, gives_latents=True, params=PARAMS)
    latents = (await run(models, asked)).latents
    assert latents is not None
    assert isinstance(latents.value, ObjectRef)
    assert latents.num_bytes == (await latents.value).nbytes > 0
    decoded = await run(models, GenerationRequest(prompt="", task="decode", latents=latents))
    assert [image.width for image in decoded.images] == [64, 64]
    pictures = tuple(image.data for image in decoded.images)
    size = SamplingParams(width=64, height=64)
    encode = GenerationRequest(prompt="", task="encode", images=pictures, params=size)
    again = (await run(models, encode)).latents
    assert again is not None
    assert np.abs(await again.value - (await latents.value).clip(0, 1)).max() < 0.01


async def test_latents_that_died_with_their_replica_let_the_job_be_tried_again(
    models: ServeModels,
) -> None:
    asked = GenerationRequest(prompt="a", latents=ZEROS, gives_latents=True, params=PARAMS)
    latents = (await run(models, asked)).latents
    with pytest.raises(WorkerDied):
        await run(models, GenerationRequest(prompt="fail:exit", params=PARAMS))
    decode = GenerationRequest(prompt="", task="decode", latents=latents)
    async with asyncio.timeout(60):
        while True:
            try:
                await run(models, decode)
            except WorkerUnavailable:
                await asyncio.sleep(0.2)
            except WorkerDied as error:
                if "latents are gone" in str(error):
                    return
                await asyncio.sleep(0.2)
