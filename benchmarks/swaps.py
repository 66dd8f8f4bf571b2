"""Many owners' weights under a budget that holds a few: what a swap costs, and whom.

    python -m benchmarks.swaps [--widths 128,192,256] [--owners 20] [--held 3] [--device auto]

A fresh Stable Diffusion of these widths is the base, and each owner has a UNet file of his own on
the disk. Every picture is drawn once with its weights at hand and again among all others.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from deployments.config import ModelConfig
from deployments.engine.engine import Engine
from deployments.engine.events import Failed, Finished, Stepped
from deployments.opening import open_engine
from deployments.sketch.captions import captions
from deployments.sketch.modules import stable_diffusion
from deployments.sketch.tokenizer import learn_tokenizer
from deployments.types import GenerationRequest, SamplingParams

UNET = "unet/diffusion_pytorch_model.safetensors"


class Drawing:
    """One request in the engine: when its steps were, and its picture."""

    def __init__(self, engine: Engine, name: str, weights: str | None, steps: int) -> None:
        self.began = time.perf_counter()
        self.stepped: list[float] = []
        self._ended = Event()
        self._last: Any = None
        params = SamplingParams(
            width=256,
            height=256,
            num_inference_steps=steps,
            guidance_scale=5.0,
            strength=0.8,
            seed=1,
            scheduler="Euler",
            sigmas="normal",
        )
        request = GenerationRequest(prompt="a red cube", weights=weights, params=params)
        engine.add(name, request, self._hear)

    def _hear(self, event: Stepped | Finished | Failed) -> None:
        self.stepped.append(time.perf_counter())
        if not isinstance(event, Stepped):
            self._last = event
            self._ended.set()

    def has_ended(self, timeout: float) -> bool:
        """Whether it has, waiting so many seconds at most."""
        return self._ended.wait(timeout)

    def picture(self) -> Any:
        """The pixels, 0..255."""
        self._ended.wait()
        if isinstance(self._last, Failed):
            raise self._last.error
        return self._last.pictures[0].pixels * 255

    @property
    def seconds(self) -> float:
        """From the asking to the end."""
        self._ended.wait()
        return self.stepped[-1] - self.began

    @property
    def gaps(self) -> list[float]:
        """Seconds between its steps."""
        return [after - before for before, after in itertools.pairwise(self.stepped[1:-1])]


def make_checkpoints(folder: Path, widths: Sequence[int], owners: Sequence[str]) -> dict[str, str]:
    """The base in ``base``, and a UNet file for each owner."""
    tokenizer = learn_tokenizer(itertools.islice(captions(), 200))
    stable_diffusion(tokenizer, unet_widths=widths).save_pretrained(folder / "base")
    tensors = load_file(folder / "base" / UNET)
    for number, owner in enumerate(owners):
        noise = np.random.default_rng(number).standard_normal(tensors["conv_out.weight"].shape)
        own = {**tensors, "conv_out.weight": noise.astype(np.float32) / 20}
        save_file(own, folder / f"{owner}.safetensors")
    return {owner: str(folder / f"{owner}.safetensors") for owner in owners}


def measure(folder: Path, widths: Sequence[int], owners: Sequence[str], args: Any) -> None:
    """Draw, and print what it took."""
    table = make_checkpoints(folder, widths, owners)
    each = (folder / f"{owners[0]}.safetensors").stat().st_size
    base = sum(file.stat().st_size for file in folder.glob("base/**/*.safetensors"))
    budget = base + args.held * each + each // 2
    config = ModelConfig(
        family="stable-diffusion",
        weights=str(folder / "base"),
        device=args.device,
        dtype="float32",
        personal=table,
        max_resident_bytes=budget,
    )
    engine = open_engine(config).engine
    print(f"{each / 2**20:.0f} MiB of weights each, room for {args.held} beside the base")
    Drawing(engine, "warm", None, 4).picture()
    alone, first, again = {}, [], []
    for owner in owners:
        drawings = [Drawing(engine, f"{owner} alone", owner, 4)]
        alone[owner] = drawings[0].picture()
        drawings.append(Drawing(engine, f"{owner} again", owner, 4))
        drawings[1].picture()
        first.append(drawings[0].seconds - drawings[1].seconds)
        again.append(drawings[1].seconds)
    print(f"a picture of 4 steps with its weights at hand: {_ms(again)}")
    print(f"more, when they are read first: {_ms(first)}")

    lonely = Drawing(engine, "lonely", None, 60)
    lonely.picture()
    long = Drawing(engine, "long", None, 150)
    for number in itertools.count():  # weights are read, and nothing is drawn with them
        if long.has_ended(0.05):
            break
        Drawing(engine, f"read {number}", owners[number % len(owners)], 4)
        long.has_ended(0.02)
        engine.cancel(f"read {number}")
    most, drawings = 0, [Drawing(engine, owner, owner, 4) for owner in owners]
    while not all(drawing.has_ended(0.002) for drawing in drawings):
        most = max(most, engine.load().weight_bytes)
    worst = max(
        np.abs(drawing.picture() - alone[owner]).max()
        for owner, drawing in zip(owners, drawings, strict=True)
    )
    end = max(drawing.stepped[-1] for drawing in drawings)
    print(f"{len(owners)} owners at once: {end - drawings[0].began:.1f} s")
    print(f"most bytes of weights: {most / budget:.0%} of the budget")
    print(f"largest difference of a picture from the one drawn alone: {worst:.3f} levels")
    print(f"a step: alone {_ms(lonely.gaps)}, while weights are read {_ms(long.gaps)}")
    engine.stop()


def _ms(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.0f} ms (at most {max(seconds) * 1000:.0f})"


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", default="128,192,256")
    parser.add_argument("--owners", type=int, default=20)
    parser.add_argument("--held", type=int, default=3)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    widths = [int(width) for width in args.widths.split(",")]
    owners = [f"owner{number}" for number in range(args.owners)]
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), widths, owners, args)


if __name__ == "__main__":
    main()
