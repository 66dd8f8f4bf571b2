"""The job itself: its states, its keys, and its way into a row and back."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pytest

from deployments.types import (
    GenerationRequest,
    LoraUse,
    PromptPart,
    SamplingParams,
    SecondPass,
    WeightsSource,
)
from router.job import (
    JobStatus,
    OwnWeights,
    can_become,
    dump_own,
    dump_requests,
    input_key,
    new_job,
    new_job_id,
    output_key,
    parse_own,
    parse_requests,
    restore_request,
    store_request,
)

REQUEST = GenerationRequest(
    prompt="a cube",
    model="sdxl",
    images=(b"one", b"two", b"one"),
    mask=b"mask",
    params=SamplingParams(width=64, seed=2**64 - 1, strength=0.5),
    output_format="webp",
)
ALLOWED = {
    ("queued", "in_progress"),
    ("queued", "completed"),
    ("queued", "failed"),
    ("queued", "cancelled"),
    ("in_progress", "queued"),
    ("in_progress", "completed"),
    ("in_progress", "failed"),
    ("in_progress", "cancelled"),
}


@pytest.mark.parametrize("status", JobStatus)
@pytest.mark.parametrize("following", JobStatus)
def test_can_become_for_every_pair(status: JobStatus, following: JobStatus) -> None:
    assert can_become(status, following) is ((status, following) in ALLOWED)


def test_is_final_for_every_status() -> None:
    assert [s for s in JobStatus if s.is_final] == ["completed", "failed", "cancelled"]


def test_request_when_stored_leaves_its_bytes_out_and_gets_them_back() -> None:
    stored, blobs = store_request(REQUEST)

    assert blobs == {input_key(data): data for data in (b"one", b"two", b"mask")}
    assert (stored.request.images, stored.request.mask) == ((), None)
    assert stored.keys == tuple(input_key(d) for d in (b"one", b"two", b"one", b"mask"))
    assert restore_request(stored, blobs) == REQUEST


def test_request_when_it_has_no_pictures_needs_none() -> None:
    plain = replace(REQUEST, images=(), mask=None)
    stored, blobs = store_request(plain)

    assert (blobs, stored.keys) == ({}, ())
    assert restore_request(stored, {}) == plain


def test_requests_when_dumped_are_json_and_parse_to_the_same() -> None:
    stored, _ = store_request(REQUEST)
    dumped = json.loads(json.dumps(dump_requests((stored, stored))))

    assert parse_requests(dumped) == (stored, stored)


def test_requests_with_loras_come_back_with_them() -> None:
    ink = LoraUse(name="ink", weight=-0.5, text_weight=0.25)
    request = replace(
        REQUEST,
        loras=(ink,),
        parts=(PromptPart(text="a", loras=(ink,)), PromptPart(text="b", loras=())),
        negative_parts=(PromptPart(text="c"),),
        second_pass=SecondPass(width=64, height=64, loras=(ink,)),
    )
    stored, _ = store_request(request)

    dumped = json.loads(json.dumps(dump_requests((stored,))))

    assert parse_requests(dumped) == (stored,)
    assert request.all_loras == (ink, ink, ink)


def test_requests_when_written_by_an_older_release_get_defaults() -> None:
    dumped = dump_requests((store_request(REQUEST)[0],))
    del dumped[0]["request"]["num_previews"], dumped[0]["request"]["params"]["eta"]
    del dumped[0]["request"]["loras"]

    (parsed,) = parse_requests(dumped)

    assert (parsed.request.num_previews, parsed.request.params.eta) == (0, 0.0)


def test_owners_weights_and_loras_come_back_also_from_an_older_release() -> None:
    source = WeightsSource(id="pm_1", kind="hub", location="ann/wool@1", is_lora=True, digest="f")
    own = OwnWeights(name="wool", base="sdxl", source=source)
    request = replace(
        REQUEST,
        weights="sks",
        weights_source=WeightsSource(id="pm_2", kind="path", location="/sks"),
        loras=(LoraUse(name="wool", source=source),),
    )
    stored, _ = store_request(request)
    dumped = json.loads(json.dumps(dump_requests((stored,))))

    assert parse_requests(dumped) == (stored,)
    assert parse_own(json.loads(json.dumps(dump_own([own])))) == (own,)
    del dumped[0]["request"]["loras"][0]["source"]
    for name in ("key", "is_lora", "digest", "num_values"):
        del dumped[0]["request"]["weights_source"][name]
    (parsed,) = parse_requests(dumped)
    assert parsed.request.weights_source == request.weights_source
    assert parsed.request.loras == (LoraUse(name="wool"),)


@pytest.mark.parametrize(
    ("output_format", "key"),
    [("png", "img_1/image_1.png"), ("jpeg", "img_1/image_1.jpg"), ("webp", "img_1/image_1.webp")],
)
def test_output_key_for_each_format(output_format: str, key: str) -> None:
    assert output_key("img_1", 0, output_format) == key  # type: ignore[arg-type]


def test_new_job_when_made() -> None:
    stored, _ = store_request(replace(REQUEST, params=SamplingParams(num_images=3)))
    job = new_job((stored, stored), api="openai", owner="ada", model="sdxl", priority=2)

    assert job.id.startswith("img_")
    assert len(job.id) == 28
    assert job.status is JobStatus.QUEUED
    assert job.created_at == job.updated_at > 0
    assert (job.num_images, job.keys) == (6, stored.keys * 2)
    assert new_job((), api="a", owner="o", model="m", id="mine").id == "mine"
    with pytest.raises(FrozenInstanceError):
        job.status = JobStatus.FAILED  # type: ignore[misc]


def test_new_job_ids_when_drawn_differ() -> None:
    assert len({new_job_id() for _ in range(100)}) == 100
