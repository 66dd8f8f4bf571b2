"""The embedded editor's weights and the tokenizers: how they are made, and that they are whole."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, QwenImageEditPlusPipeline, QwenImagePipeline
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from deployments.sketch.assemble import EDITOR, WEIGHTS
from deployments.sketch.captions import PROMPTS, captions
from deployments.sketch.tokenizer import learn_merges, learn_tokenizer


def test_learn_merges_joins_the_commonest_pair_first() -> None:
    assert learn_merges(Counter({"abab": 3, "ab": 1}), 9) == [
        ("a", "b</w>"),
        ("a", "b"),
        ("ab", "ab</w>"),
    ]


def test_learn_tokenizer_keeps_known_words_whole() -> None:
    tokenizer = learn_tokenizer(captions())
    assert tokenizer.tokenize("A red CIRCLE") == ["a</w>", "red</w>", "circle</w>"]
    assert max(len(tokenizer(prompt).input_ids) for prompt in PROMPTS) <= 50


@pytest.mark.parametrize("text", ["été à l'aube", "漢字 ✨", "xyzzy 42"])
def test_learn_tokenizer_writes_any_text(text: str) -> None:
    tokenizer = learn_tokenizer(["a small list", "of words"])
    ids = tokenizer(text).input_ids
    assert tokenizer.unk_token_id not in ids[1:-1]
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_tokenizer_is_the_same_after_saving(tmp_path: Path) -> None:
    tokenizer = learn_tokenizer(captions())
    tokenizer.save_pretrained(tmp_path)
    read = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert read.model_max_length == 77
    for prompt in PROMPTS:
        assert read(prompt).input_ids == tokenizer(prompt).input_ids


def test_committed_editor_draws_with_contrast_and_by_its_words() -> None:
    pipeline = DiffusionPipeline.from_pretrained(
        WEIGHTS / EDITOR,
        use_safetensors=True,
        local_files_only=True,
        dtype=torch.float32,
        processor=None,
    )
    assert isinstance(pipeline, QwenImageEditPlusPipeline)
    parts = {key: part for key, part in pipeline.components.items() if key != "processor"}
    drawing = QwenImagePipeline(**parts)
    drawing.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 4, "width": 256, "height": 256, "output_type": "np"}
    day, again, night = (
        drawing(prompt, generator=torch.Generator().manual_seed(seed), **options).images[0]
        for prompt, seed in (("a field by day", 1), ("a field by day", 2), ("a lake at night", 1))
    )
    assert np.isfinite(day).all()
    assert day.std() > 0.1
    assert np.abs(day - again).mean() > 0.005
    assert day[:64].mean() > night[:64].mean() + 0.2


def test_committed_editor_is_small() -> None:
    files = [file for file in (WEIGHTS / EDITOR).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 25_000_000
    weights = [load_file(file) for file in files if file.suffix == ".safetensors"]
    assert all(v.dtype == torch.float16 for tensors in weights for v in tensors.values())


def test_families_and_sketch_import_no_ray() -> None:
    code = (
        "import sys, deployments.families.stable_diffusion, deployments.families."
        "stable_diffusion_xl, deployments.sketch.assemble; sys.exit('ray' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
