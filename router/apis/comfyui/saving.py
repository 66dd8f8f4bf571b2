"""The names of the files that nodes save, and the texts that the files carry. Pure functions."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from deployments.errors import InvalidRequest
from router.apis.comfyui.file_names import MAX_NAME_BYTES, MAX_PATH_BYTES, num_bytes

#: The longest name in a prefix, and the longest prefix, in bytes of UTF-8: what comes after it in a
#: file's name fits ``file_names`` still.
MAX_PREFIX_BYTES: Final = MAX_NAME_BYTES - 40
MAX_PREFIX_PATH_BYTES: Final = MAX_PATH_BYTES - 40
#: What clients send along for other services (ComfyUI's ``SENSITIVE_EXTRA_DATA_KEYS``): nothing
#: that is kept may hold it.
SECRETS: Final = frozenset({"auth_token_comfy_org", "api_key_comfy_org"})


def place_files(prefix: str, *, width: int, height: int, now: datetime) -> tuple[str, str]:
    """The subfolder and the beginning of the names of files with this prefix.

    ``%width%``, ``%height%`` and the parts of the time are filled in; ``%batch_num%`` is left.
    Raises ``InvalidRequest`` for a prefix that leads out of the folder, or that no file can have.
    """
    variables = {
        "%width%": str(width),
        "%height%": str(height),
        "%year%": f"{now:%Y}",
        "%month%": f"{now:%m}",
        "%day%": f"{now:%d}",
        "%hour%": f"{now:%H}",
        "%minute%": f"{now:%M}",
        "%second%": f"{now:%S}",
    }
    filled = prefix.replace("\\", "/")
    for variable, value in variables.items():
        filled = filled.replace(variable, value)
    path = posixpath.normpath(filled)
    if path.startswith("/") or ".." in path.split("/"):
        raise InvalidRequest(f"filename_prefix {prefix!r:.200} leads out of the output folder")
    is_short = all(num_bytes(part) <= MAX_PREFIX_BYTES for part in path.split("/"))
    if not path.isprintable() or not is_short or num_bytes(path) > MAX_PREFIX_PATH_BYTES:
        raise InvalidRequest(
            f"filename_prefix {prefix!r:.200} cannot name a file; accepted: printable text of at "
            f"most {MAX_PREFIX_BYTES} bytes between slashes and {MAX_PREFIX_PATH_BYTES} in all"
        )
    subfolder, stem = posixpath.split(path)
    return subfolder, stem


def name_of(stem: str, number_in_batch: int) -> str:
    """The name of a file, its number still open."""
    return f"{stem.replace('%batch_num%', str(number_in_batch))}_{{number:05}}_.png"


def temporary_stem(stem: str, job_id: str, node: str) -> str:
    """What files for a look are called: five letters tell nodes apart, and every attempt at a graph
    finds the same."""
    digest = hashlib.sha256(f"{job_id} {node}".encode()).digest()
    letters = "".join(chr(ord("a") + byte % 26) for byte in digest[:5])
    return f"{stem}_temp_{letters}"


def texts_of(graph: Mapping[str, Any], extra_data: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a picture's file: the graph as ``prompt``, and all of ``extra_pnginfo``.

    JSON with nothing but ASCII, as every reader of such files expects.
    """
    extra = extra_data.get("extra_pnginfo")
    told = {"prompt": graph, **(extra if isinstance(extra, Mapping) else {})}
    return {
        str(name): json.dumps(_without_secrets(value))
        for name, value in told.items()
        if name not in SECRETS
    }


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_secrets(part) for name, part in value.items() if name not in SECRETS}
    if isinstance(value, list):
        return [_without_secrets(part) for part in value]
    return value
