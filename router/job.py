"""Job: the durable unit of work behind every API, its states, and its way into a row and back.

queued -> in_progress -> completed | failed | cancelled
queued -> cancelled | failed, or completed without a picture when interrupted,
in_progress -> queued (a fault of ours: it is tried again)
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from deployments.types import (
    GenerationRequest,
    LoraUse,
    OutputFormat,
    PromptPart,
    SamplingParams,
    SecondPass,
    WeightsSource,
)


class JobStatus(StrEnum):
    """Where a job stands. The last three are final."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing can follow."""
        return not TRANSITIONS[self]


TRANSITIONS: Final[Mapping[JobStatus, frozenset[JobStatus]]] = {
    JobStatus.QUEUED: frozenset(
        {JobStatus.IN_PROGRESS, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
    JobStatus.IN_PROGRESS: frozenset(
        {JobStatus.QUEUED, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}


def can_become(status: JobStatus, following: JobStatus) -> bool:
    """Whether a job may go from one status to the other."""
    return following in TRANSITIONS[status]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobImage:
    """One finished picture of a job: where its bytes lie and what they are.

    ``place`` counts, from 0, the pictures that the job was to make: an interrupted one has gaps.
    """

    key: str
    seed: int
    width: int
    height: int
    format: OutputFormat
    num_bytes: int
    place: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """Why a job failed: a code of ``deployments.errors``, its sentence, the field it is about."""

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnWeights:
    """Weights, or a LoRA, that an owner has registered, by the name that he gave them.

    ``base`` is the id of the hosted model that they are for.
    """

    name: str
    base: str
    source: WeightsSource


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """A request as a row keeps it: its pictures are keys of the image store, not bytes."""

    request: GenerationRequest
    image_keys: tuple[str, ...] = ()
    mask_key: str | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key that the request needs to run."""
        return self.image_keys + ((self.mask_key,) if self.mask_key else ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One accepted piece of work: one or several requests, run side by side.

    Attributes:
        id: ``img_`` and 24 hexadecimal digits, or what the client chose.
        name: the client's own id where it need be unique only among the unfinished jobs of the same
            owner and API; None for none.
        api: name of the API that it came through.
        owner: who asked; only the owner sees it.
        model: id of the model that it waits for, and that runs what names no other; "" when its
            script says which models it needs.
        requests: run at once; the job's pictures are theirs, in order.
        own: what its owner had registered of the weights and LoRAs that the requests, or the job's
            script, may name: as it was when the job was accepted, whatever became of it since.
        details: what its API wants to remember (JSON values), opaque to everyone else but for
            ``script`` and ``script_args``: how the requests make pictures, see ``router.scripts``.
        priority: higher goes first.
        webhook_url: where news of this job goes; None is the configured address.
        notify: whether webhooks are to be told how it ended.
        created_at, updated_at, started_at, ended_at: Unix seconds.
        attempts: how often it was claimed.
        interrupted: whether it was asked to end early, with the pictures that are finished.
        worker_deaths: how often the replica that ran it died.
        images, error: what came of it.
        result: what else its script told of the outcome (JSON values), opaque like ``details``.
        is_hidden: whether its owner removed it, once ended, from the history of its API.
        prompt_tokens: tokens the text encoder saw.
        seconds: time the model took.
    """

    id: str
    api: str
    owner: str
    model: str
    requests: tuple[StoredRequest, ...]
    own: tuple[OwnWeights, ...] = ()
    name: str | None = None
    status: JobStatus = JobStatus.QUEUED
    details: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 0
    webhook_url: str | None = None
    notify: bool = False
    created_at: float = 0.0
    updated_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    attempts: int = 0
    interrupted: bool = False
    worker_deaths: int = 0
    images: tuple[JobImage, ...] = ()
    error: JobError | None = None
    result: Mapping[str, Any] = field(default_factory=dict)
    is_hidden: bool = False
    prompt_tokens: int = 0
    seconds: float = 0.0

    @property
    def num_images(self) -> int:
        """Pictures the job is to make."""
        return sum(stored.request.params.num_images for stored in self.requests)

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of every input picture the job needs to run."""
        return tuple(key for stored in self.requests for key in stored.keys)

    @property
    def upload_keys(self) -> tuple[str, ...]:
        """Keys of the uploaded weights that it needs."""
        return tuple(one.source.key for one in self.own if one.source.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStand:
    """Where a job stands, without what it is: cheap to read by the hundred. See ``Job``."""

    id: str
    owner: str
    status: JobStatus
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress:
    """The newest news of a job in progress.

    Attributes:
        step, num_steps: denoising steps done and to do, summed over the job's pictures.
        preview: a JPEG of the picture so far, or None; ``preview_index`` says which picture.
        num_previews: how many previews there were so far; it grows with each new one.
        notes: what the job's script told its watchers so far (JSON values), the oldest first; only
            ever longer, but that a note may be replaced by None once a later one says all of it.
    """

    step: int = 0
    num_steps: int = 0
    preview: bytes | None = None
    preview_index: int = 0
    num_previews: int = 0
    notes: tuple[Mapping[str, Any] | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """The caller's ``Idempotency-Key`` and a digest of the body it came with."""

    key: str
    digest: str


def new_job_id() -> str:
    """A fresh id: ``img_`` and 24 random hexadecimal digits."""
    return f"img_{secrets.token_hex(12)}"


def new_job(
    requests: tuple[StoredRequest, ...], *, api: str, owner: str, model: str, **fields: Any
) -> Job:
    """A queued job, created now."""
    now = time.time()
    job_id = fields.pop("id", None) or new_job_id()
    return Job(
        id=job_id,
        api=api,
        owner=owner,
        model=model,
        requests=requests,
        created_at=now,
        updated_at=now,
        **fields,
    )


def store_request(request: GenerationRequest) -> tuple[StoredRequest, dict[str, bytes]]:
    """The request as a row keeps it, and the blobs to keep before the row, by content hash."""
    blobs = {input_key(data): data for data in request.images}
    mask_key = None
    if request.mask is not None:
        mask_key = input_key(request.mask)
        blobs[mask_key] = request.mask
    stored = StoredRequest(
        request=replace(request, images=(), mask=None),
        image_keys=tuple(input_key(data) for data in request.images),
        mask_key=mask_key,
    )
    return stored, blobs


def restore_request(stored: StoredRequest, blobs: Mapping[str, bytes]) -> GenerationRequest:
    """The request as it was asked, its pictures' bytes back in place."""
    return replace(
        stored.request,
        images=tuple(blobs[key] for key in stored.image_keys),
        mask=blobs[stored.mask_key] if stored.mask_key else None,
    )


def input_key(data: bytes) -> str:
    """Where an input picture lies: ``inputs/`` and the SHA-256 of its bytes."""
    return f"inputs/{hashlib.sha256(data).hexdigest()}"


def output_key(job_id: str, index: int, output_format: OutputFormat) -> str:
    """Where picture ``index`` (from 0) of a job lies: ``{id}/image_1.png``, ``.jpg``, ..."""
    extension = "jpg" if output_format == "jpeg" else output_format
    return f"{job_id}/image_{index + 1}.{extension}"


def dump_requests(requests: tuple[StoredRequest, ...]) -> list[dict[str, Any]]:
    """Requests as JSON values, for a row."""
    dumped = []
    for stored in requests:
        data = asdict(stored)
        del data["request"]["images"], data["request"]["mask"], data["request"]["latents"]
        dumped.append(data)
    return dumped


def dump_own(own: Iterable[OwnWeights]) -> list[dict[str, Any]]:
    """Owners' weights as JSON values, for a row."""
    return [asdict(one) for one in own]


def parse_own(data: Iterable[Mapping[str, Any]]) -> tuple[OwnWeights, ...]:
    """The inverse of ``dump_own``."""
    return tuple(OwnWeights(**{**row, "source": WeightsSource(**row["source"])}) for row in data)


def parse_requests(data: list[dict[str, Any]]) -> tuple[StoredRequest, ...]:
    """The inverse of ``dump_requests``; fields that a newer version added get their defaults."""
    return tuple(
        StoredRequest(
            request=_parse_request(row["request"]),
            image_keys=tuple(row["image_keys"]),
            mask_key=row["mask_key"],
        )
        for row in data
    )


def _parse_request(data: dict[str, Any]) -> GenerationRequest:
    second_pass = data.get("second_pass")
    return GenerationRequest(
        **{
            **data,
            "params": SamplingParams(**data["params"]),
            "second_pass": _parse_second_pass(second_pass) if second_pass else None,
            "weights_source": _parse_source(data.get("weights_source")),
            "parts": _parse_parts(data.get("parts", ())),
            "negative_parts": _parse_parts(data.get("negative_parts", ())),
            "loras": _parse_loras(data.get("loras", ())),
            "texts": tuple(
                tuple((keyword, text) for keyword, text in texts) for texts in data.get("texts", ())
            ),
        }
    )


def _parse_parts(data: Iterable[Mapping[str, Any]]) -> tuple[PromptPart, ...]:
    return tuple(PromptPart(**_with_loras(part)) for part in data)


def _parse_second_pass(data: Mapping[str, Any]) -> SecondPass:
    return SecondPass(**_with_loras(data))


def _with_loras(data: Mapping[str, Any]) -> dict[str, Any]:
    """A part or a pass that may have LoRAs of its own, None being others'."""
    loras = data.get("loras")
    return {**data, "loras": None if loras is None else _parse_loras(loras)}


def _parse_loras(data: Iterable[Mapping[str, Any]]) -> tuple[LoraUse, ...]:
    return tuple(LoraUse(**{**use, "source": _parse_source(use.get("source"))}) for use in data)


def _parse_source(data: Mapping[str, Any] | None) -> WeightsSource | None:
    return None if data is None else WeightsSource(**data)
