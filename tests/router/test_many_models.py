"""Jobs whose requests run on several models."""

from __future__ import annotations

import pytest

from deployments.errors import InvalidRequest, UnknownModel
from deployments.types import GenerationRequest, SamplingParams
from router.fake_models import FakeModels, fake_card
from router.store.memory_jobs import MemoryJobStore
from tests.router.making import running

ASKED = {"api": "generate", "owner": "ann"}
CARDS = (
    fake_card("a", aliases=("alpha",)),
    fake_card("b", size_multiple=32),
    fake_card("c", modes=("describe",)),
)


def request(model: str | None, **params: int) -> GenerationRequest:
    return GenerationRequest(prompt="x", model=model, params=SamplingParams(**params))


async def test_requests_run_on_the_models_that_they_name() -> None:
    models = FakeModels(*CARDS)
    async with running(models) as inside:
        asked = (request("b", width=90), request(None, width=90), request("alpha", width=90))
        job = await inside.service.run(*asked, **ASKED)
    assert job.model == "b"
    assert [(call.model, call.params.width) for call in models.calls] == [
        ("b", 96),
        ("b", 96),
        ("a", 88),
    ]


async def test_submit_refuses_when_any_model_cannot() -> None:
    async with running(FakeModels(*CARDS)) as inside:
        with pytest.raises(UnknownModel, match="'nope'; known: a, b, c"):
            await inside.service.submit(request("a"), request("nope"), **ASKED)
        with pytest.raises(InvalidRequest, match="cannot do text-to-image"):
            await inside.service.submit(request("a"), request("c"), **ASKED)
        assert not (await inside.service.list(owner="ann")).jobs


async def test_an_earlier_attempt_is_cancelled_on_every_model() -> None:
    jobs, asked = MemoryJobStore(), (request("a"), request("b"))
    async with running(FakeModels(*CARDS, step_seconds=30), jobs=jobs) as inside:
        waiting = await inside.service.submit(*asked, **ASKED)
    await jobs.claim(model="a", worker="another, dead", lease_seconds=0.0)
    models = FakeModels(*CARDS)
    async with running(models, jobs=jobs) as inside:
        await inside.service.wait(waiting.id)
    assert models.cancelled == [f"{waiting.id}."] * 2


async def test_what_a_model_says_is_the_jobs_result() -> None:
    models = FakeModels(*CARDS)
    async with running(models) as inside:
        drawn = await inside.service.run(request("a"), **ASKED)
        picture = await inside.service.image(drawn, 0)
        asked = GenerationRequest(prompt="", images=(picture,), task="describe")
        job = await inside.service.run(asked, **ASKED)
    assert (job.model, job.images) == ("c", ())
    assert job.result == {"text": "a picture of 64 by 64"}
    assert drawn.result == {}
