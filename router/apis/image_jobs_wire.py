"""What image jobs look like on the wire: statuses, results, webhook payloads. Pure functions.

Shapes and texts are those of the document "API - Génération d'Images"; ``CANCELLED`` is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from router.job import Job, JobImage, JobProgress, JobStatus
from router.store.deliveries import Delivery

CREATED: Final = "Tâche de génération d'images créée avec succès"
CANCELLED: Final = "Tâche annulée"

#: What a status says to a person.
MESSAGES: Final[Mapping[str, str]] = {
    "PENDING": "En attente de démarrage",
    "INITIALIZING": "Initialisation du modèle",
    "GENERATING": "Génération en cours...",
    "SAVING": "Sauvegarde des images",
    "FAILED": "Échec de la génération",
    "CANCELLED": "Génération annulée",
}
#: The job statuses behind each wire status; the steps done tell the three in the middle apart.
STATUSES: Final[Mapping[str, JobStatus]] = {
    "PENDING": JobStatus.QUEUED,
    "INITIALIZING": JobStatus.IN_PROGRESS,
    "GENERATING": JobStatus.IN_PROGRESS,
    "SAVING": JobStatus.IN_PROGRESS,
    "COMPLETED": JobStatus.COMPLETED,
    "FAILED": JobStatus.FAILED,
    "CANCELLED": JobStatus.CANCELLED,
}
FORMATS: Final[Mapping[str, str]] = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
MEDIA_TYPES: Final[Mapping[str, str]] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "safetensors": "application/octet-stream",
}


def wire_status(job: Job, progress: JobProgress | None) -> str:
    """The status's name on this wire."""
    if job.status is not JobStatus.IN_PROGRESS:
        return "PENDING" if job.status is JobStatus.QUEUED else job.status.name
    if progress is None or progress.step == 0:
        return "INITIALIZING"
    return "GENERATING" if progress.step < progress.num_steps else "SAVING"


def percent(job: Job, progress: JobProgress | None) -> int:
    """0..100. The first step shows 5 and more, the last 95; the rest is loading and saving."""
    if job.status is JobStatus.COMPLETED:
        return 100
    if progress is not None and progress.step and progress.num_steps:
        return 5 + 90 * min(progress.step, progress.num_steps) // progress.num_steps
    has_begun = job.status is JobStatus.IN_PROGRESS or job.started_at is not None
    return 5 if has_begun else 0


def render_status(job: Job, progress: JobProgress | None) -> dict[str, Any]:
    """The body of ``GET /api/images/status/{id}``."""
    status = wire_status(job, progress)
    return {
        "job_id": job.id,
        "status": status,
        "message": _message(job, status),
        "progress": percent(job, progress),
        "created_at": render_time(job.created_at),
        "updated_at": render_time(job.updated_at),
        **_errors(job),
    }


def render_result(job: Job, base_url: str) -> dict[str, Any]:
    """The body of ``GET /api/images/result/{id}`` of an ended job."""
    status = wire_status(job, None)
    head = {"job_id": job.id, "status": status, "message": _message(job, status)}
    if job.status is not JobStatus.COMPLETED:
        return {**head, **_errors(job)}
    return {**head, "images": render_images(job, base_url), "metadata": render_metadata(job)}


def render_images(job: Job, base_url: str) -> list[dict[str, Any]]:
    """The pictures; the description is the caller's own prompt."""
    description = job.details.get("prompt") or job.requests[0].request.prompt
    return [
        {
            "file_path": f"./generated_images/{image.key}",
            "url": f"{base_url.rstrip('/')}/generated_images/{quote(image.key)}",
            "description": description,
            "format": FORMATS.get(image.format, image.format.upper()),
            "size_bytes": image.num_bytes,
            "dimensions": f"{image.width}x{image.height}",
        }
        for image in job.images
    ]


def render_metadata(job: Job) -> dict[str, Any]:
    """What made the pictures; ``model_name`` is the model that really ran."""
    return {
        "model_name": job.model,
        "version": "latest",
        "generation_time_seconds": round(job.seconds, 3),
        "input_tokens": job.prompt_tokens,
        "output_size_bytes": sum(image.num_bytes for image in job.images),
        "timestamp": render_time(job.ended_at or job.updated_at),
    }


def render_webhook(
    job: Job,
    progress: JobProgress | None,
    *,
    environment: str = "development",
    public_url: str = "",
) -> dict[str, Any]:
    """The payload: ``generating`` with progress; ``completed`` or ``failed`` of an ended job.

    The document knows no payload for a cancelled job: it is told as ``failed``, with the reason.
    """
    if progress is not None:
        return {
            "job_id": job.id,
            "status": "generating",
            "timestamp": render_time(datetime.now(UTC).timestamp()),
            "progress": percent(job, progress),
            "message": MESSAGES["GENERATING"],
        }
    ended_at = render_time(job.ended_at or job.updated_at)
    is_completed = job.status is JobStatus.COMPLETED
    head = {
        "job_id": job.id,
        "status": "completed" if is_completed else "failed",
        "timestamp": ended_at,
        "environment": environment,
    }
    if not is_completed:
        message = "Échec de la génération d'images"
        return {**head, "error_message": _errors(job)["errors"][0], "message": message}
    data = {
        "job_id": job.id,
        "images": render_images(job, public_url or job.details.get("base_url", "")),
        "metadata": render_metadata(job),
        "status": "COMPLETED",
        "generated_at": ended_at,
    }
    return {**head, "data": data}


def render_delivery(delivery: Delivery) -> dict[str, Any]:
    """One webhook delivery, its payload left out."""
    body = asdict(delivery)
    del body["payload"], body["owner"]
    for name in ("created_at", "delivered_at", "next_attempt_at"):
        body[name] = render_time(body[name]) if body[name] else None
    return body


def find_image(job: Job, name: str) -> tuple[int, JobImage] | None:
    """The job's picture with this file name, and its place."""
    for index, image in enumerate(job.images):
        if image.key.rpartition("/")[2] == name:
            return index, image
    return None


def render_time(seconds: float) -> str:
    """ISO 8601 in UTC, whole seconds: ``2025-10-21T16:45:00Z``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _message(job: Job, status: str) -> str:
    if status == "COMPLETED":
        return f"{len(job.images)} image(s) générée(s) avec succès"
    return MESSAGES[status]


def _errors(job: Job) -> dict[str, list[str]]:
    """``errors`` of a job that ended without pictures."""
    if job.status is JobStatus.CANCELLED:
        return {"errors": [CANCELLED]}
    if job.status is JobStatus.FAILED:
        return {"errors": [job.error.message if job.error else MESSAGES["FAILED"]]}
    return {}
