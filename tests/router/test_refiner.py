"""Pictures that one model begins and another one ends, over the same latents."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.errors import InvalidRequest
from deployments.types import GenerationRequest, SamplingParams
from router.fake_models import FakeModels, fake_card
from router.job import Job, JobProgress
from tests.router.making import running

CARDS = (fake_card("base"), fake_card("refiner"), fake_card("other", family="other"))


def request(steps: int = 10, **params: int) -> GenerationRequest:
    params = {"seed": 7, "num_inference_steps": steps, **params}
    return GenerationRequest(prompt="x", model="base", params=SamplingParams(**params))


def asked(*refiners: dict[str, Any] | None) -> dict[str, Any]:
    args = {"at_once": 1, "refiners": list(refiners)}
    return {"api": "sdapi", "owner": "ann", "details": {"script": "in_turn", "script_args": args}}


async def test_latents_go_from_one_model_to_the_other() -> None:
    models = FakeModels(*CARDS)
    async with running(models) as inside:
        refiner = {"model": "refiner", "switch_at": 0.35}
        job = await inside.service.run(request(num_images=2), request(), **asked(refiner, None))
    first, second, plain = models.calls
    assert [call.model for call in models.calls] == ["base", "refiner", "base"]
    assert (first.params.num_walked_steps, second.params.num_walked_steps) == (4, 6)
    assert second.latents is not None
    assert second.latents.num_images == 2
    assert plain.latents is None
    assert [image.seed for image in job.images] == [7, 8, 7]


async def test_progress_is_not_whole_before_the_end() -> None:
    async with running(FakeModels(*CARDS, step_seconds=0.02)) as inside:
        refiner = {"model": "refiner", "switch_at": 0.8}
        job = await inside.service.submit(request(), **asked(refiner))
        news = [item async for item in inside.service.watch(job.id)]
    assert isinstance(news[-1], Job)
    shares = [n.step / n.num_steps for n in news if isinstance(n, JobProgress) and n.num_steps]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert shares[-2] < 1


async def test_latents_of_another_family_end_the_job() -> None:
    async with running(FakeModels(*CARDS)) as inside:
        refiner = {"model": "other", "switch_at": 0.5}
        with pytest.raises(InvalidRequest, match="latents of family 'fake' do not fit 'other'"):
            await inside.service.run(request(), **asked(refiner))
