"""The simple API, as its document has it."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image

from tests.router.apis.gateway import fake_models, serving

SEED_BODY = {
    "prompt": "photo of sks person as a futuristic astronaut",
    "user_id": "user_123",
    "num_inference_steps": 30,
    "guidance_scale": 7.5,
    "width": 512,
    "height": 512,
    "seed": 42,
}


async def test_generate_answers_as_documented() -> None:
    models = fake_models()
    async with serving(models) as client:
        response = await client.post("/generate", json=SEED_BODY)
    body = response.json()
    assert response.status_code == 200
    assert body["success"] is True
    assert body["message"] == "Image generated successfully"
    assert body["model_id"] == "Zhurah/sd15-dreambooth-photoai"
    assert body["image_path"].startswith("generated_images/img_")
    assert body["seed"] == 42
    assert isinstance(body["generation_time"], float)
    image = Image.open(io.BytesIO(base64.b64decode(body["image_base64"])))
    assert (image.format, image.size) == ("PNG", (512, 512))
    assert models.calls[0].weights == "user_123"
    assert models.calls[0].params.num_inference_steps == 30


async def test_prompt_alone_is_enough() -> None:
    models = fake_models()
    async with serving(models) as client:
        response = await client.post("/generate", json={"prompt": "a star", "user_id": "nobody"})
    assert response.status_code == 200
    call = models.calls[0]
    assert (call.weights, call.model) == ("default", "sd15-dreambooth")
    assert (call.params.width, call.params.num_inference_steps, call.params.guidance_scale) == (
        512,
        30,
        7.5,
    )
    assert response.json()["seed"] == call.params.seed


async def test_generate_image_is_the_same_picture_in_binary() -> None:
    async with serving() as client:
        text = (await client.post("/generate", json=SEED_BODY)).json()
        response = await client.post("/generate/image", json=SEED_BODY)
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-model-used"] == "Zhurah/sd15-dreambooth-photoai"
    assert float(response.headers["x-generation-time"]) >= 0
    assert response.content == base64.b64decode(text["image_base64"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "  "}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "x" * 20_001}, "20000"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"num_inference_steps": 151}, "150"),
        ({"num_inference_steps": "30"}, "num_inference_steps"),
        ({"guidance_scale": 0.5}, "guidance_scale"),
        ({"guidance_scale": 20.5}, "20"),
        ({"width": 255}, "256"),
        ({"height": 1025}, "1024"),
        ({"seed": -2}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"user_id": 7}, "user_id"),
    ],
    ids=str,
)
async def test_bad_values_are_a_400_that_names_them(change: dict[str, Any], said: str) -> None:
    async with serving() as client:
        response = await client.post("/generate", json=SEED_BODY | change)
    body = response.json()
    assert response.status_code == 400
    assert body["success"] is False
    assert said in body["message"]


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b'"x"', b"\xff", b'{"prompt": NaN}', b'{"prompt": ' + b"[" * 80 + b"]" * 80],
    ids=["cut", "list", "text", "bytes", "nan", "deep"],
)
@pytest.mark.parametrize("path", ["/generate", "/generate/image"])
async def test_bad_json_is_a_400(path: str, content: bytes) -> None:
    async with serving() as client:
        response = await client.post(
            path, content=content, headers={"Content-Type": "application/json"}
        )
    assert response.status_code == 400
    assert response.json()["success"] is False


async def test_a_body_that_is_too_large_is_a_413() -> None:
    async with serving() as client:
        response = await client.post(
            "/generate",
            content=b" " * (64 * 1024 * 1024 + 1),
            headers={"Content-Type": "application/json"},
        )
    assert response.status_code == 413
    assert response.json()["success"] is False


async def test_an_unknown_model_is_a_404_listing_the_known() -> None:
    async with serving() as client:
        response = await client.post("/generate", json=SEED_BODY | {"model": "sdlx"})
    assert response.status_code == 404
    assert "sd15-dreambooth, sdxl-turbo" in response.json()["message"]


async def test_another_model_may_be_named() -> None:
    models = fake_models()
    async with serving(models) as client:
        await client.post("/generate", json=SEED_BODY | {"model": "sdxl-turbo"})
    assert (models.calls[0].model, models.calls[0].weights) == ("sdxl-turbo", None)


async def test_with_a_key_it_is_asked_for() -> None:
    async with serving(api_key="secret") as client:
        refused = await client.post("/generate", json=SEED_BODY)
        basic = await client.post("/generate", json=SEED_BODY, auth=("user", "secret"))
        bearer = await client.post(
            "/generate", json=SEED_BODY, headers={"Authorization": "Bearer secret"}
        )
        health = await client.get("/health")
    assert refused.status_code == 401
    assert refused.json()["success"] is False
    assert refused.headers["www-authenticate"] == "Basic"
    assert [basic.status_code, bearer.status_code, health.status_code] == [200, 200, 200]


async def test_the_same_idempotency_key_makes_one_picture() -> None:
    models = fake_models()
    async with serving(models) as client:
        headers = {"Idempotency-Key": "k"}
        first = await client.post("/generate", json=SEED_BODY, headers=headers)
        again = await client.post("/generate", json=SEED_BODY, headers=headers)
        other = await client.post("/generate", json=SEED_BODY | {"seed": 1}, headers=headers)
    assert first.json()["job_id"] == again.json()["job_id"]
    assert len(models.calls) == 1
    assert other.status_code == 409


async def test_clearing_the_cache_says_what_was_evicted() -> None:
    async with serving() as client:
        response = await client.delete("/cache")
    assert response.status_code == 200
    assert response.json()["evicted"] == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/generate", 405), ("POST", "/cache", 405)],
)
async def test_paths_that_are_not_there(method: str, path: str, status: int) -> None:
    async with serving() as client:
        response = await client.request(method, path)
    assert response.status_code == status
    assert response.json()["success"] is False


async def test_health_satisfies_every_client_that_ever_asked() -> None:
    async with serving() as client:
        health = (await client.get("/health")).json()
        ready = await client.get("/ready")
    assert health["status"] == "healthy"
    assert health["device"] == "cpu"
    assert health["models_loaded"] == 2
    assert health["features"]["image_generation"] is True
    assert ready.status_code == 200


async def test_docs_need_no_key() -> None:
    async with serving(api_key="secret") as client:
        assert (await client.get("/docs")).status_code == 200
        paths = (await client.get("/openapi.json")).json()["paths"]
    assert {"/generate", "/generate/image", "/cache", "/health", "/ready"} <= set(paths)


async def test_failures_are_told_in_the_shape_of_the_api_whose_path_it_is() -> None:
    async with serving() as client:
        picture = await client.get("/generated_images/nothing")
        method = await client.put("/v1/models")
        other = await client.get("/generatedthings")
    assert set(picture.json()) == {"error", "message"}
    assert set(method.json()["error"]) == {"message", "type", "param", "code"}
    assert method.headers["allow"] == "GET"
    assert other.json()["success"] is False
