"""The image jobs' clients and the examples of the document, against a live gateway."""

from __future__ import annotations

import asyncio
import io
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.responses import Response

from clients.image_jobs_client import (
    AsyncImageJobsClient,
    ImageJobError,
    ImageJobsClient,
    WebhookInvalid,
    verify_webhook,
)
from router.fetch import Fetcher
from router.webhooks import signed_headers
from tests.loopback import serve
from tests.router.apis.image_jobs_gateway import LOOPBACK, gateway
from tests.router.test_fetch import reply, tls_contexts
from tests.router.test_fetch import serve as serve_raw

DOCUMENT = Path(__file__).parent / "image_jobs_document.md"
#: The port that the document's examples name.
PORT = "http://localhost:9006"
SECRET = "sorami-webhook-secret-key-2025"


def examples(language: str) -> list[str]:
    """The document's code blocks of a language, as they stand."""
    blocks = DOCUMENT.read_text().split("```")[1::2]
    return [block.split("\n", 1)[1] for block in blocks if block.startswith(f"{language}\n")]


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "blue").save(out, "PNG")
    return out.getvalue()


def curl(command: str) -> dict[str, object]:
    done = subprocess.run(
        ["bash", "-c", command.replace("curl ", "curl -sS --noproxy '*' ", 1)],
        check=True,
        capture_output=True,
        timeout=20,
    )
    body: dict[str, object] = json.loads(done.stdout)
    return body


async def test_the_documents_python_runs_as_written() -> None:
    [code] = examples("python")
    async with gateway() as live:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", code.replace(PORT, live.url)],
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert done.returncode == 0, done.stderr
    assert "✅ Tâche créée : img_" in done.stdout
    assert "COMPLETED - 1 image(s) générée(s) avec succès" in done.stdout
    assert "Dimensions : 1024x1024" in done.stdout
    assert "Modèle : sdxl-turbo" in done.stdout


async def test_the_documents_curl_examples_run_as_written(tmp_path: Path) -> None:
    commands = [block for block in examples("bash") if block.startswith("curl")]
    simple, multimodal, status, result, _health = commands
    server_tls, client_tls = tls_contexts("example.com", tmp_path)
    async with (
        serve_raw(reply(png()), server_tls) as origin,
        gateway(fetcher=fetcher_of("example.com", client_tls)) as live,
    ):
        # "l'espace" ends the shell's quotation early, in the document as well.
        simple = simple.replace("l'espace", "l'\\''espace")
        multimodal = multimodal.replace("//example.com", f"//example.com:{origin.port}")
        for command in (simple, multimodal):
            body = await asyncio.to_thread(curl, command.replace(PORT, live.url))
            assert body["status"] == "PENDING"
            job_id = str(body["job_id"])
            await live.ended(job_id)
        for command, message in (
            (status, "2 image(s) générée(s) avec succès"),
            (result, "2 image(s) générée(s) avec succès"),
        ):
            asked = command.replace(PORT, live.url).replace("img_abc123xyz", job_id)
            assert (await asyncio.to_thread(curl, asked))["message"] == message
    call = live.models.calls[1]
    assert call.images == (png(),)
    assert (call.params.width, call.params.height, call.output_format) == (1792, 1024, "jpeg")


async def test_the_client_submits_waits_and_downloads() -> None:
    async with gateway(api_key="k") as live:

        def use() -> None:
            with ImageJobsClient(live.url, "k") as client:
                job = client.submit("a red circle", size="512x512", num_images=2)
                result = client.wait(job["job_id"], timeout=10, interval=0.05)
                assert result["status"] == "COMPLETED"
                pictures = [client.download(image) for image in result["images"]]
                assert Image.open(io.BytesIO(pictures[1])).size == (512, 512)
                assert client.status(job["job_id"])["progress"] == 100
                assert client.list(limit=1)["jobs"][0]["job_id"] == job["job_id"]
                assert client.list(status="FAILED")["jobs"] == []
                once = [client.submit("x", idempotency_key="k1") for _ in range(2)]
                assert once[0] == once[1]

        await asyncio.to_thread(use)


async def test_the_client_tells_refusals_and_its_patience() -> None:
    async with gateway(step_seconds=0.2) as live:

        def use() -> None:
            with ImageJobsClient(live.url) as client:
                with pytest.raises(ImageJobError, match="Prompt requis") as caught:
                    client.submit(" ")
                assert caught.value.status == 400
                with pytest.raises(ImageJobError, match="Tâche introuvable"):
                    client.result("img_none")
                job_id = client.submit("x", num_inference_steps=100)["job_id"]
                with pytest.raises(TimeoutError):
                    client.wait(job_id, timeout=0.2, interval=0.1)
                assert client.cancel(job_id)["status"] == "CANCELLED"

        await asyncio.to_thread(use)


async def test_the_async_client_does_the_same() -> None:
    async with gateway(step_seconds=0.01) as live, AsyncImageJobsClient(live.url) as client:
        job = await client.submit("a red circle", num_inference_steps=10)
        result = await client.wait(job["job_id"], interval=0.05)
        assert Image.open(io.BytesIO(await client.download(result["images"][0]))).width == 1024
        assert (await client.list())["jobs"][0]["status"] == "COMPLETED"
        slow = await client.submit("x", num_inference_steps=100)
        with pytest.raises(TimeoutError):
            await client.wait(slow["job_id"], timeout=0.2, interval=0.05)
        assert (await client.cancel(slow["job_id"]))["status"] == "CANCELLED"
        with pytest.raises(ImageJobError):
            await client.status("img_none")


async def test_an_answer_that_is_no_json_is_told_by_its_status() -> None:
    app = FastAPI()
    app.add_api_route("/api/images", lambda: Response("busy", status_code=503))
    async with serve(app) as url, AsyncImageJobsClient(url) as client:
        with pytest.raises(ImageJobError, match="HTTP 503"):
            await client.list()


@pytest.mark.parametrize("secret", [SECRET, "whsec_c29yYW1p", "whsec_not base64"])
def test_a_webhook_of_the_gateway_is_verified(secret: str) -> None:
    body = '{"status": "completed", "message": "Génération"}'.encode()
    headers = signed_headers(secret, "msg_1", int(time.time()), body)
    upper = {name.title(): value for name, value in headers.items()}
    assert verify_webhook(body, upper, secret)["status"] == "completed"


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,é"},
        {"webhook-id": "msg_2"},
        {"webhook-timestamp": "1614265330"},
        {"webhook-timestamp": "soon"},
    ],
    ids=str,
)
def test_a_webhook_that_was_changed_is_refused(change: dict[str, str]) -> None:
    body = b"{}"
    headers = signed_headers(SECRET, "msg_1", int(time.time()), body) | change
    with pytest.raises(WebhookInvalid):
        verify_webhook(body, headers, SECRET)
    with pytest.raises(WebhookInvalid):
        verify_webhook(b"[]", signed_headers(SECRET, "m", int(time.time()), body), SECRET)
    with pytest.raises(WebhookInvalid):
        verify_webhook(body, {}, SECRET)


def fetcher_of(name: str, tls: ssl.SSLContext) -> Fetcher:
    """A fetcher for which one name, and every literal address, is on loopback."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"] if host == name else [host]

    return Fetcher(allow=LOOPBACK, resolver=resolve, tls=tls)
