"""Jobs for tests of the stores."""

from __future__ import annotations

from typing import Any

from deployments.types import GenerationRequest, SamplingParams
from router.job import Job, JobImage, JobStatus, StoredRequest, input_key, new_job, output_key
from router.store.files import StoredFile
from router.store.jobs import Outcome

INPUT = input_key(b"an input picture")
MASK = input_key(b"a mask")


def make_job(*, owner: str = "ada", model: str = "sdxl", **fields: Any) -> Job:
    """A queued job with an input picture and a mask."""
    params = SamplingParams(width=64, height=64, num_images=2, seed=2**63)
    request = GenerationRequest(prompt="a cube \0 \ud800 é", model=model, params=params)
    stored = StoredRequest(request=request, image_keys=(INPUT, INPUT), mask_key=MASK)
    fields = {"api": "openai", "details": {"n": [1, None, "é"]}, **fields}
    return new_job((stored,), owner=owner, model=model, **fields)


def completed(job: Job, *, num_bytes: int = 10) -> Outcome:
    """The outcome with one picture."""
    image = JobImage(
        key=output_key(job.id, 0, "png"),
        seed=7,
        width=64,
        height=64,
        format="png",
        num_bytes=num_bytes,
    )
    return Outcome(status=JobStatus.COMPLETED, images=(image,), prompt_tokens=3, seconds=0.25)


def make_file(**fields: Any) -> StoredFile:
    """A file that a job of Ada's saved, unless the fields say otherwise."""
    given = {
        "owner": "ada",
        "kind": "output",
        "subfolder": "",
        "name": "a.png",
        "key": "job/a.png",
        "num_bytes": 10,
        "created_at": 1_800_000_000.25,
        "job_id": "job",
        **fields,
    }
    return StoredFile(**given)
