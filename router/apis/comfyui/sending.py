"""How a file's bytes are sent: its type, its name, and the range that was asked for."""

from __future__ import annotations

import mimetypes
import re
from typing import Final, Literal

from starlette.requests import Request
from starlette.responses import Response

#: Python's own table alone: that of the machine would make answers differ from node to node.
_TYPES: Final = mimetypes.MimeTypes(filenames=())
_TYPES.add_type("image/webp", ".webp")
_TYPES.add_type("image/avif", ".avif")
#: What a browser would run in the page's name; and every kind of XML, SVG among them.
_ACTIVE: Final = frozenset(
    {
        "text/html",
        "text/css",
        "text/javascript",
        "application/javascript",
        "application/ecmascript",
        "message/rfc822",
    }
)
_ANY: Final = "application/octet-stream"
_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def send_file(
    request: Request,
    data: bytes,
    *,
    name: str,
    disposition: Literal["inline", "attachment"] = "inline",
) -> Response:
    """The file, or the one range of it that is asked for (206, or 416 when there is no such)."""
    media_type = media_type_of(name)
    if is_active(media_type):
        media_type, disposition = _ANY, "attachment"
    headers = {
        "Content-Disposition": disposition_of(name, disposition),
        "X-Content-Type-Options": "nosniff",
        "Accept-Ranges": "bytes",
    }
    asked = _RANGE.fullmatch(request.headers.get("range", "").strip().lower())
    if asked is None or asked.groups() == ("", ""):
        return Response(data, media_type=media_type, headers=headers)
    first, last = _bounds(asked[1], asked[2], len(data))
    if first > last:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
    part = data[first : last + 1]
    return Response(part, status_code=206, media_type=media_type, headers=headers)


def media_type_of(name: str) -> str:
    """The type that a name's extension stands for."""
    return _TYPES.guess_type(name)[0] or _ANY


def is_active(media_type: str) -> bool:
    """Whether a browser may run what is in files of this type."""
    return media_type in _ACTIVE or media_type.endswith("xml")


def disposition_of(name: str, disposition: Literal["inline", "attachment"] = "inline") -> str:
    """``filename="..."``, which ComfyUI's clients read, behind ``attachment;`` where that is meant.

    The name is in UTF-8, as ComfyUI sends it; the string is what Starlette's headers make that of.
    """
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    printable = "".join(char if char.isprintable() else "_" for char in escaped)
    told = f'filename="{printable}"'.encode().decode("latin-1")
    return f"attachment; {told}" if disposition == "attachment" else told


def _bounds(first: str, last: str, num_bytes: int) -> tuple[int, int]:
    """First and last byte of a range, inclusive (RFC 9110, 14.1.2); an empty one is behind."""
    if not first:
        return max(0, num_bytes - int(last)), num_bytes - 1
    end = num_bytes - 1
    return int(first), min(end, int(last)) if last else end
