"""Frames: what the WebSocket carries, as ComfyUI lays it out."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from deployments.errors import InvalidRequest
from router.apis.body import parse_json

#: The two binary events that carry pictures (``protocol.py`` of ComfyUI).
PREVIEW_IMAGE: Final = 1
PREVIEW_IMAGE_WITH_METADATA: Final = 4
#: How event 1 numbers the formats.
FORMAT_NUMBERS: Final[Mapping[str, int]] = {"jpeg": 1, "png": 2}


@dataclass(frozen=True, slots=True)
class Text:
    """A text frame, ready to send.

    NOTE: ``type`` is its first key and nothing comes before it: SwarmUI tells text from pictures
    by the first eight bytes.
    """

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture on its way to a socket, which says in which of two layouts it wants it.

    Attributes:
        data: an encoded picture.
        format: ``jpeg`` or ``png``.
        node, prompt_id: whose it is.
        can_be_dropped: whether it is only a look at a picture under way.
    """

    data: bytes
    format: str
    node: str
    prompt_id: str
    can_be_dropped: bool = True

    def plain(self) -> bytes:
        """Event 1: two big-endian numbers, then the picture."""
        return struct.pack(">II", PREVIEW_IMAGE, FORMAT_NUMBERS[self.format]) + self.data

    def with_metadata(self) -> bytes:
        """Event 4: the event, the length of its JSON, the JSON, then the picture."""
        metadata = json.dumps(
            {
                "node_id": self.node,
                "prompt_id": self.prompt_id,
                "display_node_id": self.node,
                "parent_node_id": None,
                "real_node_id": self.node,
                "image_type": f"image/{self.format}",
            }
        ).encode()
        return struct.pack(">II", PREVIEW_IMAGE_WITH_METADATA, len(metadata)) + metadata + self.data


Frame: TypeAlias = Text | Picture


def text(kind: str, data: Any) -> Text:
    """A text frame."""
    return Text(json.dumps({"type": kind, "data": data}))


def status(num_remaining: int, *, sid: str | None = None) -> Text:
    """How many of the owner's prompts have not ended; ``sid`` only when a socket connects."""
    data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": num_remaining}}}
    return text("status", data if sid is None else {**data, "sid": sid})


def executing(node: str) -> Text:
    """What a client that comes back is told of its running prompt."""
    return text("executing", {"node": node})


def executing_nothing(prompt_id: str) -> Text:
    """The last frame of every prompt, however it ended."""
    return text("executing", {"node": None, "prompt_id": prompt_id})


def parse_features(said: str) -> Mapping[str, Any] | None:
    """The flags of a client's ``feature_flags`` message; None when it is something else."""
    try:
        message = parse_json(said)
    except InvalidRequest:
        return None
    if not isinstance(message, dict) or message.get("type") != "feature_flags":
        return None
    flags = message.get("data")
    return flags if isinstance(flags, dict) else {}


def milliseconds(seconds: float | None = None) -> int:
    """A Unix time, or now, as ComfyUI tells times."""
    return int((time.time() if seconds is None else seconds) * 1000)
