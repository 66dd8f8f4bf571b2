"""One replica's host over the fake family: no Ray, no torch."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from PIL import Image

from deployments.config import LiveConfig, ModelConfig
from deployments.errors import AtelierError, Cancelled, InvalidRequest, NumericalFailure
from deployments.host import NEWS_SECONDS, ModelHost
from deployments.types import (
    GenerationRequest,
    GenerationResult,
    Latents,
    Progress,
    SamplingParams,
    WeightsSource,
)


@pytest.fixture
async def host() -> AsyncIterator[ModelHost]:
    host = ModelHost(
        ModelConfig(family="fake", step_seconds=0.01, personal={"ann": "x"}, aliases=("alias",)),
        "fake-model",
        max_ongoing_requests=7,
    )
    yield host
    host.close()


def request(prompt: str = "a star", steps: int = 5, **fields: object) -> GenerationRequest:
    params = SamplingParams(
        width=64,
        height=48,
        num_inference_steps=steps,
        guidance_scale=1.0,
        strength=0.8,
        scheduler="Euler",
        sigmas="normal",
        seed=1,
    )
    return GenerationRequest(prompt=prompt, params=params, **fields)  # type: ignore[arg-type]


async def test_generate_tells_progress_and_then_the_result(host: ModelHost) -> None:
    news = [item async for item in host.generate("r", request(steps=40))]
    *progress, result = news
    assert all(isinstance(item, Progress) for item in progress)
    assert progress
    assert isinstance(result, GenerationResult)
    picture = result.images[0]
    image = Image.open(io.BytesIO(picture.data))
    assert (image.format, image.size, picture.seed) == ("PNG", (64, 48), 1)
    assert result.model == "fake-model"


async def test_news_of_steps_come_no_more_often_than_is_worth_telling(host: ModelHost) -> None:
    news = [item async for item in host.generate("r", request(steps=40))]
    assert 2 <= len(news) <= 1 + 40 * 0.03 / NEWS_SECONDS


async def test_latents_are_told_with_their_size(host: ModelHost) -> None:
    asked = request(latents=Latents(num_images=1, width=64, height=48), gives_latents=True)
    *_, result = [item async for item in host.generate("r", asked)]
    assert isinstance(result, GenerationResult)
    assert result.images == ()
    told = result.latents
    assert told is not None
    assert (told.num_images, told.width, told.height, told.family) == (1, 64, 48, "fake")
    assert told.value.shape == (1, 3, 6, 8)
    assert told.num_bytes == told.value.nbytes
    [decoded] = [i async for i in host.generate("d", request("", latents=told, task="decode"))]
    assert isinstance(decoded, GenerationResult)
    assert (decoded.images[0].width, decoded.images[0].height) == (64, 48)


async def test_every_preview_is_told(host: ModelHost) -> None:
    news = [item async for item in host.generate("r", request(num_previews=2))]
    previews = [item.preview for item in news if isinstance(item, Progress) and item.preview]
    assert len(previews) == 2
    assert all(Image.open(io.BytesIO(data)).format == "JPEG" for data in previews)


async def test_closing_the_iterator_cancels(host: ModelHost) -> None:
    news = host.generate("r", request(steps=150))
    await anext(news)
    await news.aclose()  # type: ignore[attr-defined]
    await asyncio.sleep(0.1)
    assert (await host.load()).num_running == 0


async def test_cancel_stops_every_request_of_a_prefix(host: ModelHost) -> None:
    async def run(request_id: str) -> None:
        async for _ in host.generate(request_id, request(steps=150)):
            pass

    runs = [asyncio.create_task(run(name)) for name in ("job.1.0", "job.1.1", "other.1.0")]
    await asyncio.sleep(0.1)
    assert await host.cancel("job.") == 2
    ended = await asyncio.gather(*runs[:2], return_exceptions=True)
    assert [type(error) for error in ended] == [Cancelled, Cancelled]
    assert await host.cancel("other.") == 1
    with pytest.raises(Cancelled):
        await runs[2]


async def test_a_failure_is_raised_as_it_is(host: ModelHost) -> None:
    with pytest.raises(NumericalFailure):
        async for _ in host.generate("r", request("fail:nan")):
            pass


async def test_the_card_tells_family_and_configuration(host: ModelHost) -> None:
    card = await host.card()
    assert (card.id, card.aliases, card.weights) == ("fake-model", ("alias",), ("ann",))
    assert (card.max_ongoing_requests, card.device) == (7, "cpu")
    assert card.has_latents


async def test_a_host_whose_engine_ended_is_not_healthy(host: ModelHost) -> None:
    await host.check_health()
    host.close()
    with pytest.raises(AtelierError, match="engine"):
        await host.check_health()


async def test_texts_go_into_the_picture_that_they_are_for(host: ModelHost) -> None:
    texts = ((("parameters", "first"),), (("parameters", "second"), ("more", "\u732b")))
    asked = request(texts=texts)
    asked = replace(asked, params=replace(asked.params, num_images=3))
    *_, result = [item async for item in host.generate("r", asked)]
    assert isinstance(result, GenerationResult)
    kept = [Image.open(io.BytesIO(image.data)).text for image in result.images]  # type: ignore[attr-defined]
    assert kept == [{"parameters": "first"}, {"parameters": "second", "more": "\u732b"}, {}]


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        pytest.param({}, (64, 48), id="shrunk"),
        pytest.param({"mask_padding": 8}, (2400, 2000), id="needed at its own size"),
    ],
)
async def test_a_large_input_is_drawn_over(
    host: ModelHost, fields: dict[str, object], size: tuple[int, int]
) -> None:
    file, gray = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (2400, 2000), (10, 200, 30)).save(file, "PNG")
    mask = Image.new("L", (2400, 2000))
    mask.paste(255, (0, 0, 1200, 2000))
    mask.save(gray, "PNG")
    asked = request(images=(file.getvalue(),), mask=gray.getvalue(), **fields)
    *_, result = [item async for item in host.generate("r", asked)]
    assert isinstance(result, GenerationResult)
    picture = Image.open(io.BytesIO(result.images[0].data))
    assert picture.size == size == (result.images[0].width, result.images[0].height)
    assert picture.getpixel((size[0] - 1, 0)) == (10, 200, 30)
    assert picture.getpixel((0, 0)) != (10, 200, 30)


async def test_table_of_weights_changes_while_the_host_runs() -> None:
    config = ModelConfig(family="fake", personal={"ann": "/a", "bob": "/b"})
    model = ModelHost(config, "fake")

    async def resident_after(weights: str) -> set[str]:
        asked = request(weights=weights)
        [*_, result] = [item async for item in model.generate(f"of {weights}", asked)]
        assert isinstance(result, GenerationResult)
        return set((await model.load()).resident_weights)

    assert await resident_after("ann") == {"ann"}
    before = dict((await model.card()).weights_digests)
    model.configure(LiveConfig(personal={"ann": "/c", "eve": "/e"}))
    assert (await model.card()).weights == ("ann", "bob", "eve")
    after = dict((await model.card()).weights_digests)
    assert set(before) == {"ann", "bob"}
    assert set(after) == {"ann", "bob", "eve"}
    assert (after["ann"] == before["ann"], after["bob"] == before["bob"]) == (False, True)
    assert await resident_after("eve") == {"ann", "eve"}
    assert await resident_after("ann") == {"ann", "eve", "ann#1"}
    model.configure(LiveConfig())
    assert (await model.card()).weights == ("ann", "bob")
    with pytest.raises(InvalidRequest, match="unknown weights 'eve'; known: ann, bob"):
        await resident_after("eve")
    model.close()


async def test_owners_weights_draw_and_are_checked() -> None:
    model = ModelHost(ModelConfig(family="fake"), "fake")
    assert (await model.card()).takes_weights
    source = WeightsSource(id="pm_1", kind="path", location="/w")
    asked = request(weights="mine", weights_source=source)
    [*_, result] = [item async for item in model.generate("a", asked)]
    assert isinstance(result, GenerationResult)
    assert (await model.load()).resident_weights == ("pm_1",)
    assert (await model.check_weights(source, 10**9)).parts == ("unet",)
    with pytest.raises(InvalidRequest, match="do not fit"):
        await model.check_weights(replace(source, location="/misfit"), 10**9)
    model.close()


def test_host_whose_share_cannot_hold_its_model_does_not_start() -> None:
    config = ModelConfig(family="fake", memory_bytes=1_000_000, denoise_bytes_per_token=10)
    with pytest.raises(ValueError, match=r"does not fit its share .* weights 1000000 bytes \+"):
        ModelHost(config, "fake")


def test_host_whose_budget_cannot_hold_its_base_does_not_start() -> None:
    with pytest.raises(ValueError, match="max_resident_bytes 9 is less than the base's own"):
        ModelHost(ModelConfig(family="fake", max_resident_bytes=9), "fake")


async def test_host_tells_its_share() -> None:
    model = ModelHost(ModelConfig(family="fake", memory_bytes=10_000_000), "fake")
    assert (await model.load()).memory_bytes == 10_000_000
    model.close()
