"""The engine over real families: unlike requests in one batch are what the stock pipeline draws."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from deployments.engine.engine import Engine
from deployments.engine.events import Event, Failed, Finished
from deployments.engine.runner import TorchRunner
from deployments.families.base import Family
from deployments.types import GenerationRequest
from tests.deployments.families.driver import ask

#: Written out from diffusers' documentation, not from our table: a wrong row there shows here.
STOCK: dict[str, tuple[Any, dict[str, Any]]] = {
    "Euler": (diffusers.EulerDiscreteScheduler, {}),
    "Euler a": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "Heun": (diffusers.HeunDiscreteScheduler, {}),
    "DPM++ 2M": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "DPM++ 2M SDE": (
        diffusers.DPMSolverMultistepScheduler,
        {"algorithm_type": "sde-dpmsolver++"},
    ),
    "DPM++ 2M SDE Heun": (
        diffusers.DPMSolverMultistepScheduler,
        {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
    ),
    "DPM++ 3M SDE": (
        diffusers.DPMSolverMultistepScheduler,
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
    ),
    "DPM++ 2S": (diffusers.DPMSolverSinglestepScheduler, {"lower_order_final": True}),
    "DPM++ SDE": (diffusers.DPMSolverSDEScheduler, {}),
    "DPM2": (diffusers.KDPM2DiscreteScheduler, {}),
    "DPM2 a": (diffusers.KDPM2AncestralDiscreteScheduler, {}),
    "DDIM": (diffusers.DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "DDPM": (diffusers.DDPMScheduler, {"clip_sample": False}),
    "PNDM": (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
    "LMS": (diffusers.LMSDiscreteScheduler, {}),
    "UniPC": (diffusers.UniPCMultistepScheduler, {}),
    "LCM": (diffusers.LCMScheduler, {"clip_sample": False}),
    "DEIS": (diffusers.DEISMultistepScheduler, {"algorithm_type": "deis"}),
    "TCD": (diffusers.TCDScheduler, {"clip_sample": False}),
}
# torchsde compares float32 sigmas with float64 bounds; diffusers' own calls meet the same.
pytestmark = pytest.mark.filterwarnings("ignore:Should have t:UserWarning")

PIPELINES = {"sd": diffusers.StableDiffusionPipeline, "sdxl": diffusers.StableDiffusionXLPipeline}


def unlike_requests() -> list[GenerationRequest]:
    """One for each scheduler, with steps, seeds and guidance of its own."""
    return [
        ask(
            f"a star, number {n}",
            scheduler=name,
            seed=100 + n,
            num_inference_steps=3 + n % 4,
            guidance_scale=1.0 if n % 3 == 0 else 3.0 + n,
        )
        for n, name in enumerate(STOCK)
    ]


def draw_with_engine(family: Family, *requests: GenerationRequest) -> list[Finished]:
    """Everything is there before the engine starts, so that as much as can be is shared."""
    engine = Engine(family, TorchRunner("cpu", 1), max_batch_rows=64)
    ends: list[queue.Queue[Event]] = [queue.Queue() for _ in requests]
    for n, request in enumerate(requests):
        engine.add(f"r{n}", request, ends[n].put)
    engine.start()
    try:
        return [end_of(events) for events in ends]
    finally:
        engine.stop()


def end_of(events: queue.Queue[Event]) -> Finished:
    while True:
        match events.get(timeout=60):
            case Finished() as finished:
                return finished
            case Failed(error=error):
                raise error


def stock_picture(family: Any, kind: str, request: GenerationRequest) -> np.ndarray:
    params = request.params
    pipeline = PIPELINES[kind](**family.base.components)
    pipeline.set_progress_bar_config(disable=True)
    scheduler, options = STOCK[params.scheduler or ""]
    if scheduler is diffusers.DPMSolverSDEScheduler:
        options = {"noise_sampler_seed": params.seed}
    pipeline.scheduler = scheduler.from_config(family.base.scheduler.config, **options)
    pictures = pipeline(
        request.prompt,
        width=params.width,
        height=params.height,
        num_inference_steps=params.num_inference_steps,
        guidance_scale=params.guidance_scale,
        generator=torch.Generator().manual_seed(params.seed or 0),
        output_type="np",
    ).images
    return np.asarray(pictures[0])


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_a_shared_batch_draws_what_stock_draws_alone(
    kind: str, load: Callable[[str], Family]
) -> None:
    family = load(kind)
    requests = unlike_requests()
    together = draw_with_engine(family, *requests)
    assert max(end.max_batch_rows for end in together) >= len(requests)
    for request, end in zip(requests, together, strict=True):
        drawn = end.pictures[0].pixels
        difference = np.abs(drawn - stock_picture(family, kind, request)).max() * 255
        assert difference <= 1, f"{request.params.scheduler}: {difference} levels"


def test_a_picture_of_a_shared_batch_is_the_one_drawn_alone(load: Callable[[str], Family]) -> None:
    family = load("sd")
    requests = unlike_requests()
    together = draw_with_engine(family, *requests)
    for request, end in zip(requests, together, strict=True):
        (alone,) = draw_with_engine(family, request)
        assert alone.max_batch_rows <= 2
        assert np.abs(end.pictures[0].pixels - alone.pictures[0].pixels).max() * 255 <= 1
