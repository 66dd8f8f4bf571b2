"""The one error tree. Each class carries its HTTP status and its code; APIs only dress it.

AtelierError                 500  internal_error
├── InvalidRequest           400  invalid_request        what was wrong, the value, what is accepted
│   ├── InvalidImage         400  invalid_image          undecodable, or too many pixels
│   ├── UnsupportedField     400  unsupported_field      a known field that cannot be honoured
│   ├── MemoryExceeded       400  memory_exceeded        more than the model's memory ever holds
│   └── RequestTooLarge      413  request_too_large
├── Unauthorized             401  unauthorized
├── NotFound                 404  not_found
│   ├── UnknownModel         404  model_not_found
│   └── JobNotFound          404  job_not_found
├── Conflict                 409  conflict
├── Overloaded               429  overloaded             carries retry_after
├── ModelNotReady            503  model_not_ready        carries retry_after
├── GenerationFailed         500  generation_failed
│   ├── OutOfMemory          500  out_of_memory          the device had no memory left after all
│   ├── NumericalFailure     500  numerical_failure      NaN or infinity in the picture
│   ├── WorkerLost           500  worker_lost            the replica died too many times
│   ├── LatentsLost          500  latents_lost           who kept them is gone; try from the start
│   ├── StorageFailure       500  storage_failure        pictures could not be kept
│   ├── ProviderFailure      502  provider_failure       a remote model's fault
│   └── ContentRefused       400  content_refused        a remote model's safety refusal
└── Cancelled                499  cancelled
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar


class AtelierError(Exception):
    """Root of every failure that a caller may see.

    Args:
        message: a sentence for the caller: what was wrong, the value, what is accepted. It never
            holds a path of the server, a library's class name or a trace.
        param: the field that the failure is about, by the internal name; None when none is.
        retry_after: seconds after which trying again makes sense; None when it does not.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross processes: keep the keyword arguments that Exception would lose.
        return _rebuild, (type(self), self.message, self.param, self.retry_after)


def _rebuild(
    cls: type[AtelierError], message: str, param: str | None, retry_after: float | None
) -> AtelierError:
    return cls(message, param=param, retry_after=retry_after)


class InvalidRequest(AtelierError):
    """The request cannot be honoured as it stands."""

    status = 400
    code = "invalid_request"


class InvalidImage(InvalidRequest):
    """An input picture is undecodable, or larger than the limit by its header."""

    code = "invalid_image"


class UnsupportedField(InvalidRequest):
    """A field is known but this server, or this model, has no such thing."""

    code = "unsupported_field"


class MemoryExceeded(InvalidRequest):
    """The request takes more memory than the model's share, even alone; the message has the sum."""

    code = "memory_exceeded"


class RequestTooLarge(InvalidRequest):
    """The body is larger than the limit."""

    status = 413
    code = "request_too_large"


class Unauthorized(AtelierError):
    """Credentials are missing or wrong."""

    status = 401
    code = "unauthorized"


class NotFound(AtelierError):
    """There is no such thing, or it is not the caller's."""

    status = 404
    code = "not_found"


class UnknownModel(NotFound):
    """No hosted model has this id or alias."""

    code = "model_not_found"


class JobNotFound(NotFound):
    """No job has this id, or it belongs to another owner."""

    code = "job_not_found"


class Conflict(AtelierError):
    """The request contradicts what is already there."""

    status = 409
    code = "conflict"


class Overloaded(AtelierError):
    """Too much at once; try again later."""

    status = 429
    code = "overloaded"


class ModelNotReady(AtelierError):
    """The model is configured but has no running replica yet."""

    status = 503
    code = "model_not_ready"


class GenerationFailed(AtelierError):
    """The model could not make the picture."""

    code = "generation_failed"


class OutOfMemory(GenerationFailed):
    """The device had no memory left for the request, although all that was known fitted."""

    code = "out_of_memory"


class NumericalFailure(GenerationFailed):
    """The picture holds NaN or infinity."""

    code = "numerical_failure"


class WorkerLost(GenerationFailed):
    """The replica that ran the request died, too many times to try again."""

    code = "worker_lost"


class LatentsLost(GenerationFailed):
    """The latents that a request refers to are gone with the replica that kept them."""

    code = "latents_lost"


class StorageFailure(GenerationFailed):
    """The finished pictures could not be kept."""

    code = "storage_failure"


class ProviderFailure(GenerationFailed):
    """A remote model's service failed or could not be reached."""

    status = 502
    code = "provider_failure"


class ContentRefused(GenerationFailed):
    """A remote model refused the content."""

    status = 400
    code = "content_refused"


class Cancelled(AtelierError):
    """The work was cancelled before it ended."""

    status = 499
    code = "cancelled"


def error_for(code: str, message: str, param: str | None = None) -> AtelierError:
    """The error that ``code`` names, rebuilt from a stored row; unknown codes give the root."""
    for cls in _subclasses(AtelierError):
        if cls.code == code:
            return cls(message, param=param)
    return AtelierError(message, param=param)


def _subclasses(cls: type[AtelierError]) -> Iterator[type[AtelierError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _subclasses(child)
