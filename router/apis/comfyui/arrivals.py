"""Arrivals: values that come over links, held to the types and ranges of where they arrive.

A literal is judged before the graph is accepted; what a node gives is known only once it has run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from deployments.errors import InvalidRequest
from router.apis.comfyui.literal import judge
from router.apis.comfyui.node import WIDGET_TYPES, Input
from router.apis.comfyui.values import (
    Clip,
    Conditioning,
    Images,
    Latent,
    Masks,
    Model,
    Several,
    Vae,
)

_KINDS: Final[Mapping[str, type]] = {
    "MODEL": Model,
    "CLIP": Clip,
    "VAE": Vae,
    "IMAGE": Images,
    "MASK": Masks,
    "CONDITIONING": Conditioning,
    "LATENT": Latent,
}


def receive(row: Input, value: Any) -> Any:
    """The value as the input takes it; of a list, each of its values. Raises ``InvalidRequest``."""
    if isinstance(value, Several):
        return Several(values=tuple(receive(row, one) for one in value.values))
    if row.type in WIDGET_TYPES:
        return _receive_plain(row, value)
    is_absent = value is None and row.is_optional
    if row.type in _KINDS and not is_absent and not isinstance(value, _KINDS[row.type]):
        raise _is_strange(row)
    return value


def _receive_plain(row: Input, value: Any) -> Any:
    if not isinstance(value, (str, int, float)):
        raise _is_strange(row)
    received, complaint = judge(row, value, None)
    if complaint is not None:
        raise InvalidRequest(f"{complaint['message']}: {complaint['details']}")
    return received


def _is_strange(row: Input) -> InvalidRequest:
    return InvalidRequest(f"what is linked to {row.name} is no {row.type}")
