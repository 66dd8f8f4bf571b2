"""Makes the embedded editor's weights: ``python -m deployments.sketch.untrained [folder]``.

The modules are fresh from a fixed seed and only scaled, so that pictures have contrast; run twice
on one machine, it writes the same files.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from deployments.sketch.captions import PROMPTS, captions
from deployments.sketch.qwen_calibration import calibrate_qwen
from deployments.sketch.qwen_image import qwen_image_edit, qwen_tokenizer, write_processor

WEIGHTS: Final = Path(__file__).parent / "weights"

#: Folder of the pipeline that edits, its seed, and how pictures are usually asked of it.
EDITOR: Final = "qwen-image-edit", 3, {"num_inference_steps": 8, "true_cfg_scale": 4.0}


def write_editor(folder: Path) -> None:
    """Write the embedded Qwen-Image-Edit under ``folder``."""
    name, seed, call = EDITOR
    tokenizer = qwen_tokenizer(captions())
    pipeline = fresh(qwen_image_edit, tokenizer, seed)
    calibrate_qwen(pipeline, PROMPTS, **call)
    _save(pipeline, folder / name)
    write_processor(tokenizer, folder / name)


def fresh(make: Callable[[Any], Any], tokenizer: Any, seed: int) -> Any:
    """A pipeline of new modules drawn from ``seed``, quiet and ready to run."""
    torch.manual_seed(seed)
    pipeline = make(tokenizer)
    pipeline.set_progress_bar_config(disable=True)
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval()
    return pipeline


def _save(pipeline: Any, folder: Path) -> None:
    """In float16; ``to`` would warn that half precision is slow on a CPU."""
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.half()
    pipeline.save_pretrained(folder, safe_serialization=True)


if __name__ == "__main__":
    # NOTE: one thread, since the order of a sum over threads shows in the last digit.
    torch.set_num_threads(1)
    write_editor(Path(sys.argv[1]) if len(sys.argv) > 1 else WEIGHTS)
