"""The fake models do with latents what hosted ones do."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from deployments.types import (
    GenerationRequest,
    GenerationResult,
    Latents,
    Progress,
    PromptPart,
    SamplingParams,
)
from router.fake_models import FakeModels, fake_card
from router.routing import admit

ZEROS = Latents(num_images=2, width=64, height=64)
PARAMS = SamplingParams(num_inference_steps=10, seed=1)


async def run(asked: GenerationRequest) -> tuple[list[Progress], GenerationResult]:
    models, card = FakeModels(fake_card()), fake_card()
    *news, result = [item async for item in models.generate(card.id, "r", admit(card, asked))]
    assert isinstance(result, GenerationResult)
    return [item for item in news if isinstance(item, Progress)], result


async def latents_of(asked: GenerationRequest) -> Latents:
    _, result = await run(replace(asked, gives_latents=True))
    assert result.images == ()
    assert result.latents is not None
    return result.latents


async def test_pictures_come_back_from_their_latents() -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 100, 0)).save(file, "PNG")
    size = SamplingParams(width=64, height=64)
    asked = GenerationRequest(prompt="", task="encode", images=(file.getvalue(),), params=size)
    news, encoded = await run(asked)
    assert news == []
    assert encoded.latents is not None
    assert encoded.latents.value.shape == (1, 3, 8, 8)
    _, decoded = await run(GenerationRequest(prompt="", task="decode", latents=encoded.latents))
    picture = Image.open(io.BytesIO(decoded.images[0].data))
    assert picture.size == (64, 64)
    assert picture.getpixel((5, 5)) == (200, 100, 0)


async def test_two_halves_are_a_whole() -> None:
    asked = GenerationRequest(prompt="a cat", latents=ZEROS, params=PARAMS)
    whole = await latents_of(asked)
    first = await latents_of(replace(asked, params=replace(PARAMS, last_step=4)))
    rest = replace(asked, latents=first, params=replace(PARAMS, first_step=4))
    assert np.allclose((await latents_of(rest)).value, whole.value, atol=1e-6)
    assert not np.allclose(first.value, whole.value, atol=0.01)


async def test_what_is_asked_shows() -> None:
    asked = GenerationRequest(prompt="a cat", latents=ZEROS, params=PARAMS)
    values = [
        (await latents_of(one)).value
        for one in (
            asked,
            replace(asked, prompt="a dog"),
            replace(asked, params=replace(PARAMS, seed=5)),
            replace(asked, parts=(PromptPart(text="a cat"), PromptPart(text="b"))),
        )
    ]
    assert len({value.tobytes() for value in values}) == 4
    assert not np.array_equal(values[0][0], values[0][1])


async def test_steps_are_those_walked() -> None:
    params = replace(PARAMS, first_step=7)
    news, result = await run(GenerationRequest(prompt="a", latents=ZEROS, params=params))
    assert [(item.step, item.num_steps) for item in news] == [(k, 6) for k in range(1, 7)]
    assert len(result.images) == 2


async def test_a_mask_keeps_what_is_black() -> None:
    gray = Image.new("L", (64, 64))
    gray.paste(255, (32, 0, 64, 64))
    file = io.BytesIO()
    gray.save(file, "PNG")
    asked = GenerationRequest(prompt="a", latents=ZEROS, mask=file.getvalue(), params=PARAMS)
    value = (await latents_of(asked)).value
    assert not value[..., :3].any()
    assert value[..., 5:].any()
