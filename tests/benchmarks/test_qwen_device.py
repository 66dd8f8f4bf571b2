"""The measuring of Qwen-Image on a device, run small on the CPU; what it says when it cannot."""

from __future__ import annotations

import re
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks import qwen_device
from benchmarks.qwen_device import build, main, missing, outline, unpack

SMALL = ["--size", "small", "--device", "cpu", "--side", "64", "--reference", "64", "--steps", "1"]


@pytest.mark.filterwarnings("ignore")
def test_a_line_for_each_kind_and_batch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--kinds", "bfloat16,fp8", "--batches", "1,2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * 3
    for kind, own in (("bfloat16", lines[:3]), ("fp8", lines[3:])):
        assert own[0].startswith(f"small size, {kind}: weights 0.0")
        for batch, line in zip((1, 2), own[1:], strict=True):
            told = rf"{kind}: edits {batch}, rows {2 * batch} of 32 image tokens: step \d+\.\d+ s, "
            assert re.search(told, line)


def test_unguided_edits_are_a_row_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--kinds", "bfloat16", "--batches", "2", "--scale", "1"]) == 0
    assert "edits 2, rows 2 of" in capsys.readouterr().out


def test_the_real_size_is_the_real_one() -> None:
    """As the index files of Qwen/Qwen-Image-Edit-2509 sum up, in bfloat16."""
    pipeline = outline("real")
    num_bytes = {
        name: sum(2 * parameter.numel() for parameter in getattr(pipeline, name).parameters())
        for name in ("transformer", "text_encoder")
    }
    assert num_bytes == {"transformer": 40860802176, "text_encoder": 16584333312}
    assert pipeline.transformer.device.type == "meta"
    for part in (pipeline.transformer, pipeline.text_encoder, pipeline.vae):
        assert not any(buffer.is_meta for buffer in part.buffers())
    assert not pipeline.transformer.pos_embed.pos_freqs.is_meta


def test_weights_are_made_where_they_are_needed() -> None:
    pipeline = build("small", "cpu")
    for part in (pipeline.transformer, pipeline.text_encoder, pipeline.vae):
        for name, parameter in part.named_parameters():
            assert parameter.device.type == "cpu", name
            assert parameter.dtype == torch.bfloat16, name
            assert parameter.isfinite().all(), name


def test_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert missing(["bfloat16"]) == []
    absent = {"diffusers", "dotenv", "torchao"}
    monkeypatch.setattr(
        qwen_device, "find_spec", lambda name: None if name in absent else find_spec(name)
    )
    assert missing(["bfloat16"]) == ["diffusers", "python-dotenv"]
    assert main([*SMALL, "--kinds", "fp8"]) == 2
    said = "missing: diffusers, python-dotenv, torchao; install them, or bring wheels by --wheels\n"
    assert capsys.readouterr().out == said


def test_wheels_are_imported_from_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "carried-1.0-py3-none-any.whl", "w") as wheel:
        info = "carried-1.0.dist-info"
        wheel.writestr("carried.py", "HERE = True\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    assert find_spec("carried") is None
    unpack(tmp_path / "wheels", tmp_path / "site")
    found = find_spec("carried")
    assert found is not None
    assert found.origin == str(tmp_path / "site" / "carried.py")
    with pytest.raises(SystemExit, match="no wheels"):
        unpack(tmp_path, tmp_path / "site")
