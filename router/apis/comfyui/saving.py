"""The names of the files that nodes save, and the texts that the files carry. Pure functions."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from deployments.errors import InvalidRequest

#: The longest file name, less what comes after a prefix.
MAX_PREFIX_LENGTH: Final = 200
#: What clients send along for other services, and no file may hold.
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
    if not path.isprintable() or any(len(part) > MAX_PREFIX_LENGTH for part in path.split("/")):
        raise InvalidRequest(
            f"filename_prefix {prefix!r:.200} cannot name a file; "
            f"accepted: printable text of at most {MAX_PREFIX_LENGTH} characters between slashes"
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
