"""Digests of LoRA files, as A1111 tells them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from deployments.families.lora_digest import digest_of

CONTENT = bytes(range(256)) * 9000


def write(path: Path, metadata: Any = None, content: bytes = CONTENT) -> Path:
    header = json.dumps({} if metadata is None else {"__metadata__": metadata}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content)
    return path


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param(None, id="none"),
        pytest.param({"ss_output_name": "x"}, id="others"),
        pytest.param({"sshs_model_hash": "too short"}, id="no hash"),
        pytest.param({"sshs_model_hash": "0x" * 32}, id="no digits"),
        pytest.param({"sshs_model_hash": ["a" * 64]}, id="no text"),
        pytest.param("text", id="no object"),
    ],
)
def test_digest_is_of_what_follows_the_header(metadata: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", metadata)
    assert digest_of(path) == hashlib.sha256(CONTENT).hexdigest()[:12]


def test_a_trainers_own_hash_goes_first(tmp_path: Path) -> None:
    told = hashlib.sha256(b"another").hexdigest()
    path = write(tmp_path / "a.safetensors", {"sshs_model_hash": told})
    assert digest_of(path) == told[:12]


def test_other_files_have_none(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match="header is too long"):
        digest_of(path)
    path.unlink()
    with pytest.raises(OSError, match=r"a\.safetensors"):
        digest_of(path)
