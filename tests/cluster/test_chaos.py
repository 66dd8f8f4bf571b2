"""Nothing that was accepted is lost, whoever is killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.server import Server, embedded_config, fake_application

NUM_JOBS = 12
STEPS = 100
#: Seconds of one attempt: everything is killed before the first could end.
STEP_SECONDS = 0.15


def config() -> dict[str, Any]:
    """The embedded configuration's gateway, with short leases, over one fake model."""
    config = embedded_config()
    gateway = config["applications"][0]
    gateway["args"] = {"lease_seconds": 4}
    return {
        **config,
        "applications": [
            gateway,
            # Without guidance, twelve pictures of 512 x 512 share every forward pass.
            fake_application(
                "fake",
                step_seconds=STEP_SECONDS,
                max_batch_tokens=65536,
                defaults={"guidance_scale": 1.0},
            ),
        ],
    }


def test_nothing_accepted_is_lost_whoever_is_killed(
    tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    server = Server(config(), tmp_path)
    server.start()
    try:
        with ThreadPoolExecutor(NUM_JOBS) as pool:
            job_ids = [submit_image_job(server.url, n) for n in range(NUM_JOBS // 2)]
            calls = [
                pool.submit(generate_until_answered, server.url, n)
                for n in range(NUM_JOBS // 2, NUM_JOBS)
            ]
            wait_until_in_progress(server.url, job_ids)
            for title in ("ServeReplica:fake", "ServeReplica:gateway", "ProxyActor"):
                seconds = kill_and_recover(server, title)
                record_testsuite_property(f"seconds to recover from {title}", round(seconds, 1))
            server.kill_all()
            seconds = server.start()
            record_testsuite_property("seconds to recover from a power loss", round(seconds, 1))
            finished = [wait_for_result(server.url, job_id) for job_id in job_ids]
            answered = [result(call) for call in calls]
        check_pictures(server, finished, answered)
    finally:
        server.stop()


def submit_image_job(url: str, seed: int) -> str:
    body = {
        "prompt": f"chaos {seed}",
        "model": "fake",
        "seed": seed,
        "num_inference_steps": STEPS,
        "num_images": 1,
        "size": "512x512",
    }
    job_id: str = httpx.post(f"{url}/api/images/generate", json=body).json()["job_id"]
    return job_id


def generate_until_answered(url: str, seed: int) -> dict[str, Any]:
    """What a careful client does: the same key again until there is an answer."""
    body = {
        "prompt": f"chaos {seed}",
        "seed": seed,
        "num_inference_steps": STEPS,
        "model": "fake",
        "guidance_scale": 1,
    }
    for _ in range(600):
        try:
            response = httpx.post(
                f"{url}/generate", json=body, headers={"Idempotency-Key": f"{seed}"}, timeout=120
            )
            if response.status_code == 200:
                answer: dict[str, Any] = response.json()
                return answer
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise TimeoutError(f"no answer for seed {seed}")


def wait_until_in_progress(url: str, job_ids: list[str]) -> None:
    for job_id in job_ids:
        while status(url, job_id)["progress"] < 2:
            time.sleep(0.1)


def kill_and_recover(server: Server, title: str) -> float:
    """Seconds from the kill until a picture can be had again."""
    assert server.kill(title) >= 1
    killed = time.monotonic()
    body = {"prompt": "probe", "num_inference_steps": 1, "model": "fake"}
    while True:
        try:
            if httpx.post(f"{server.url}/generate", json=body, timeout=60).status_code == 200:
                return time.monotonic() - killed
        except httpx.HTTPError:
            pass
        assert time.monotonic() - killed < 90, server.log()
        time.sleep(0.2)


def wait_for_result(url: str, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if status(url, job_id)["status"] in ("COMPLETED", "FAILED", "CANCELLED"):
            answer: dict[str, Any] = httpx.get(f"{url}/api/images/result/{job_id}").json()
            return answer
        time.sleep(0.3)
    raise TimeoutError(job_id)


def status(url: str, job_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{url}/api/images/status/{job_id}", timeout=30).json()
    return answer


def result(call: Future[dict[str, Any]]) -> dict[str, Any]:
    return call.result(timeout=180)


def check_pictures(
    server: Server, finished: list[dict[str, Any]], answered: list[dict[str, Any]]
) -> None:
    assert [answer["status"] for answer in finished] == ["COMPLETED"] * len(finished)
    assert all(answer["success"] for answer in answered)
    ids = [answer["job_id"] for answer in (*finished, *answered)]
    assert len(set(ids)) == NUM_JOBS
    for job_id in ids:
        kept = sorted(p.name for p in (server.folder / "generated_images" / job_id).iterdir())
        assert kept == ["image_1.png"]
    for answer in finished:
        picture = httpx.get(answer["images"][0]["url"])
        assert picture.headers["content-type"] == "image/png"
        assert len(picture.content) == answer["images"][0]["size_bytes"]
    listed = every_job(server.url)
    chaotic = [job for job in listed if job["job_id"] in set(ids)]
    assert len(chaotic) == NUM_JOBS


def every_job(url: str) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        params = {"limit": 100} | ({"cursor": cursor} if cursor else {})
        page = httpx.get(f"{url}/api/images", params=params).json()
        jobs += page["jobs"]
        cursor = page["next_cursor"]
        if cursor is None:
            return jobs


pytestmark = pytest.mark.timeout(600)
