"""Limits: how much one call may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from deployments.errors import InvalidRequest
from deployments.types import GenerationRequest
from router.pictures import inspect
from router.service import MAX_PROMPT_LENGTH

#: The most pictures of one call.
MAX_PICTURES: Final = 256
#: The most pixels of all pictures of one call: so many of 1024 x 1024.
MAX_DRAWN_PIXELS: Final = MAX_PICTURES * 1024 * 1024


def check_drawn(requests: Sequence[GenerationRequest]) -> None:
    """Raise ``InvalidRequest`` for pictures that are too many for their size."""
    pixels = sum(request.params.num_images * _num_pixels(request) for request in requests)
    if pixels > MAX_DRAWN_PIXELS:
        raise InvalidRequest(
            f"the pictures of the call have {pixels} pixels together; "
            f"accepted: at most {MAX_DRAWN_PIXELS}",
            param="batch_size",
        )


def check_length(param: str, length: int) -> None:
    """Raise ``InvalidRequest`` for a prompt that is too long."""
    if length > MAX_PROMPT_LENGTH:
        raise InvalidRequest(
            f"{param} has {length} characters; accepted: at most {MAX_PROMPT_LENGTH}", param=param
        )


def _num_pixels(request: GenerationRequest) -> int:
    """Of one picture; what is drawn under a mask alone is put back into its input."""
    if request.mask_padding is not None and request.mask is not None:
        facts = inspect(request.mask, param="mask")
        return facts.width * facts.height
    size = request.second_pass or request.params
    return (size.width or 0) * (size.height or 0)
