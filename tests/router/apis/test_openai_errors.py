"""Refusals of OpenAI's routes: the SDK's exceptions, and one object whatever went wrong."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from tests.router.apis.conftest import Gateway, openai_gateway
from tests.router.apis.drawing import giant_png, picture

GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"
VARIATIONS = "/v1/images/variations"


def short(value: object) -> str:
    """A test's id."""
    return str(value)[:30]


def refusal(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error object of an answer, its shape checked."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"] in ("invalid_request_error", "server_error", "rate_limit_error")
    for secret in ("Traceback", "/work", "site-packages", "pydantic", "Error("):
        assert secret not in answer.text
    return error


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": " "}, "prompt"),
        ({"prompt": "x" * 20_001}, "prompt"),
        ({"negative_prompt": "x" * 20_001}, "negative_prompt"),
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": "1"}, "n"),
        ({"n": True}, "n"),
        ({"n": 10**30}, "n"),
        ({"size": "big"}, "size"),
        ({"size": "1024"}, "size"),
        ({"size": "32x32"}, "size"),
        ({"size": "4096x64"}, "size"),
        ({"size": "-64x64"}, "size"),
        ({"size": "0x64"}, "size"),
        ({"size": 64}, "size"),
        ({"model": 3}, "model"),
        ({"quality": "best"}, "quality"),
        ({"background": "transparent"}, "background"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_format": "svg"}, "output_format"),
        ({"output_compression": 101, "output_format": "jpeg"}, "output_compression"),
        ({"output_compression": 50}, "output_compression"),
        ({"response_format": "file"}, "response_format"),
        ({"moderation": "none"}, "moderation"),
        ({"style": "wild"}, "style"),
        ({"stream": "yes"}, "stream"),
        ({"partial_images": -1}, "partial_images"),
        ({"num_inference_steps": -1}, "num_inference_steps"),
        ({"num_inference_steps": 151}, "num_inference_steps"),
        ({"guidance_scale": "7"}, "guidance_scale"),
        ({"guidance_scale": -1}, "guidance_scale"),
        ({"strength": 1.5}, "strength"),
        ({"seed": -2}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"scheduler": "Quick"}, "scheduler"),
        ({"complexity": "low"}, "complexity"),
        ({"frame_count": 4}, "frame_count"),
        ({"frame_duration_ms": 10}, "frame_duration_ms"),
        ({"svg": {"model": "x"}}, "svg"),
        ({"file_id": "x"}, "file_id"),
        ({"steps": 4}, "steps"),
    ],
    ids=short,
)
def test_a_bad_field_is_a_400_that_names_it(
    http: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    error = refusal(http.post(GENERATIONS, json={"prompt": "x", "size": "64x64", **fields}))
    assert error["param"] == param


def test_background_transparent_is_told_what_is_accepted(http: httpx.Client) -> None:
    error = refusal(http.post(GENERATIONS, json={"prompt": "x", "background": "transparent"}))
    assert "'opaque' or 'auto'" in error["message"]


def test_a_missing_prompt_names_it(http: httpx.Client) -> None:
    assert refusal(http.post(GENERATIONS, json={}))["param"] == "prompt"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b'{"prompt": "x", "seed": NaN}',
        b'{"prompt": "x", "guidance_scale": 1e999}',
        b'{"prompt": "x", "user": ' + b"[" * 70 + b"]" * 70 + b"}",
        b"[" * 100_000,
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "x", "\\ud800": 1}',
        b'{"prompt": "x", "n": ' + b"9" * 5000 + b"}",
    ],
    ids=[
        "empty",
        "cut",
        "list",
        "text",
        "not-utf8",
        "nan",
        "infinite",
        "deep",
        "deepest",
        "surrogate",
        "surrogate-key",
        "huge-number",
    ],
)
def test_hostile_json_is_a_400(http: httpx.Client, body: bytes) -> None:
    refusal(http.post(GENERATIONS, content=body, headers={"Content-Type": "application/json"}))


def test_json_at_the_depth_limit_is_read(http: httpx.Client) -> None:
    body = {"prompt": "x", "deep": json.loads("[" * 60 + "]" * 60)}
    assert refusal(http.post(GENERATIONS, json=body))["param"] == "deep"


@pytest.mark.parametrize("path", [GENERATIONS, EDITS, VARIATIONS])
def test_another_content_type_is_a_415(http: httpx.Client, path: str) -> None:
    answer = http.post(path, content=b"hello", headers={"Content-Type": "text/plain"})
    assert refusal(answer, 415)["code"] == "unsupported_media_type"


def test_a_body_over_the_limit_is_a_413(http: httpx.Client) -> None:
    chunks = (b" " * 2**20 for _ in range(65))
    answer = http.post(GENERATIONS, content=chunks, headers={"Content-Type": "application/json"})
    assert refusal(answer, 413)["code"] == "request_too_large"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", GENERATIONS, 405),
        ("DELETE", EDITS, 405),
        ("GET", "/v1/models/none/such", 404),
        ("GET", "/v1/images/files/img_none/1.png", 404),
    ],
)
def test_what_is_not_there_is_openais_object(
    http: httpx.Client, method: str, path: str, status: int
) -> None:
    refusal(http.request(method, path), status)


@pytest.mark.parametrize(
    ("files", "param"),
    [
        ([("image", b"")], "image"),
        ([("image", b"not a picture")], "image"),
        ([("image", giant_png())], "image"),
        ([("image[]", picture())] * 17, "image"),
        ([("image", picture()), ("mask", b"")], "mask"),
        ([("image", picture()), ("mask", picture()), ("mask", picture())], "mask"),
        ([("image", picture()), ("markup", picture())], "markup"),
        ([("image", picture()), ("overlay", picture())], "overlay"),
    ],
    ids=["empty", "junk", "giant", "17", "empty-mask", "two-masks", "markup", "unknown"],
)
def test_bad_files_are_a_400(
    http: httpx.Client, files: list[tuple[str, bytes]], param: str
) -> None:
    parts = [(name, ("upload", data)) for name, data in files]
    error = refusal(http.post(EDITS, data={"prompt": "x"}, files=parts))
    assert error["param"] == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": "1.5"}, "n"),
        ({"n": "many"}, "n"),
        ({"prompt": ""}, "prompt"),
        ({"guidance_scale": "nan"}, "guidance_scale"),
        ({"strength": "inf"}, "strength"),
        ({"num_inference_steps": "-4"}, "num_inference_steps"),
        ({"stream": "maybe"}, "stream"),
        ({"svg[model]": "x"}, "svg[model]"),
        ({"mask": "text"}, "mask"),
        ({"input_fidelity": "middling"}, "input_fidelity"),
    ],
    ids=short,
)
def test_bad_form_text_is_a_400(http: httpx.Client, fields: dict[str, str], param: str) -> None:
    data = {"prompt": "x", **fields}
    assert refusal(http.post(EDITS, data=data, files={"image": picture()}))["param"] == param


def test_a_text_where_a_file_belongs_is_a_400(http: httpx.Client) -> None:
    files = {"other": ("", b""), "image": (None, "text")}
    refusal(http.post(EDITS, data={"prompt": "x"}, files=files))


def test_a_broken_form_is_a_400_of_the_dialect_it_began(http: httpx.Client) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nxx'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    refusal(http.post(EDITS, content=part, headers=headers))
    refusal(http.post(VARIATIONS, data={"n": "1"}, files={"images": picture()}))


def test_the_sdk_raises_its_own_exceptions() -> None:
    with openai_gateway(api_key="secret") as gateway:
        url = f"{gateway.url}/v1"
        wrong = openai.OpenAI(base_url=url, api_key="wrong")
        for ask in (
            lambda: wrong.images.generate(prompt="x"),
            lambda: wrong.images.edit(image=picture(), prompt="x"),
            lambda: wrong.images.edit(image=[picture()], prompt="x"),
            wrong.models.list,
        ):
            with pytest.raises(openai.AuthenticationError) as caught:
                ask()
            assert caught.value.code == "invalid_api_key"
        right = openai.OpenAI(base_url=url, api_key="secret")
        assert right.images.edit(image=picture(), prompt="x").data
        with pytest.raises(openai.BadRequestError) as bad:
            right.images.generate(prompt="x", n=11)
        assert (bad.value.param, bad.value.code) == ("n", "invalid_value")


def test_too_much_at_once_is_a_429_that_says_when() -> None:
    with openai_gateway(max_queued_jobs=0) as gateway:
        answer = httpx.post(f"{gateway.url}{GENERATIONS}", json={"prompt": "x"})
        assert refusal(answer, 429)["code"] == "rate_limit_exceeded"
        assert int(answer.headers["retry-after"]) >= 1
        assert "x-should-retry" not in answer.headers


def test_the_docs_show_every_field(gateway: Gateway, http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    forms = paths[EDITS]["post"]["requestBody"]["content"]
    openais, batch = forms["multipart/form-data"]["schema"]["anyOf"]
    assert {"image", "mask", "prompt", "partial_images", "seed"} <= set(openais["properties"])
    assert {"images", "output_type", "true_cfg_scale"} <= set(batch["properties"])
    assert "$ref" not in json.dumps(forms)
