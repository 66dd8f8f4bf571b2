"""Requests that begin or end in latents, through the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from deployments.engine.engine import Engine
from deployments.errors import GenerationFailed, NumericalFailure
from deployments.types import Latents

Build = Callable[..., Engine]
Ask = Callable[..., Any]


def of(value: np.ndarray) -> Latents:
    n, _, height, width = value.shape
    return Latents(num_images=n, width=width * 8, height=height * 8, value=value, family="fake")


def test_latents_are_told_in_place_of_pictures(build_engine: Build, ask: Ask) -> None:
    heard = ask(build_engine(), "a", gives_latents=True, num_images=2)
    finished = heard.finished()
    assert finished.pictures == ()
    assert finished.latents.shape == (2, 3, 8, 8)


def test_decoding_takes_no_step_and_tells_of_none(build_engine: Build, ask: Ask) -> None:
    value = np.full((2, 3, 8, 8), 0.5, np.float32)
    heard = ask(build_engine(), "a", "", task="decode", latents=of(value), num_images=2)
    finished = heard.finished()
    assert [picture.pixels.mean() for picture in finished.pictures] == [0.5, 0.5]
    assert finished.latents is None
    assert finished.max_batch_rows == 0
    assert heard.steps == []


def test_the_steps_told_are_those_walked(build_engine: Build, ask: Ask) -> None:
    latents = Latents(num_images=1, width=64, height=64)
    heard = ask(
        build_engine(), "a", latents=latents, num_inference_steps=20, first_step=5, last_step=9
    )
    heard.finished()
    assert [(step.step, step.num_steps) for step in heard.steps] == [(k, 4) for k in range(5)]


def test_no_step_to_walk_ends_at_once(build_engine: Build, ask: Ask) -> None:
    latents = of(np.full((1, 3, 8, 8), 0.5, np.float32))
    heard = ask(build_engine(), "a", latents=latents, first_step=9, gives_latents=True)
    assert np.array_equal(heard.finished().latents, latents.value)


def test_latents_and_pictures_are_finished_apart(build_engine: Build, ask: Ask) -> None:
    engine = build_engine(is_started=False)
    pictures, latents = ask(engine, "a"), ask(engine, "b", gives_latents=True)
    engine.start()
    assert len(pictures.finished().pictures) == 1
    assert latents.finished().latents is not None
    assert pictures.finished().max_batch_rows == 2


def test_latents_that_are_no_numbers_fail(build_engine: Build, ask: Ask) -> None:
    value = np.full((1, 3, 8, 8), np.nan, np.float32)
    error = ask(
        build_engine(), "a", latents=of(value), gives_latents=True, adds_noise=False
    ).error()
    assert isinstance(error, NumericalFailure | GenerationFailed)
