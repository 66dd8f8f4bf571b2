"""Webhooks: payloads as documented, signatures, order, retries and resending."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from clients.image_jobs_client import verify_webhook
from router.fetch import Fetcher
from router.store.deliveries import Delivery, DeliveryStatus
from router.store.memory_deliveries import MemoryDeliveryStore
from router.store.memory_jobs import MemoryJobStore
from router.webhooks import RETRY_SECONDS, Webhooks, sign
from tests.loopback import serve
from tests.router.apis.image_jobs_gateway import Receiver, gateway

SECRET = "sorami-webhook-secret-key-2025"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


async def until(is_true: Callable[[], object], seconds: float = 8.0) -> None:
    async with asyncio.timeout(seconds):
        while not is_true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def payloads(receiver: Receiver) -> list[dict[str, Any]]:
    return [json.loads(body) for body in receiver.bodies]


async def test_the_operators_address_learns_that_a_job_completed() -> None:
    receiver = Receiver()
    # The operator's own address may be loopback, although no network is admitted.
    async with (
        serve(receiver.app()) as url,
        gateway(url=f"{url}/done", secret=SECRET, fetcher=Fetcher(), marks=()) as live,
    ):
        job_id = await live.submit(size="512x512")
        result = await live.ended(job_id)
        await until(lambda: receiver.bodies)
    [payload] = payloads(receiver)
    ended_at = result["metadata"]["timestamp"]
    assert payload == {
        "job_id": job_id,
        "status": "completed",
        "timestamp": ended_at,
        "environment": "development",
        "data": {
            "job_id": job_id,
            "images": result["images"],
            "metadata": result["metadata"],
            "status": "COMPLETED",
            "generated_at": ended_at,
        },
    }
    headers = receiver.headers[0]
    assert headers["x-webhook-secret"] == SECRET
    assert headers["content-type"] == "application/json"
    assert verify_webhook(receiver.bodies[0], headers, SECRET) == payload


async def test_a_request_has_an_address_of_its_own() -> None:
    receiver = Receiver()
    async with serve(receiver.app()) as url, gateway(secret=SECRET, marks=()) as live:
        await live.ended(await live.submit())
        job_id = await live.submit(webhook_url=f"{url}/mine")
        await live.ended(job_id)
        await until(lambda: receiver.bodies)
    assert [payload["job_id"] for payload in payloads(receiver)] == [job_id]


async def test_a_failed_and_a_cancelled_job_are_told_as_failed() -> None:
    receiver = Receiver()
    async with (
        serve(receiver.app()) as url,
        gateway(url=url, marks=(), step_seconds=0.05) as live,
    ):
        cancelled = await live.submit(num_inference_steps=100)
        await live.http.delete(f"/api/images/{cancelled}")
        failed = await live.submit("fail:worker")
        await until(lambda: len(receiver.bodies) == 2)
    first, second = payloads(receiver)
    assert TIME.fullmatch(first.pop("timestamp"))
    assert first == {
        "job_id": cancelled,
        "status": "failed",
        "environment": "development",
        "error_message": "Tâche annulée",
        "message": "Échec de la génération d'images",
    }
    assert second["job_id"] == failed
    assert second["error_message"]
    assert "webhook-signature" not in receiver.headers[0]
    assert "x-webhook-secret" not in receiver.headers[0]


async def test_progress_is_told_in_order_before_the_end() -> None:
    receiver = Receiver()
    async with serve(receiver.app()) as url, gateway(url=url, step_seconds=0.05) as live:
        job_id = await live.submit(num_inference_steps=20)
        await until(lambda: receiver.bodies and payloads(receiver)[-1]["status"] == "completed")
    *generating, _ = payloads(receiver)
    assert [payload["progress"] for payload in generating] == [27, 50, 72]
    assert TIME.fullmatch(generating[1].pop("timestamp"))
    assert generating[1] == {
        "job_id": job_id,
        "status": "generating",
        "progress": 50,
        "message": "Génération en cours...",
    }


async def test_a_refused_delivery_is_tried_again_after_a_second_with_its_id() -> None:
    receiver = Receiver(statuses=(500, 302, 204))
    async with (
        serve(receiver.app()) as url,
        gateway(url=url, secret=SECRET, marks=(), retry_seconds=(1.0, 0.1)) as live,
    ):
        started = time.monotonic()
        await live.submit()
        await until(lambda: len(receiver.bodies) == 3)
        assert time.monotonic() - started >= 1
        await asyncio.sleep(0.3)
        [delivery] = (await live.http.get("/api/webhooks/deliveries")).json()["deliveries"]
    assert len({headers["webhook-id"] for headers in receiver.headers}) == 1
    assert len(set(receiver.bodies)) == 1
    assert (delivery["status"], delivery["attempts"]) == ("delivered", 3)
    assert delivery["id"] == receiver.headers[0]["webhook-id"]


async def test_a_delivery_is_given_up_listed_and_sent_again() -> None:
    receiver = Receiver(statuses=(500, 500, 200))
    async with (
        serve(receiver.app()) as url,
        gateway(url=url, marks=(), retry_seconds=(0.05,), api_key="k", user="ann") as live,
    ):
        job_id = await live.submit()

        async def listed(**query: str) -> list[dict[str, Any]]:
            response = await live.http.get("/api/webhooks/deliveries", params=query)
            deliveries: list[dict[str, Any]] = response.json()["deliveries"]
            return deliveries

        await until(lambda: len(receiver.bodies) == 2)
        await asyncio.sleep(0.1)
        [delivery] = await listed(job_id=job_id)
        assert (delivery["status"], delivery["event"]) == ("failed", "completed")
        assert delivery["last_error"] == "the receiver answered 500"
        assert "payload" not in delivery
        assert await listed(job_id="img_other") == []

        path = f"/api/webhooks/deliveries/{delivery['id']}/resend"
        strange = await live.http.post(path, auth=httpx.BasicAuth("bob", "k"))
        assert strange.status_code == 404
        resent = await live.http.post(path)
        assert resent.json()["status"] == "pending"
        await until(lambda: len(receiver.bodies) == 3)
        await asyncio.sleep(0.1)
        assert (await listed())[0]["status"] == "delivered"
        missing = await live.http.post("/api/webhooks/deliveries/msg_none/resend")
        assert missing.status_code == 404
        assert set(missing.json()) == {"error", "message"}


async def test_what_was_written_before_a_restart_is_posted_after_it() -> None:
    receiver = Receiver()
    store = MemoryDeliveryStore(MemoryJobStore())
    async with serve(receiver.app()) as url:
        for name in ("a", "b"):
            await store.add([row(name, url)])
        webhooks = Webhooks(
            deliveries=store, fetcher=Fetcher(), render=lambda job, news: {}, url=url
        )
        webhooks.start()
        await until(lambda: len(receiver.bodies) == 2)
        await webhooks.stop()
    assert receiver.bodies == [b'{"n": "a"}', b'{"n": "b"}']
    assert (await store.get("a")).status is DeliveryStatus.DELIVERED


async def test_stopping_in_the_middle_leaves_the_delivery_due() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await reader.read()
        writer.close()

    arrived = asyncio.Event()
    store = MemoryDeliveryStore(MemoryJobStore())
    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    await store.add([row("a", url)])
    webhooks = Webhooks(deliveries=store, fetcher=Fetcher(), render=lambda job, news: {}, url=url)
    webhooks.start()
    await arrived.wait()
    await webhooks.stop()
    server.close()
    delivery = await store.get("a")
    assert delivery.status is DeliveryStatus.PENDING
    assert delivery.next_attempt_at <= time.time()


async def test_an_address_that_became_private_is_not_asked() -> None:
    receiver = Receiver()
    store = MemoryDeliveryStore(MemoryJobStore())
    async with serve(receiver.app()) as url:
        await store.add([row("a", url)])
        webhooks = Webhooks(
            deliveries=store,
            fetcher=Fetcher(),
            render=lambda job, news: {},
            secret=SECRET,
            retry_seconds=(),
        )
        webhooks.start()
        async with asyncio.timeout(5):
            while (await store.get("a")).status is DeliveryStatus.PENDING:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await webhooks.stop()
    assert receiver.bodies == []
    assert "not at a public address" in (await store.get("a")).last_error


async def test_webhooks_that_are_off_tell_only_those_who_ask() -> None:
    store = MemoryDeliveryStore(MemoryJobStore())
    webhooks = Webhooks(
        deliveries=store,
        fetcher=Fetcher(),
        render=lambda job, news: {},
        url="http://127.0.0.1:1/",
        is_enabled=False,
    )
    assert not webhooks.can_notify(None)
    assert webhooks.can_notify("https://receiver.example/")


def test_the_signature_is_that_of_standard_webhooks() -> None:
    # The specification's own example.
    signature = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_retries_begin_after_a_second_and_last_for_hours() -> None:
    assert RETRY_SECONDS[0] == 1
    assert list(RETRY_SECONDS) == sorted(RETRY_SECONDS)
    assert sum(RETRY_SECONDS) > 12 * 3600


def row(name: str, url: str) -> Delivery:
    return Delivery(
        id=name,
        job_id="img_1",
        owner="default",
        url=url,
        event="completed",
        payload=json.dumps({"n": name}),
        created_at=time.time(),
    )


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    # A proxy of the environment must not be asked: with this one nothing would arrive.
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
