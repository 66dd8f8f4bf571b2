"""The ``images`` dialect of the edits route: files named ``images``."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from deployments.types import SamplingParams
from router.fake_models import fake_card
from tests.router.apis.conftest import Gateway, openai_gateway
from tests.router.apis.drawing import cutout, giant_png, opened, picture

EDITS = "/v1/images/edits"
ONE = [("images", ("a.png", picture()))]


def short(value: object) -> str:
    """A test's id."""
    return str(value)[:30]


def refusal(answer: httpx.Response, status: int = 400, code: str = "INVALID_INPUT") -> str:
    """The message of an error, its shape checked."""
    assert answer.status_code == status, answer.text
    detail = answer.json()["detail"]
    assert list(answer.json()) == ["detail"]
    assert set(detail) == {"error", "message"}
    assert detail["error"] == code
    message: str = detail["message"]
    return message


def test_each_input_gets_n_variants_in_order(http: httpx.Client, gateway: Gateway) -> None:
    files = [("images", (f"{k}.png", picture((64 + 8 * k, 64)))) for k in range(3)]
    data = {"prompt": "enhance colors", "n": "2", "seed": "100", "size": "auto"}
    answer = http.post(EDITS, data=data, files=files).json()
    assert [item["seed"] for item in answer["data"]] == [100, 101, 102, 103, 104, 105]
    widths = [opened(item["b64_json"]).width for item in answer["data"]]
    assert widths == [64, 64, 72, 72, 80, 80]
    assert answer["usage"]["input_images"] == 3
    assert answer["usage"]["generated_images"] == 6
    assert answer["usage"]["processing_time_seconds"] > 0
    assert isinstance(answer["created"], int)
    assert len(gateway.jobs[-1].requests) == 3


def test_defaults_are_the_seeds(http: httpx.Client, gateway: Gateway) -> None:
    assert http.post(EDITS, data={"prompt": "x"}, files=ONE).status_code == 200
    params = gateway.models.calls[-1].params
    assert params == SamplingParams(
        width=1024,
        height=1024,
        num_images=1,
        num_inference_steps=50,
        guidance_scale=1.0,
        strength=0.8,
        seed=params.seed,
        scheduler="Euler",
        sigmas="normal",
        max_sequence_length=512,
    )


def test_every_field_is_honoured(http: httpx.Client, gateway: Gateway) -> None:
    data = {
        "prompt": "make the sky more vibrant blue",
        "negative_prompt": "dark, low quality, blurry",
        "size": "512x512",
        "num_inference_steps": "5",
        "guidance_scale": "7.5",
        "true_cfg_scale": "4.0",
        "output_type": "pt",
        "max_sequence_length": "256",
        "response_format": "ignored, as by the original",
    }
    assert http.post(EDITS, data=data, files=ONE).status_code == 200
    asked = gateway.models.calls[-1]
    assert asked.negative_prompt == "dark, low quality, blurry"
    assert asked.output_format == "safetensors"
    assert (asked.params.guidance_scale, asked.params.true_cfg_scale) == (7.5, None)
    assert (asked.params.num_inference_steps, asked.params.max_sequence_length) == (5, 256)


def test_true_cfg_scale_stands_in_for_guidance_where_there_is_no_such_knob(
    http: httpx.Client, gateway: Gateway
) -> None:
    http.post(EDITS, data={"prompt": "x", "true_cfg_scale": "3"}, files=ONE)
    assert gateway.models.calls[-1].params.guidance_scale == 3.0


def test_true_cfg_scale_is_4_on_a_model_that_has_the_knob() -> None:
    defaults = SamplingParams(
        num_inference_steps=4, true_cfg_scale=1.0, scheduler="Euler", sigmas="normal"
    )
    with openai_gateway(fake_card("qwen-image-edit", defaults=defaults)) as gateway:
        url = gateway.url + EDITS
        assert httpx.post(url, data={"prompt": "x"}, files=ONE).status_code == 200
        assert gateway.models.calls[-1].params.true_cfg_scale == 4.0
        assert gateway.models.calls[-1].params.guidance_scale is None


def test_alpha_is_no_mask_here(http: httpx.Client, gateway: Gateway) -> None:
    http.post(EDITS, data={"prompt": "x"}, files=[("images", ("a.png", cutout()))])
    assert gateway.models.calls[-1].mask is None


def test_openais_dialect_wins_when_both_names_are_there(
    http: httpx.Client, gateway: Gateway
) -> None:
    files = [*ONE, ("image", ("b.png", picture((128, 64))))]
    answer = http.post(EDITS, data={"prompt": "x", "n": "2"}, files=files)
    assert answer.json()["size"] == "128x64"
    assert len(gateway.models.calls[-1].images) == 1
    refused = http.post(EDITS, data={"prompt": "x", "n": "0"}, files=files)
    assert refused.json()["error"]["param"] == "n"


@pytest.mark.parametrize("prompt", [None, "", "  "], ids=["missing", "empty", "blank"])
def test_an_empty_prompt_says_the_seeds_sentence(http: httpx.Client, prompt: str | None) -> None:
    data = {} if prompt is None else {"prompt": prompt}
    assert refusal(http.post(EDITS, data=data, files=ONE)) == "Prompt cannot be empty"


@pytest.mark.parametrize(
    "fields",
    [
        {"n": "0"},
        {"n": "11"},
        {"n": "1.5"},
        {"n": "two"},
        {"size": "huge"},
        {"size": "16x16"},
        {"num_inference_steps": "-5"},
        {"num_inference_steps": "151"},
        {"guidance_scale": "nan"},
        {"guidance_scale": "hot"},
        {"true_cfg_scale": "-1"},
        {"output_type": "np"},
        {"max_sequence_length": "0"},
        {"seed": "-2"},
        {"model": "sdlx"},
        {"prompt": "x" * 20_001},
    ],
    ids=short,
)
def test_any_bad_value_is_invalid_input(http: httpx.Client, fields: dict[str, str]) -> None:
    message = refusal(http.post(EDITS, data={"prompt": "x", **fields}, files=ONE))
    (name,) = fields
    assert name in message or name == "size"


@pytest.mark.parametrize(
    "files",
    [
        [("images", ("a", b""))],
        [("images", ("a", b"junk"))],
        [("images", ("a", giant_png()))],
        ONE * 17,
        [("images", (None, "text"))],
        [*ONE, ("mask", ("m.png", cutout()))],
    ],
    ids=["empty", "junk", "giant", "17", "text", "mask"],
)
def test_bad_files_are_invalid_input(http: httpx.Client, files: list[Any]) -> None:
    refusal(http.post(EDITS, data={"prompt": "x"}, files=files))


def test_no_file_at_all_is_invalid_input(http: httpx.Client) -> None:
    refusal(http.post(EDITS, data={"prompt": "x"}))
    refusal(http.post(EDITS, data={"prompt": "x"}, files={"other": ("a", b"x")}))


def test_a_body_over_the_limit_is_a_413_of_its_dialect(http: httpx.Client) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    chunks = iter([head, *(b"x" * 2**20 for _ in range(65))])
    refusal(http.post(EDITS, content=chunks, headers=headers), 413)


@pytest.mark.parametrize("credentials", [None, ("user", "wrong")], ids=["none", "wrong"])
def test_a_401_has_the_shape_of_its_dialect(credentials: tuple[str, str] | None) -> None:
    with openai_gateway(api_key="secret") as gateway:
        url = gateway.url + EDITS
        big = ("b.png", picture() + b"\0" * 300_000)

        def post(**sent: Any) -> httpx.Response:
            return httpx.post(url, auth=credentials, **sent)

        message = refusal(post(data={"prompt": "x"}, files=ONE), 401, "UNAUTHORIZED")
        assert message == "Invalid username or password"
        refusal(post(data={"prompt": "x"}), 401, "UNAUTHORIZED")
        for files in (
            {"image": picture()},
            {"image[]": picture()},
            [("images", big), ("image", ("a.png", picture()))],
        ):
            answer = post(data={"prompt": "x"}, files=files)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert post(json={"prompt": "x"}).json()["error"]["code"] == "invalid_api_key"
        right = httpx.post(url, auth=("user", "secret"), data={"prompt": "x"}, files=ONE)
        assert right.status_code == 200
        assert gateway.jobs[-1].owner == "user"


def test_too_much_at_once_says_when_to_come_back() -> None:
    with openai_gateway(max_queued_jobs=0) as gateway:
        answer = httpx.post(gateway.url + EDITS, data={"prompt": "x"}, files=ONE)
        refusal(answer, 503, "MODEL_NOT_READY")
        assert int(answer.headers["retry-after"]) >= 1
