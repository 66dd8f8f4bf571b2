"""Easel: an engine over some weights that draws one picture at a time."""

from __future__ import annotations

import io
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.config import ModelConfig
from deployments.engine.device import usable_cores
from deployments.engine.engine import Engine
from deployments.engine.events import Failed, Finished
from deployments.opening import open_engine
from deployments.types import GenerationRequest, SamplingParams

#: (height, width, 3), 0..255.
Pixels = NDArray[np.float32]


def euler(
    size: tuple[int, int], steps: int, guidance: float, *, is_editor: bool, seed: int
) -> SamplingParams:
    """Euler's steps; what guides an editor is its ``true_cfg_scale``."""
    return SamplingParams(
        width=size[0],
        height=size[1],
        num_inference_steps=steps,
        guidance_scale=1.0 if is_editor else guidance,
        true_cfg_scale=guidance if is_editor else None,
        strength=1.0,
        scheduler="Euler",
        sigmas="simple",
        seed=seed,
    )


class Easel:
    """Close it: its engine has a thread of its own."""

    def __init__(self, family: str, weights: Path) -> None:
        config = ModelConfig(
            family=family, weights=str(weights), device="cpu", num_threads=usable_cores()
        )
        self._engine: Engine = open_engine(config).engine

    def draw(self, request: GenerationRequest) -> Pixels:
        """The request's first picture; raises what it failed with."""
        ended, heard = Event(), []

        def hear(event: Any) -> None:
            if isinstance(event, Finished | Failed):
                heard.append(event)
                ended.set()

        self._engine.add("picture", request, hear)
        ended.wait()
        if isinstance(heard[0], Failed):
            raise heard[0].error
        return np.asarray(heard[0].pictures[0].pixels * 255, dtype=np.float32)

    def close(self) -> None:
        """Stop the engine's thread."""
        self._engine.stop()


def encoded(picture: Pixels) -> bytes:
    """As a PNG, for a request's pictures."""
    buffer = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
