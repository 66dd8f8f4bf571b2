"""Streams of OpenAI's routes, and callers that leave or come back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import httpx
import openai
import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Send

from deployments.errors import GenerationFailed
from deployments.types import GenerationRequest, GenerationResult, Progress, SamplingParams
from router.apis.openai.bodies import GenerationBody
from router.apis.openai.stream import EventResponse, EventStream, fit_preview
from router.fake_models import FakeModels, fake_card
from router.job import JobStatus
from tests.router.apis.conftest import Gateway, hang_up, openai_gateway, wait_until
from tests.router.apis.drawing import opened, picture
from tests.router.making import running


class FailingModels(FakeModels):
    """Fails midway."""

    async def generate(
        self, model: str, request_id: str, request: GenerationRequest
    ) -> AsyncIterator[Progress | GenerationResult]:
        yield Progress(step=1, num_steps=2)
        raise GenerationFailed("it did not work")


@pytest.fixture(scope="module")
def slow() -> Iterator[Gateway]:
    """A gateway whose model takes 50 ms a step."""
    with openai_gateway(step_seconds=0.05) as served:
        yield served


@pytest.fixture(params=[False, True], ids=["loose", "strict"])
def client(slow: Gateway, request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{slow.url}/v1", api_key="any", _strict_response_validation=request.param
    ) as made:
        yield made


def test_generations_stream_previews_and_then_each_picture(client: openai.OpenAI) -> None:
    started = time.monotonic()
    stream = client.images.generate(
        prompt="x",
        n=2,
        size="64x64",
        stream=True,
        partial_images=3,
        output_format="webp",
        extra_body={"num_inference_steps": 8},
    )
    events = [(time.monotonic() - started, event) for event in stream]
    kinds = [event.type for _, event in events]
    assert kinds == ["image_generation.partial_image"] * 3 + ["image_generation.completed"] * 2
    assert events[0][0] < events[-1][0] * 0.6
    assert [e.partial_image_index for _, e in events[:3]] == [0, 1, 2]
    for _, event in events:
        assert opened(event.b64_json).format == "WEBP"
        assert opened(event.b64_json).size == (64, 64)
        assert (event.size, event.output_format, event.quality) == ("64x64", "webp", "auto")
    assert events[-1][1].usage.output_tokens == 16


def test_edits_stream_under_their_own_names(client: openai.OpenAI) -> None:
    stream = client.images.edit(
        image=picture(), prompt="x", stream=True, partial_images=1, quality="low"
    )
    events = list(stream)
    assert [e.type for e in events] == ["image_edit.partial_image", "image_edit.completed"]
    assert {event.quality for event in events} == {"low"}


def test_a_stream_without_partial_images_is_one_event(client: openai.OpenAI) -> None:
    stream = client.images.generate(prompt="x", size="64x64", stream=True)
    assert [event.type for event in stream] == ["image_generation.completed"]


def test_the_wire_names_events_twice(slow: Gateway) -> None:
    body = {"prompt": "x", "size": "64x64", "stream": True, "partial_images": 1}
    answer = httpx.post(f"{slow.url}/v1/images/generations", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    for block in answer.text.strip().split("\n\n"):
        name, data = block.split("\n")
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"


def test_a_stream_that_fails_midway_raises_in_the_sdk() -> None:
    with openai_gateway(models=FailingModels(fake_card())) as gateway:
        client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any")
        stream = client.images.generate(prompt="x", size="64x64", stream=True, partial_images=1)
        with pytest.raises(openai.APIError, match="it did not work"):
            list(stream)


def test_a_stream_refuses_bad_fields_before_it_begins(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="x", stream=True, partial_images=4)
    assert caught.value.param == "partial_images"
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="x", stream=True, response_format="url")
    assert caught.value.param == "response_format"


def test_previews_take_the_pictures_size_and_format() -> None:
    assert fit_preview(picture((8, 8), kind="JPEG"), (8, 8), "jpeg")[:2] == b"\xff\xd8"
    assert fit_preview(picture((8, 8), kind="JPEG"), (16, 8), "png")[:4] == b"\x89PNG"


# -- leaving ----------------------------------------------------------------------------------


def is_last_cancelled(gateway: Gateway) -> bool:
    return gateway.jobs[-1].status is JobStatus.CANCELLED and bool(gateway.models.cancelled)


LONG = {"prompt": "x", "size": "64x64", "num_inference_steps": 150}


def test_leaving_a_stream_cancels_its_job(slow: Gateway) -> None:
    slow.models.cancelled.clear()
    body = {**LONG, "stream": True, "partial_images": 1}
    hang_up(slow.models, f"{slow.url}/v1/images/generations", json=body)
    wait_until(lambda: is_last_cancelled(slow), 6)


@pytest.mark.parametrize("path", ["generations", "edits"])
def test_leaving_a_plain_request_cancels_its_job(slow: Gateway, path: str) -> None:
    slow.models.cancelled.clear()
    sent = {"data": LONG, "files": {"images": picture()}} if path == "edits" else {"json": LONG}
    hang_up(slow.models, f"{slow.url}/v1/images/{path}", **sent)
    wait_until(lambda: is_last_cancelled(slow), 6)


async def nobody_listens(_: Message) -> None:
    await asyncio.Event().wait()


async def nobody_is_there(_: Message) -> None:
    raise OSError("nobody is there")


@pytest.mark.parametrize("is_awaited", [False, True], ids=["pointless", "awaited"])
@pytest.mark.parametrize(
    ("version", "send", "ends"),
    [
        ("2.3", nobody_listens, nullcontext()),
        ("2.4", nobody_is_there, pytest.raises(ClientDisconnect)),
    ],
    ids=["listening", "sending"],
)
async def test_leaving_before_the_first_event_cancels_unless_awaited(
    version: str, send: Send, ends: AbstractContextManager[Any], is_awaited: bool
) -> None:
    """A server tells of it by what it receives, or, from 2.4 of ASGI on, by what it cannot send."""

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async with running(FakeModels(fake_card(), step_seconds=0.05)) as inside:
        params = SamplingParams(num_inference_steps=150)
        request = GenerationRequest(prompt="x", params=params)
        job = await inside.service.submit(request, api="openai", owner="ann")
        body = GenerationBody(prompt="x", stream=True)
        stream = EventStream(service=inside.service, job=job, subject="image_generation", body=body)
        respond = EventResponse(stream, headers={}, is_awaited=is_awaited)
        with ends:
            await respond({"type": "http", "asgi": {"spec_version": version}}, receive, send)
        status = (await inside.service.get(job.id, owner="ann")).status
    assert (status is JobStatus.CANCELLED) is not is_awaited


# -- coming back ------------------------------------------------------------------------------


def test_an_idempotency_key_makes_one_job(slow: Gateway) -> None:
    num_before = len(slow.jobs)
    body = {"prompt": "once", "size": "64x64"}
    headers = {"Idempotency-Key": "one"}

    async def ask_twice() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=slow.url, headers=headers) as client:
            post = client.post
            return await asyncio.gather(
                *(post("/v1/images/generations", json=body) for _ in range(2))
            )

    first, second = asyncio.run(ask_twice())
    assert first.json() == second.json()
    assert len(slow.jobs) == num_before + 1
    other = httpx.post(f"{slow.url}/v1/images/generations", json={**body, "n": 2}, headers=headers)
    assert other.status_code == 409
    assert other.headers["x-should-retry"] == "false"


def test_an_idempotency_key_covers_forms_whatever_their_boundary(slow: Gateway) -> None:
    num_before = len(slow.jobs)
    ids = {
        httpx.post(
            f"{slow.url}/v1/images/edits",
            data={"prompt": "once"},
            files={"image": picture()},
            headers={"Idempotency-Key": "form"},
        ).headers["x-job-id"]
        for _ in range(2)
    }
    assert len(ids) == 1
    assert len(slow.jobs) == num_before + 1


def test_a_retry_after_hanging_up_gets_its_pictures(slow: Gateway) -> None:
    headers = {"Idempotency-Key": "patience"}
    body = {"prompt": "x", "size": "64x64", "num_inference_steps": 20}
    url = f"{slow.url}/v1/images/generations"
    num_before = len(slow.jobs)
    hang_up(slow.models, url, json=body, headers=headers)
    assert httpx.post(url, json=body, headers=headers, timeout=10).status_code == 200
    assert len(slow.jobs) == num_before + 1


def test_the_sdk_does_not_repeat_a_failure_of_started_work() -> None:
    with openai_gateway(models=FailingModels(fake_card())) as gateway:
        client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=2)
        with pytest.raises(openai.InternalServerError, match="it did not work") as caught:
            client.images.generate(prompt="x", size="64x64")
        assert caught.value.type == "server_error"
        assert caught.value.code == "generation_failed"
        assert len(gateway.jobs) == 1
