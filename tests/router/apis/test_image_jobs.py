"""Image jobs over HTTP: submissions, statuses, results, pictures, cancelling and lists."""

from __future__ import annotations

import asyncio
import base64
import io
import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.responses import Response

from deployments.types import GenerationRequest
from router.apis import image_jobs_wire as wire
from router.job import JobProgress, JobStatus, StoredRequest, new_job
from tests.loopback import serve
from tests.router.apis.image_jobs_gateway import GEMINI, NO_KEY, QWEN, SDXL, gateway


def png(size: tuple[int, int] = (64, 48)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "blue").save(out, "PNG")
    return out.getvalue()


DATA_URL = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


async def test_a_submission_answers_with_the_documents_body() -> None:
    async with gateway() as live:
        response = await live.http.post(
            "/api/images/generate",
            content=b'{"prompt": "a red circle"}',
            headers={"content-type": "text/plain"},
        )
    assert response.status_code == 200
    body = response.json()
    assert re.fullmatch(r"img_[0-9a-f]{24}", body.pop("job_id"))
    message = "Tâche de génération d'images créée avec succès"
    assert body == {"status": "PENDING", "message": message}


async def test_a_completed_job_shows_its_pictures_and_metadata() -> None:
    async with gateway() as live:
        job_id = await live.submit(num_images=2, size="512x512")
        result = await live.ended(job_id)
        status = (await live.http.get(f"/api/images/status/{job_id}")).json()
        url = result["images"][1]["url"]
        picture = await live.http.get(url)
    assert set(result) == {"job_id", "status", "message", "images", "metadata"}
    assert (result["status"], result["message"]) == (
        "COMPLETED",
        "2 image(s) générée(s) avec succès",
    )
    assert result["images"][1] == {
        "file_path": f"./generated_images/{job_id}/image_2.png",
        "url": f"{live.url}/generated_images/{job_id}/image_2.png",
        "description": "a red circle",
        "format": "PNG",
        "size_bytes": len(picture.content),
        "dimensions": "512x512",
    }
    metadata = result["metadata"]
    assert TIME.fullmatch(metadata.pop("timestamp"))
    assert metadata == {
        "model_name": "sdxl-turbo",
        "version": "latest",
        "generation_time_seconds": 0.0,
        "input_tokens": len(live.models.calls[0].prompt.split()),
        "output_size_bytes": sum(image["size_bytes"] for image in result["images"]),
    }
    assert (status["status"], status["progress"]) == ("COMPLETED", 100)
    assert TIME.fullmatch(status["created_at"])
    assert TIME.fullmatch(status["updated_at"])


@pytest.mark.parametrize(
    ("output_format", "extension", "media_type", "kind"),
    [
        ("PNG", "png", "image/png", "PNG"),
        ("JPEG", "jpg", "image/jpeg", "JPEG"),
        ("WEBP", "webp", "image/webp", "WEBP"),
        ("WebP", "webp", "image/webp", "WEBP"),
    ],
    ids=["png", "jpeg", "webp", "WebP"],
)
async def test_pictures_are_files_of_the_asked_format(
    output_format: str, extension: str, media_type: str, kind: str
) -> None:
    async with gateway() as live:
        job_id = await live.submit(format=output_format, size="1792x1024")
        [image] = (await live.ended(job_id))["images"]
        response = await live.http.get(f"/generated_images/{job_id}/image_1.{extension}")
        missing = await live.http.get(f"/generated_images/{job_id}/image_2.{extension}")
        escaping = await live.http.get(f"/generated_images/{job_id}/..%2f{job_id}%2fimage_1.png")
    assert image["url"].endswith(f"image_1.{extension}")
    assert (image["format"], image["dimensions"]) == (kind, "1792x1024")
    assert response.headers["content-type"] == media_type
    assert Image.open(io.BytesIO(response.content)).size == (1792, 1024)
    assert missing.status_code == escaping.status_code == 404
    assert missing.json()["error"] == "Image introuvable"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "Prompt requis"),
        ({"prompt": ""}, "Prompt requis"),
        ({"prompt": "  \n"}, "Prompt requis"),
        ({"prompt": None}, "Prompt requis"),
        ({"prompt": 7}, "Prompt requis"),
        ({"prompt": ["x"], "num_images": 9}, "Prompt requis"),
        ({"prompt": "x", "num_images": 0}, "num_images doit être entre 1 et 4"),
        ({"prompt": "x", "num_images": 5}, "num_images doit être entre 1 et 4"),
        ({"prompt": "x", "num_images": "2"}, "num_images doit être entre 1 et 4"),
        ({"prompt": "x", "num_images": True}, "num_images doit être entre 1 et 4"),
        ({"prompt": "x", "num_images": 1.5}, "num_images doit être entre 1 et 4"),
        ({"prompt": "x", "size": "256x256"}, "size invalide : '256x256'"),
        ({"prompt": "x", "size": 512}, "size invalide : 512"),
        ({"prompt": "x", "format": "GIF"}, "format invalide : 'GIF' ; accepté : PNG"),
        ({"prompt": "x", "style": "cubist"}, "style invalide"),
        ({"prompt": "x", "quality": "best"}, "quality invalide"),
        ({"prompt": "x", "seed": -2}, "seed invalide"),
        ({"prompt": "x", "seed": 2**32}, "seed invalide"),
        ({"prompt": "x", "num_inference_steps": 0}, "num_inference_steps invalide"),
        ({"prompt": "x", "num_inference_steps": 1000}, "num_inference_steps 1000"),
        ({"prompt": "x", "strength": 1.5}, "strength invalide"),
        ({"prompt": "x", "guidance_scale": "7"}, "guidance_scale invalide"),
        ({"prompt": "x", "negative_prompt": 7}, "negative_prompt invalide"),
        ({"prompt": "x" * 20_001}, "prompt trop long"),
        ({"prompt": "x", "input_image_url": 7}, "input_image_url invalide"),
        ({"prompt": "x", "input_image_url": "http://10.0.0.1/a"}, "input_image_url cannot be"),
        ({"prompt": "x", "input_image_url": "data:,words"}, "input_image_url is not an image"),
        ({"prompt": "x", "webhook_url": "http://192.168.0.1/"}, "webhook_url cannot be"),
        ({"prompt": "x", "webhook_url": "mailto:me"}, "webhook_url cannot be"),
        (["x"], "le corps doit être un objet JSON"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_bad_value_is_refused_by_name(body: Any, text: str) -> None:
    async with gateway() as live:
        response = await live.http.post("/api/images/generate", json=body)
    assert response.status_code == 400
    assert set(response.json()) == {"error", "message"}
    assert response.json()["error"].startswith(text)
    assert response.json()["message"].startswith(text)


@pytest.mark.parametrize("body", [b"", b"{", b'{"prompt": NaN}', b"\xff", b'{"prompt": "\\ud800"}'])
async def test_bad_json_is_a_400(body: bytes) -> None:
    async with gateway() as live:
        response = await live.http.post("/api/images/generate", content=body)
    assert response.status_code == 400
    assert set(response.json()) == {"error", "message"}


async def test_null_is_the_same_as_absent() -> None:
    names = ("input_image_url", "num_images", "size", "format", "style", "quality", "seed", "model")
    async with gateway() as live:
        result = await live.ended(await live.submit(**dict.fromkeys(names)))
    assert result["images"][0]["dimensions"] == "1024x1024"


async def test_style_and_quality_change_the_prompt_and_the_steps() -> None:
    async with gateway() as live:
        for quality in ("standard", "high", "ultra"):
            await live.ended(await live.submit(quality=quality, style="3d-render"))
        await live.ended(await live.submit(quality="ultra", num_inference_steps=3))
        long = "x" * 20_000
        await live.ended(await live.submit(long))
    calls = live.models.calls
    assert [call.params.num_inference_steps for call in calls] == [2, 4, 8, 3, 4]
    assert [call.prompt for call in calls] == [
        "a red circle, 3D render",
        "a red circle, 3D render, high quality",
        "a red circle, 3D render, highest quality, fine detail",
        "a red circle, photorealistic, highest quality, fine detail",
        long,
    ]


async def test_extra_fields_are_honoured() -> None:
    fields = {"seed": 7, "negative_prompt": "clouds", "guidance_scale": 3, "strength": 0.4}
    async with gateway() as live:
        await live.ended(await live.submit(input_image_url=DATA_URL, **fields))
    [call] = live.models.calls
    assert (call.negative_prompt, call.images) == ("clouds", (png(),))
    assert (call.params.seed, call.params.guidance_scale, call.params.strength) == (7, 3, 0.4)


async def test_an_input_picture_is_fetched() -> None:
    app = FastAPI()
    app.add_api_route("/a.png", lambda: Response(png(), media_type="image/png"))
    async with serve(app) as origin, gateway(SDXL) as live:
        await live.ended(await live.submit(input_image_url=f"{origin}/a.png"))
        missing = await live.http.post(
            "/api/images/generate",
            json={"prompt": "x", "input_image_url": f"{origin}/none.png"},
        )
    assert live.models.calls[0].images == (png(),)
    assert missing.status_code == 400
    assert "answered 404" in missing.json()["error"]


@pytest.mark.parametrize(
    ("cards", "fields", "model"),
    [
        ((SDXL,), {}, "sdxl-turbo"),
        ((SDXL, QWEN, NO_KEY), {}, "sdxl-turbo"),
        ((SDXL, QWEN, NO_KEY), {"input_image_url": DATA_URL}, "qwen-image-edit"),
        ((SDXL, NO_KEY), {"input_image_url": DATA_URL}, "sdxl-turbo"),
        ((SDXL, QWEN, GEMINI), {}, "gemini-flash-image"),
        ((SDXL, QWEN, GEMINI), {"input_image_url": DATA_URL}, "gemini-flash-image"),
        ((SDXL, QWEN, GEMINI), {"guidance_scale": 2.0}, "sdxl-turbo"),
        ((SDXL, QWEN, GEMINI), {"model": "sdxl-turbo"}, "sdxl-turbo"),
        ((SDXL, QWEN, GEMINI), {"model": "gemini-2.0-flash-exp"}, "gemini-flash-image"),
    ],
    ids=["alone", "no key", "no key edit", "no editor", "key", "key edit", "knob", "id", "alias"],
)
async def test_the_metadata_names_the_model_that_ran(
    cards: tuple[Any, ...], fields: dict[str, Any], model: str
) -> None:
    async with gateway(*cards) as live:
        result = await live.ended(await live.submit(**fields))
    assert result["metadata"]["model_name"] == model


@pytest.mark.parametrize("cards", [(SDXL,), (SDXL, NO_KEY)], ids=["not hosted", "no key"])
@pytest.mark.parametrize("name", ["gemini-flash-image", "gemini-2.0-flash-exp"])
async def test_naming_gemini_without_its_key_is_the_documents_500(
    cards: tuple[Any, ...], name: str
) -> None:
    async with gateway(*cards) as live:
        response = await live.http.post("/api/images/generate", json={"prompt": "x", "model": name})
    assert response.status_code == 500
    assert response.json()["error"] == "Clé API Google non configurée"


async def test_an_unknown_model_and_a_knob_that_gemini_lacks_are_refused() -> None:
    async with gateway(SDXL, GEMINI) as live:
        unknown = await live.http.post(
            "/api/images/generate", json={"prompt": "x", "model": "nothing"}
        )
        knob = await live.http.post(
            "/api/images/generate",
            json={"prompt": "x", "model": "gemini-flash-image", "strength": 0.5},
        )
    assert unknown.status_code == 404
    assert "Modèle inconnu" in unknown.json()["error"]
    assert knob.status_code == 400
    assert "strength" in knob.json()["error"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/images/status/img_none"),
        ("GET", "/api/images/result/img_none"),
        ("DELETE", "/api/images/img_none"),
        ("GET", "/generated_images/img_none/image_1.png"),
    ],
)
async def test_an_unknown_job_is_a_404(method: str, path: str) -> None:
    async with gateway() as live:
        response = await live.http.request(method, path)
    assert response.status_code == 404
    text = "Tâche introuvable"
    assert response.json() == {"error": text, "message": text}


async def test_progress_rises_and_an_unfinished_result_is_a_202() -> None:
    async with gateway(step_seconds=0.1) as live:
        job_id = await live.submit(num_inference_steps=10)
        early = await live.http.get(f"/api/images/result/{job_id}")
        seen = []
        while True:
            body = (await live.http.get(f"/api/images/status/{job_id}")).json()
            seen.append((body["status"], body["progress"]))
            if body["status"] == "COMPLETED":
                break
            await asyncio.sleep(0.05)
    assert early.status_code == 202
    assert early.json()["status"] in ("PENDING", "INITIALIZING")
    progress = [number for _, number in seen]
    assert progress == sorted(progress)
    assert progress[-1] == 100
    assert any(name == "GENERATING" and 5 < number < 100 for name, number in seen)


async def test_cancelling_ends_a_job() -> None:
    async with gateway(step_seconds=0.2) as live:
        job_id = await live.submit(num_inference_steps=50)
        cancelled = await live.http.delete(f"/api/images/{job_id}")
        again = await live.http.delete(f"/api/images/{job_id}")
        result = await live.http.get(f"/api/images/result/{job_id}")
    assert cancelled.status_code == again.status_code == 200
    assert cancelled.json()["status"] == "CANCELLED"
    assert result.status_code == 200
    assert result.json() == {
        "job_id": job_id,
        "status": "CANCELLED",
        "message": "Génération annulée",
        "errors": ["Tâche annulée"],
    }


async def test_a_failed_job_shows_its_errors() -> None:
    async with gateway() as live:
        job_id = await live.submit("fail:worker")
        while True:
            status = (await live.http.get(f"/api/images/status/{job_id}")).json()
            if status["status"] == "FAILED":
                break
            await asyncio.sleep(0.1)
        result = await live.http.get(f"/api/images/result/{job_id}")
    assert result.status_code == 200
    assert result.json()["message"] == status["message"] == "Échec de la génération"
    assert len(result.json()["errors"]) == len(status["errors"]) == 1
    assert "images" not in result.json()


async def test_an_idempotency_key_gives_the_first_job() -> None:
    async with gateway() as live:
        headers = {"Idempotency-Key": "k1"}

        async def post(body: dict[str, Any], **extra: str) -> httpx.Response:
            return await live.http.post("/api/images/generate", json=body, headers=headers | extra)

        first, second = await post({"prompt": "x"}), await post({"prompt": "x"})
        other = await post({"prompt": "y"})
        long = await live.http.post(
            "/api/images/generate", json={"prompt": "x"}, headers={"Idempotency-Key": "k" * 300}
        )
        plain = [await live.submit("x"), await live.submit("x")]
    assert first.json() == second.json()
    assert other.status_code == 409
    assert long.status_code == 400
    assert len({first.json()["job_id"], *plain}) == 3


async def test_lists_have_pages_and_filters() -> None:
    async with gateway() as live:
        ids = [await live.submit() for _ in range(5)]
        for job_id in ids:
            await live.ended(job_id)
        seen, cursor = [], None
        while True:
            params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            page = (await live.http.get("/api/images", params=params)).json()
            seen += [job["job_id"] for job in page["jobs"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        done = (await live.http.get("/api/images?status=completed")).json()["jobs"]
        waiting = (await live.http.get("/api/images?status=PENDING,GENERATING")).json()["jobs"]
        refused = [
            await live.http.get(f"/api/images?{query}")
            for query in ("status=DONE", "limit=0", "limit=x", "cursor=%00")
        ]
    assert seen == ids[::-1]
    assert len(done) == 5
    assert (done[0]["api"], done[0]["model"]) == ("image_jobs", "sdxl-turbo")
    assert waiting == []
    assert [response.status_code for response in refused] == [400] * 4


async def test_nobody_sees_anothers_job() -> None:
    async with gateway(api_key="k", user="ann") as live:
        job_id = await live.submit()
        await live.ended(job_id)
        bob = httpx.BasicAuth("bob", "k")
        paths = (f"/api/images/status/{job_id}", f"/generated_images/{job_id}/image_1.png")
        for path in paths:
            assert (await live.http.get(path)).status_code == 200
            assert (await live.http.get(path, auth=bob)).status_code == 404
        assert (await live.http.get("/api/images", auth=bob)).json()["jobs"] == []
        async with httpx.AsyncClient(base_url=live.url) as nobody:
            refused = await nobody.get("/api/images")
    assert refused.status_code == 401
    assert refused.json()["error"] == "Authentification requise"
    assert refused.headers["www-authenticate"]


async def test_urls_take_the_public_base() -> None:
    async with gateway(public_url="https://pictures.example/") as live:
        job_id = await live.submit()
        [image] = (await live.ended(job_id))["images"]
    assert image["url"] == f"https://pictures.example/generated_images/{job_id}/image_1.png"


@pytest.mark.parametrize(
    ("status", "progress", "shown", "percent"),
    [
        (JobStatus.QUEUED, None, "PENDING", 0),
        (JobStatus.QUEUED, (2, 4), "PENDING", 50),
        (JobStatus.IN_PROGRESS, None, "INITIALIZING", 5),
        (JobStatus.IN_PROGRESS, (0, 4), "INITIALIZING", 5),
        (JobStatus.IN_PROGRESS, (2, 4), "GENERATING", 50),
        (JobStatus.IN_PROGRESS, (4, 4), "SAVING", 95),
        (JobStatus.COMPLETED, (4, 4), "COMPLETED", 100),
        (JobStatus.FAILED, (2, 4), "FAILED", 50),
        (JobStatus.CANCELLED, None, "CANCELLED", 0),
    ],
)
def test_statuses_and_progress(
    status: JobStatus, progress: tuple[int, int] | None, shown: str, percent: int
) -> None:
    request = StoredRequest(request=GenerationRequest(prompt="x"))
    job = new_job((request,), api="image_jobs", owner="o", model="m", status=status)
    news = JobProgress(step=progress[0], num_steps=progress[1]) if progress else None
    assert wire.wire_status(job, news) == shown
    assert wire.percent(job, news) == percent
