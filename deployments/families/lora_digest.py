"""Digests of LoRA files: by what A1111 knows them in its infotexts.

That is the hash of its extension "additional networks": the SHA-256 of what follows a safetensors
file's header, which kohya's trainer writes into the header's metadata as ``sshs_model_hash``. The
first 12 hexadecimal digits are told (A1111's ``extensions-builtin/Lora/network.py``).
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Final

#: Digits of a digest.
LENGTH: Final = 12
#: Bytes of the longest header that is read.
MAX_HEADER_BYTES: Final = 64 * 2**20
_CHUNK: Final = 2**20


def digest_of(path: Path) -> str:
    """The digest. Raises ``OSError``, and ``ValueError`` for a file that is no safetensors file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError("the header is too long")
        if told := _told(file.read(length)):
            return told
        sha256 = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
    return sha256.hexdigest()[:LENGTH]


def _told(header: bytes) -> str | None:
    """What the file's trainer says that it is."""
    try:
        told = json.loads(header)["__metadata__"]["sshs_model_hash"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    is_hash = isinstance(told, str) and re.fullmatch(r"[0-9a-f]{12,64}", told)
    return told[:LENGTH] if is_hash else None
