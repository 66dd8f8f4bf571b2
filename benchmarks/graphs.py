"""What a ComfyUI graph costs beside the same picture asked of ``/generate/image``.

    python -m benchmarks.graphs --url http://127.0.0.1:8000 --rounds 40

Both are asked of one served model, round by round in one run. A graph is timed from its POST to
three moments: the ``executed`` frame that names its picture, that picture read through ``/view``,
and the closing ``executing`` frame, which by contract comes at least 50 ms after the last node.
``/generate`` walks PNDM's one forward pass more than it is asked steps: the graph, which samples
with Euler, is asked for one step more. Prints p50 and p99 in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any, Final

import httpx
from websockets.sync.client import ClientConnection, connect

from benchmarks.overhead import percentiles

MODEL: Final = "sd15-dreambooth"
PROMPT: Final = "a red circle"
#: What is timed of a graph, in order.
MOMENTS: Final = ("executed", "viewed", "closed")


def main() -> None:
    """Measure and print."""
    args = parse_arguments()
    socket_url = f"{args.url.replace('http', 'ws', 1)}/ws?clientId=benchmark"
    plain: list[float] = []
    graphs: dict[str, list[float]] = {moment: [] for moment in MOMENTS}
    with httpx.Client(base_url=args.url, timeout=600) as http, connect(socket_url) as socket:
        for seed in range(args.rounds + 2):
            took = time_generate(http, args.size, args.steps, seed)
            moments = time_graph(http, socket, graph(args.size, args.steps + 1, seed))
            if seed >= 2:  # two rounds to warm up
                plain.append(took)
                for moment, seconds in zip(MOMENTS, moments, strict=True):
                    graphs[moment].append(seconds)
    print(f"{args.rounds} rounds, {args.size}x{args.size}, {args.steps} steps, one client")
    report("/generate/image", plain)
    for moment, times in graphs.items():
        report(f"graph, {moment}", times)
        extra = [graph - alone for graph, alone in zip(times, plain, strict=True)]
        report("  beside /generate", extra)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--size", type=int, default=512)
    return parser.parse_args()


def graph(size: int, steps: int, seed: int) -> dict[str, Any]:
    """Text to image, as ComfyUI's own scripts have it."""
    return {
        "3": node(
            "KSampler",
            model=["4", 0],
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["5", 0],
            seed=seed,
            steps=steps,
            cfg=7.5,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "4": node("CheckpointLoaderSimple", ckpt_name=MODEL),
        "5": node("EmptyLatentImage", width=size, height=size, batch_size=1),
        "6": node("CLIPTextEncode", clip=["4", 1], text=PROMPT),
        "7": node("CLIPTextEncode", clip=["4", 1], text=""),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="benchmark", images=["8", 0]),
    }


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """A node of the API format."""
    return {"class_type": class_type, "inputs": inputs}


def time_generate(http: httpx.Client, size: int, steps: int, seed: int) -> float:
    """Seconds of one picture through ``/generate/image``."""
    body = {"prompt": PROMPT, "width": size, "height": size, "num_inference_steps": steps}
    started = time.perf_counter()
    http.post("/generate/image", json={**body, "seed": seed}).raise_for_status()
    return time.perf_counter() - started


def time_graph(
    http: httpx.Client, socket: ClientConnection, prompt: dict[str, Any]
) -> tuple[float, float, float]:
    """Seconds until each of the ``MOMENTS`` of one graph."""
    started = time.perf_counter()
    answer = http.post("/prompt", json={"prompt": prompt, "client_id": "benchmark"})
    prompt_id = answer.raise_for_status().json()["prompt_id"]
    executed = viewed = 0.0
    while True:
        frame = socket.recv()
        if not isinstance(frame, str):
            continue
        message = json.loads(frame)
        kind, data = message["type"], message["data"]
        if data.get("prompt_id") != prompt_id:
            continue
        if kind == "executed":
            executed = time.perf_counter() - started
            (image,) = data["output"]["images"]
            http.get("/view", params=image).raise_for_status()
            viewed = time.perf_counter() - started
        if kind == "execution_error":
            raise SystemExit(f"the graph failed: {data['exception_message']}")
        if kind == "executing" and data["node"] is None:
            return executed, viewed, time.perf_counter() - started


def report(name: str, seconds: Sequence[float]) -> None:
    """One line."""
    p50, p99 = percentiles(seconds)
    print(f"{name:>20}: p50 {p50 * 1e3:7.1f} ms   p99 {p99 * 1e3:7.1f} ms")


if __name__ == "__main__":
    main()
