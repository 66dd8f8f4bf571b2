"""Qwen-Image-Edit at its true size on one device: seconds per step, peak memory, edits batched.

    python -m benchmarks.qwen_device [--size real] [--kinds bfloat16,fp8] [--batches 1,2,4]
        [--side 1024] [--reference 1024] [--steps 4] [--scale 4] [--device cuda] [--wheels FOLDER]

The weights are random numbers made on the device in the real configuration, so nothing is fetched;
what is timed is the family's own encode, denoise, advance and decode. Ray is not needed. diffusers
is, and what else the family imports: where those are not installed, ``--wheels`` names a folder of
wheels that they are unpacked from for this run. Filled like so, with the platform of that machine:

    pip download --no-deps --only-binary=:all: --python-version 3.12 -d FOLDER diffusers==0.42.1
        torchao==0.18.0 pydantic pydantic-core annotated-types typing-inspection python-dotenv
        obstore importlib-metadata
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import invalidate_caches
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Final

#: What is imported -> what it is called in an index of packages.
PACKAGES: Final = {
    "torch": "torch",
    "diffusers": "diffusers",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "safetensors": "safetensors",
    "PIL": "pillow",
    "pydantic": "pydantic",
    "dotenv": "python-dotenv",
    "obstore": "obstore",
}

#: Of Qwen/Qwen-Image-Edit-2509's text encoder, a Qwen2.5-VL-7B. The denoiser's and the
#: autoencoder's real numbers are the defaults of diffusers' classes.
TEXT: Final = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1_000_000.0,
        "mrope_section": [16, 24, 24],
    },
}
VISION: Final = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
}

PROMPT: Final = "make the sky red and keep everything else as it is"


def missing(kinds: Iterable[str]) -> list[str]:
    """Packages that a run of these kinds needs and that are not installed."""
    needed = {**PACKAGES, **({"torchao": "torchao"} if {"int8", "fp8"} & set(kinds) else {})}
    return [package for name, package in needed.items() if find_spec(name) is None]


def unpack(wheels: Path, folder: Path) -> None:
    """Install wheels into a folder that is imported from first, without an index."""
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        raise SystemExit(f"there are no wheels in {wheels}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*command, "--no-compile", "--target", str(folder), *files], check=True)
    sys.path.insert(0, str(folder))
    invalidate_caches()


def build(size: str, device: str) -> Any:
    """A Qwen-Image-Edit-Plus pipeline of random weights on the device, in bfloat16."""
    import torch

    torch.manual_seed(0)
    pipeline = outline(size)
    for part in _parts(pipeline).values():
        _fill(part, torch.device(device))
    return pipeline


def outline(size: str) -> Any:
    """The pipeline of a size, ``real`` or ``small``, its weights on the meta device."""
    from accelerate import init_empty_weights

    from deployments.sketch.captions import captions
    from deployments.sketch.qwen_image import qwen_image_edit, qwen_tokenizer

    tokenizer = qwen_tokenizer(itertools.islice(captions(), 200))
    with init_empty_weights():
        return qwen_image_edit(tokenizer) if size == "small" else _real(tokenizer)


def _real(tokenizer: Any) -> Any:
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImageEditPlusPipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in {
            "image": "image_pad",
            "video": "video_pad",
            "vision_start": "vision_start",
            "vision_end": "vision_end",
        }.items()
    }
    config = Qwen2_5_VLConfig(text_config=TEXT, vision_config=VISION, **ids)
    return QwenImageEditPlusPipeline(
        transformer=QwenImageTransformer2DModel(),
        vae=AutoencoderKLQwenImage(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=tokenizer,
        processor=None,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
    )


def _parts(pipeline: Any) -> dict[str, Any]:
    return {name: getattr(pipeline, name) for name in ("text_encoder", "transformer", "vae")}


def _fill(part: Any, device: Any) -> None:
    """Weights of small random numbers, norms of ones, in place of those on the meta device."""
    import torch

    for module in part.modules():
        for name, parameter in module.named_parameters(recurse=False):
            tensor = torch.empty(parameter.shape, device=device, dtype=torch.bfloat16)
            if parameter.ndim > 1:
                tensor.normal_(0, 0.02)
            else:
                tensor.fill_(1 if name == "weight" else 0)
            setattr(module, name, torch.nn.Parameter(tensor, requires_grad=False))
    part.to(device).eval()


def quantize(pipeline: Any, kind: str, device: str) -> None:
    """Make the two large modules' layers small where they are, as the family does on reading."""
    import torch
    from torchao.quantization import quantize_

    from deployments.families.quantization import KEPT, torchao_type

    for part, kept in KEPT.items():

        def is_taken(layer: Any, name: str, kept: Sequence[str] = kept) -> bool:
            return isinstance(layer, torch.nn.Linear) and not set(kept) & set(name.split("."))

        quantize_(getattr(pipeline, part), torchao_type(kind, device), is_taken)


def family_of(pipeline: Any, device: str, reference: int) -> Any:
    """The family with this pipeline as its checkpoint, which sees pictures of such a side."""
    import torch
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from deployments.config import ModelConfig
    from deployments.families.qwen_image import QwenImage
    from deployments.families.qwen_image_autoencoder import see_stills
    from deployments.families.qwen_image_checkpoint import QwenCheckpoint
    from deployments.families.qwen_image_placement import ENTRANCES, Placement

    see_stills(pipeline.vae)
    checkpoint = QwenCheckpoint(
        pipeline=pipeline,
        images=Qwen2VLImageProcessorPil(),
        reference_pixels=reference**2,
        placement=Placement(dict.fromkeys(ENTRANCES, torch.device(device)), 0),
        bound_by="a benchmark",
    )
    return QwenImage(ModelConfig(family="qwen-image"), checkpoint)


def edit(number: int, args: argparse.Namespace) -> Any:
    """A request to edit one picture; each number has its own."""
    import numpy as np
    from PIL import Image

    from deployments.types import GenerationRequest, SamplingParams

    side = args.side
    y, x = np.mgrid[0:side, 0:side] * 255 // side
    pixels = np.stack([x, y, (x + 32 * number) % 256], axis=-1).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    params = SamplingParams(
        width=side,
        height=side,
        num_inference_steps=args.steps + 1,
        guidance_scale=1.0,
        true_cfg_scale=args.scale,
        strength=1.0,
        seed=number,
        scheduler="Euler",
        sigmas="normal",
    )
    return GenerationRequest(prompt=PROMPT, images=(file.getvalue(),), params=params)


class Watch:
    """Times work on a device, whose queue it waits for, and sees how much memory that took."""

    def __init__(self, device: str) -> None:
        import torch

        self._torch = torch
        self._is_cuda = device.startswith("cuda")

    def time(self, work: Callable[[], Any]) -> tuple[Any, float]:
        """What the work gives, and its seconds."""
        self._wait()
        began = time.perf_counter()
        given = work()
        self._wait()
        return given, time.perf_counter() - began

    def peak(self) -> str:
        """The most memory that was taken since the last asking; only of a GPU."""
        if not self._is_cuda:
            return "not measured on a CPU"
        most = self._torch.cuda.max_memory_allocated() / 2**30
        self._torch.cuda.reset_peak_memory_stats()
        return f"{most:.1f} GiB"

    def _wait(self) -> None:
        if self._is_cuda:
            self._torch.cuda.synchronize()


def step(family: Any, states: Sequence[Any]) -> None:
    """One denoising step of all pictures in one forward pass."""
    from deployments.engine.state import Row

    rows = [Row(state, branch) for state in states for branch in range(state.num_rows)]
    flows = iter(family.denoise(rows))
    for state in states:
        family.advance(state, list(itertools.islice(flows, state.num_rows)))
        state.step += 1


def measure(family: Any, batch: int, args: argparse.Namespace) -> str:
    """Draw so many edits together; what it took, in words. The first step is not counted."""
    watch, weights = Watch(args.device), family.load_weights(None)
    watch.peak()
    requests = [edit(number, args) for number in range(batch)]
    encoded = [watch.time(partial(family.encode, request, weights)) for request in requests]
    states = [state for made, _ in encoded for state in made]
    assert len({state.batch_key for state in states}) == 1
    step(family, states)
    seconds = [watch.time(partial(step, family, states))[1] for _ in range(args.steps)]
    _, decoding = watch.time(partial(family.decode, states))
    each = statistics.median(seconds)
    rows = sum(state.num_rows for state in states)
    return (
        f"edits {batch}, rows {rows} of {states[0].tokens} image tokens: step {each:.3f} s, "
        f"{each / batch:.3f} s a picture; encoding {encoded[-1][1]:.3f} s each, decoding "
        f"{decoding:.3f} s all; peak memory {watch.peak()}"
    )


def run(args: argparse.Namespace) -> None:
    """Measure each kind of weights with each size of batch, and print a line of each."""
    import torch

    from deployments.families.checkpoint import num_bytes

    kinds, batches = args.kinds.split(","), [int(batch) for batch in args.batches.split(",")]
    with torch.inference_mode():
        for kind in kinds:
            pipeline = build(args.size, args.device)
            if kind != "bfloat16":
                quantize(pipeline, kind, args.device)
            family = family_of(pipeline, args.device, args.reference)
            held = num_bytes(_parts(pipeline).values()) / 2**30
            print(f"{args.size} size, {kind}: weights {held:.2f} GiB", flush=True)
            for batch in batches:
                print(f"{args.size} size, {kind}: {measure(family, batch, args)}", flush=True)
            del pipeline, family
            if args.device != "cpu":
                torch.cuda.empty_cache()


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 2 when packages are missing, whose names are printed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=("real", "small"), default="real")
    parser.add_argument("--kinds", default="bfloat16,fp8", help="bfloat16, int8, fp8")
    parser.add_argument("--batches", default="1,2,4", help="edits in one forward pass")
    parser.add_argument("--side", type=int, default=1024, help="pixels of a side")
    parser.add_argument("--reference", type=int, default=1024, help="as the denoiser sees it")
    parser.add_argument("--steps", type=int, default=4, help="how many are timed")
    parser.add_argument("--scale", type=float, default=4.0, help="guidance; 1 is none")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels to run with")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if args.wheels is not None:
            unpack(args.wheels, Path(folder))
        if lacking := missing(args.kinds.split(",")):
            print(f"missing: {', '.join(lacking)}; install them, or bring wheels by --wheels")
            return 2
        run(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
