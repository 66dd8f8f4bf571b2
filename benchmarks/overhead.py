"""What the gateway adds: a picture through HTTP against the same picture by the engine alone.

    python -m benchmarks.overhead --url http://127.0.0.1:8000 --rounds 40

Both are measured side by side in one run: each round asks the served model for a picture over HTTP
and then draws the same one with an engine in this process (PNG encoding on neither side is left
out), so that whatever else the machine does falls on both. Prints p50 and p99 of each and of the
difference, in milliseconds.
"""

from __future__ import annotations

import argparse
import queue
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clients.generate_client import GenerateClient
from deployments.config import ModelConfig
from deployments.engine.events import Event, Failed, Finished
from deployments.opening import open_engine
from deployments.pictures import encode
from deployments.types import GenerationRequest, SamplingParams

MODEL = "sd15-dreambooth"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of every round, by HTTP and by the engine alone."""

    http: Sequence[float]
    engine: Sequence[float]

    @property
    def overhead(self) -> Sequence[float]:
        """What HTTP took longer, round by round."""
        return [http - engine for http, engine in zip(self.http, self.engine, strict=True)]


def main() -> None:
    """Measure and print."""
    args = parse_arguments()
    draw = local_engine(args.config)
    with GenerateClient(args.url) as client:
        timing = measure(client, draw, rounds=args.rounds, steps=args.steps, size=args.size)
    print(f"{args.rounds} rounds, {args.size}x{args.size}, {args.steps} steps, one client")
    for name, seconds in (
        ("http", timing.http),
        ("engine", timing.engine),
        ("overhead", timing.overhead),
    ):
        p50, p99 = percentiles(seconds)
        print(f"{name:>9}: p50 {p50 * 1e3:7.1f} ms   p99 {p99 * 1e3:7.1f} ms")
    ratio = statistics.median(timing.http) / statistics.median(timing.engine)
    print(f"http / engine: {ratio:.3f}")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--config", default="serve_config.yaml")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--size", type=int, default=512)
    return parser.parse_args()


def local_engine(config_path: str) -> Callable[[GenerationRequest], bytes]:
    """The model's engine in this process: draws a request and encodes it as PNG."""
    engine = open_engine(ModelConfig(**model_args(config_path))).engine

    def draw(request: GenerationRequest) -> bytes:
        events: queue.Queue[Event] = queue.Queue()
        engine.add("benchmark", request, events.put)
        while True:
            match events.get():
                case Finished(pictures=(picture, *_)):
                    return encode(picture.pixels, "png", 95)
                case Failed(error=error):
                    raise error

    return draw


def model_args(config_path: str) -> dict[str, Any]:
    """The arguments of ``MODEL``'s application in a Serve configuration."""
    config = yaml.safe_load(Path(config_path).read_text())
    for application in config["applications"]:
        if application["name"] == MODEL:
            args: dict[str, Any] = application["args"]
            return args
    raise SystemExit(f"{config_path} has no application {MODEL!r}")


def measure(
    client: GenerateClient,
    draw: Callable[[GenerationRequest], bytes],
    *,
    rounds: int,
    steps: int,
    size: int,
) -> Timing:
    """Alternate the two, after two warm-up rounds; the pictures must be the same bytes."""
    http, engine = [], []
    for seed in range(rounds + 2):
        started = time.perf_counter()
        picture = client.generate_image(
            "a red circle", width=size, height=size, num_inference_steps=steps, seed=seed
        )
        middle = time.perf_counter()
        drawn = draw(request(size, steps, seed))
        ended = time.perf_counter()
        if picture.data != drawn:
            print(f"seed {seed}: the two pictures are not the same bytes")
        http.append(middle - started)
        engine.append(ended - middle)
    return Timing(http=http[2:], engine=engine[2:])


def request(size: int, steps: int, seed: int) -> GenerationRequest:
    """What ``POST /generate/image`` makes of the same fields."""
    return GenerationRequest(
        prompt="a red circle",
        weights="default",
        params=SamplingParams(
            width=size,
            height=size,
            num_inference_steps=steps,
            guidance_scale=7.5,
            strength=0.8,
            scheduler="PNDM",
            sigmas="normal",
            seed=seed,
        ),
    )


def percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """The 50th and 99th percentile."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return cuts[49], cuts[98]


if __name__ == "__main__":
    main()
