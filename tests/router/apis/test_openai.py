"""OpenAI's routes, asked by the official SDK, loosely and with strict validation of answers."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import httpx
import openai
import pytest

from deployments.errors import InvalidRequest
from deployments.types import GenerationRequest, SamplingParams
from router.fake_models import fake_card
from tests.router.apis.conftest import Gateway, openai_gateway
from tests.router.apis.drawing import cutout, opened, picture


def sdk(gateway: Gateway, *, is_strict: bool = True, **options: object) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{gateway.url}/v1",
        api_key="any",
        _strict_response_validation=is_strict,
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture(params=[False, True], ids=["loose", "strict"])
def client(gateway: Gateway, request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    with sdk(gateway, is_strict=request.param) as made:
        yield made


def last_call(gateway: Gateway) -> GenerationRequest:
    return gateway.models.calls[-1]


# -- generations ------------------------------------------------------------------------------


def test_generate_answers_with_b64_when_only_a_prompt_is_given(
    client: openai.OpenAI, gateway: Gateway
) -> None:
    answer = client.images.generate(prompt="a red circle")
    assert answer.data is not None
    assert opened(answer.data[0].b64_json).format == "PNG"
    assert opened(answer.data[0].b64_json).size == (1024, 1024)
    assert answer.size == "1024x1024"
    assert answer.output_format == "png"
    assert answer.quality is None
    assert answer.usage.total_tokens == 3 + 64 * 64
    assert last_call(gateway).model == "sdxl-turbo"


def test_generate_honours_every_field(client: openai.OpenAI, gateway: Gateway) -> None:
    answer = client.images.generate(
        prompt="a red circle",
        model="sd15-dreambooth",
        n=2,
        size="130x64",
        quality="high",
        background="opaque",
        output_format="webp",
        output_compression=40,
        moderation="low",
        style="vivid",
        user="someone",
        extra_body={
            "seed": 7,
            "guidance_scale": 3.5,
            "negative_prompt": "blue",
            "strength": 0.4,
            "scheduler": "DDIM",
            "safety_identifier": "abc",
        },
    )
    asked = last_call(gateway)
    assert asked.model == "sd15-dreambooth"
    assert asked.negative_prompt == "blue"
    assert asked.output_quality == 40
    assert asked.params == SamplingParams(
        width=128,
        height=64,
        num_images=2,
        num_inference_steps=6,
        guidance_scale=3.5,
        strength=0.4,
        seed=7,
        scheduler="DDIM",
        sigmas="normal",
    )
    assert [item.seed for item in answer.data] == [7, 8]  # type: ignore[attr-defined]
    assert {opened(item.b64_json).format for item in answer.data} == {"WEBP"}
    assert answer.quality == "high"
    assert answer.size == "128x64"
    assert gateway.jobs[-1].details == {"user": "someone", "safety_identifier": "abc"}


def test_generate_takes_null_for_every_optional_field(
    client: openai.OpenAI, gateway: Gateway
) -> None:
    names = (
        "model n size quality background output_format output_compression response_format "
        "moderation style user stream partial_images seed num_inference_steps complexity svg"
    )
    answer = client.images.generate(prompt="x", extra_body=dict.fromkeys(names.split()))
    assert len(answer.data) == 1


@pytest.mark.parametrize(
    ("quality", "num_steps"),
    [("low", 2), ("medium", 4), ("auto", 4), ("standard", 4), ("hd", 6), ("xhigh", 8), ("max", 12)],
)
def test_quality_scales_the_default_steps(gateway: Gateway, quality: str, num_steps: int) -> None:
    sdk(gateway).images.generate(prompt="x", size="64x64", quality=quality)  # type: ignore[call-overload]
    assert last_call(gateway).params.num_inference_steps == num_steps


def test_num_inference_steps_win_over_quality(gateway: Gateway) -> None:
    steps = {"num_inference_steps": 9}
    sdk(gateway).images.generate(prompt="x", size="64x64", quality="max", extra_body=steps)
    assert last_call(gateway).params.num_inference_steps == 9


def test_size_auto_is_the_models_own(gateway: Gateway) -> None:
    assert sdk(gateway).images.generate(prompt="x", size="auto").size == "64x64"


@pytest.mark.parametrize("name", ["gpt-image-1", "gpt-image-2", "dall-e-3", "dall-e-2"])
def test_habitual_names_are_the_default_model(gateway: Gateway, name: str) -> None:
    sdk(gateway).images.generate(prompt="x", size="64x64", model=name)
    assert last_call(gateway).model == "sdxl-turbo"


def test_aliases_resolve(gateway: Gateway) -> None:
    alias = "Zhurah/sd15-dreambooth-photoai"
    sdk(gateway).images.generate(prompt="x", size="64x64", model=alias)
    assert last_call(gateway).model == "sd15-dreambooth"


def test_url_is_absolute_and_fetchable_with_the_same_credentials_only() -> None:
    with openai_gateway(api_key="secret") as gateway:
        client = sdk(gateway).with_options(api_key="secret")
        answer = client.images.generate(
            prompt="x", size="64x64", n=2, response_format="url", output_format="jpeg"
        )
        urls = [item.url for item in answer.data]
        assert urls[0].startswith(f"{gateway.url}/v1/images/files/")
        assert httpx.get(urls[1]).status_code == 401
        fetched = httpx.get(urls[1], headers={"Authorization": "Bearer secret"})
        assert fetched.headers["content-type"] == "image/jpeg"
        assert opened(base64.b64encode(fetched.content).decode()).size == (64, 64)
        assert httpx.get(urls[1], auth=("other", "secret")).status_code == 404
        missing = urls[1].replace("2.jpeg", "3.jpeg")
        answered = httpx.get(missing, headers={"Authorization": "Bearer secret"})
        assert answered.status_code == 404
        assert answered.json()["error"]["code"] == "not_found"


# -- edits and variations ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "image",
    [
        picture(),
        io.BytesIO(picture(kind="JPEG")),
        ("photo.webp", picture(kind="WEBP"), "image/webp"),
        [picture()],
        [picture(), picture((32, 32))],
    ],
    ids=["bytes", "BytesIO", "tuple", "list-of-one", "list"],
)
def test_edit_takes_files_in_every_form(
    client: openai.OpenAI, gateway: Gateway, image: object
) -> None:
    if isinstance(image, io.BytesIO):
        image.seek(0)
    answer = client.images.edit(image=image, prompt="make it blue", n=2)  # type: ignore[call-overload]
    assert len(answer.data) == 2
    assert answer.size == "96x64"
    asked = last_call(gateway)
    assert len(asked.images) == (len(image) if isinstance(image, list) else 1)
    assert asked.mask is None
    assert answer.usage.input_tokens_details.image_tokens == 24 * len(asked.images)


def test_edit_reads_numbers_from_form_text(gateway: Gateway) -> None:
    sdk(gateway).images.edit(
        image=picture(),
        prompt="x",
        size="64x72",
        input_fidelity="high",
        output_format="jpeg",
        output_compression=80,
        extra_body={"seed": 5, "num_inference_steps": 8, "guidance_scale": 2.5},
    )
    asked = last_call(gateway)
    assert (asked.params.width, asked.params.height) == (64, 72)
    assert (asked.params.seed, asked.params.num_inference_steps) == (5, 8)
    assert asked.params.guidance_scale == 2.5
    assert asked.params.strength == pytest.approx(0.6)
    assert (asked.output_format, asked.output_quality) == ("jpeg", 80)


def test_edit_without_a_size_is_at_most_1024_long(gateway: Gateway) -> None:
    answer = sdk(gateway).images.edit(image=picture((3000, 1500)), prompt="x", size="auto")
    assert answer.size == "1024x512"


def test_edit_of_a_tiny_picture_is_made_at_the_models_smallest_size(gateway: Gateway) -> None:
    assert sdk(gateway).images.edit(image=picture((16, 8)), prompt="x").size == "64x64"


def is_left_half(mask: bytes) -> bool:
    image = opened(base64.b64encode(mask).decode())
    assert (image.mode, image.size) == ("L", (96, 64))
    corners = [image.getpixel(at) for at in ((0, 0), (47, 63), (48, 0), (95, 63))]
    return corners == [255, 255, 0, 0]


def test_edit_redraws_where_the_mask_is_transparent(gateway: Gateway) -> None:
    sdk(gateway).images.edit(image=picture(), mask=cutout(), prompt="x")
    assert is_left_half(last_call(gateway).mask)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_edit_takes_a_pictures_own_alpha_as_the_mask(gateway: Gateway, kind: str) -> None:
    sdk(gateway).images.edit(image=cutout(kind=kind), prompt="x")
    assert is_left_half(last_call(gateway).mask)


def test_edit_has_no_mask_when_alpha_is_opaque(gateway: Gateway) -> None:
    sdk(gateway).images.edit(image=picture(mode="RGBA"), prompt="x")
    assert last_call(gateway).mask is None


@pytest.mark.parametrize(
    "mask", [cutout((64, 64)), picture(), b"junk"], ids=["size", "no-alpha", "junk"]
)
def test_edit_refuses_masks_that_do_not_fit(gateway: Gateway, mask: bytes) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk(gateway).images.edit(image=picture(), mask=mask, prompt="x")
    assert caught.value.param == "mask"


def test_edit_says_so_when_the_model_takes_one_picture(gateway: Gateway) -> None:
    with pytest.raises(openai.BadRequestError, match="at most 1 picture") as caught:
        sdk(gateway).images.edit(image=[picture(), picture()], prompt="x", model="sd15-dreambooth")
    assert caught.value.param == "image"


def test_edits_prefer_the_edit_model() -> None:
    with openai_gateway(fake_card(), fake_card("qwen-image-edit")) as gateway:
        sdk(gateway).images.edit(image=picture(), prompt="x")
        sdk(gateway).images.create_variation(image=picture())
        assert [call.model for call in gateway.models.calls] == ["qwen-image-edit"] * 2


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def test_edit_takes_json_with_data_urls(gateway: Gateway, http: httpx.Client) -> None:
    body = {
        "prompt": "x",
        "images": [{"image_url": data_url(picture())}],
        "mask": {"image_url": data_url(cutout())},
        "n": 2,
    }
    answer = http.post("/v1/images/edits", json=body)
    assert len(answer.json()["data"]) == 2
    assert is_left_half(last_call(gateway).mask)


@pytest.mark.parametrize(
    ("reference", "param"),
    [
        ({"image_url": "http://example.com/a.png"}, "image"),
        ({"image_url": "data:image/png;base64,!!"}, "image"),
        ({"file_id": "file-1"}, "file_id"),
        ({}, "image"),
    ],
    ids=["http", "not-base64", "file_id", "nothing"],
)
def test_edit_refuses_references_it_cannot_read(
    http: httpx.Client, reference: dict[str, str], param: str
) -> None:
    answer = http.post("/v1/images/edits", json={"prompt": "x", "images": [reference]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_edit_fetches_urls_when_it_may() -> None:
    async def fetch(url: str, *, param: str) -> bytes:
        if "good" not in url:
            raise InvalidRequest("no such picture", param=param)
        return picture()

    with openai_gateway(fetch=fetch) as gateway:
        body = {"prompt": "x", "images": [{"image_url": "https://good.example/a.png"}]}
        assert httpx.post(f"{gateway.url}/v1/images/edits", json=body).status_code == 200
        body = {"prompt": "x", "images": [{"image_url": "https://bad.example/a.png"}]}
        assert httpx.post(f"{gateway.url}/v1/images/edits", json=body).status_code == 400


def test_variations_need_no_prompt(client: openai.OpenAI, gateway: Gateway) -> None:
    answer = client.images.create_variation(image=picture(), n=3, size="256x256")
    assert len(answer.data) == 3
    assert answer.size == "256x256"
    asked = last_call(gateway)
    assert (asked.prompt, asked.params.strength) == ("", 0.6)


# -- models -----------------------------------------------------------------------------------


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["sdxl-turbo", "sd15-dreambooth"]
    assert client.models.retrieve("sdxl-turbo").object == "model"
    assert client.models.retrieve("Zhurah/sd15-dreambooth-photoai").id == "sd15-dreambooth"
    assert client.models.retrieve("gpt-image-1").id == "sdxl-turbo"


def test_an_unknown_model_is_a_404_that_names_the_known(client: openai.OpenAI) -> None:
    for ask in (
        lambda: client.models.retrieve("sdlx"),
        lambda: client.images.generate(prompt="x", model="sdlx"),
        lambda: client.images.edit(image=picture(), prompt="x", model="sdlx"),
    ):
        with pytest.raises(openai.NotFoundError, match="known: ") as caught:
            ask()
        assert caught.value.code == "model_not_found"
        assert caught.value.type == "invalid_request_error"
