"""The fake family keeps the contract of ``Family``, on which the tests of the graph rest."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deployments.config import ModelConfig
from deployments.engine.state import RequestState, Row
from deployments.errors import InvalidRequest
from deployments.families import family_class
from deployments.families.fake import FakeFamily
from deployments.types import GenerationRequest, SamplingParams, SecondPass


def family(**config: Any) -> FakeFamily:
    return FakeFamily.load(ModelConfig(family="fake", **config), "cpu", "float32")


def request(prompt: str = "a cat", **knobs: Any) -> GenerationRequest:
    fields = GenerationRequest.__dataclass_fields__
    outer = {name: knobs.pop(name) for name in list(knobs) if name in fields}
    known = {"width": 64, "height": 48, "num_inference_steps": 4, "guidance_scale": 3.0}
    params = SamplingParams(**{"seed": 1, "scheduler": "Euler", "sigmas": "normal"} | known | knobs)
    return GenerationRequest(prompt=prompt, params=params, **outer)


def run(fake: FakeFamily, states: tuple[RequestState, ...]) -> list[Any]:
    """All steps of pictures of equal length, as the engine takes them."""
    while not states[0].is_denoised:
        rows = [Row(state, k) for state in states for k in range(state.num_rows)]
        predictions = fake.denoise(rows)
        for state in states:
            own = [p for row, p in zip(rows, predictions, strict=True) if row.state is state]
            fake.advance(state, own)
            state.step += 1
            if state.is_denoised:
                fake.follow(state)
    return fake.decode(states)


def draw(asked: GenerationRequest, weights: str | None = None, **config: Any) -> list[Any]:
    fake = family(**config)
    return run(fake, fake.encode(asked, fake.load_weights(weights)))


def png(colour: tuple[int, int, int] | int, mode: str = "RGB") -> bytes:
    buffer = BytesIO()
    Image.new(mode, (64, 48), colour).save(buffer, "png")
    return buffer.getvalue()


def test_family_is_in_the_table() -> None:
    assert family_class("fake") is FakeFamily
    assert not FakeFamily.uses_torch


def test_picture_has_the_size_and_range_asked_for() -> None:
    (pixels,) = draw(request())
    assert (pixels.shape, pixels.dtype) == ((48, 64, 3), np.float32)
    assert pixels.min() >= 0
    assert pixels.max() <= 1


def test_picture_depends_on_what_was_asked_only() -> None:
    assert np.array_equal(draw(request())[0], draw(request())[0])
    first, second = draw(request(num_images=2))
    assert np.array_equal(first, draw(request())[0])
    assert np.array_equal(second, draw(request(seed=2))[0])


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(request(seed=2), id="seed"),
        pytest.param(request("a dog"), id="prompt"),
    ],
)
def test_unlike_requests_are_visibly_unlike(other: GenerationRequest) -> None:
    assert np.abs(draw(request())[0] - draw(other)[0]).mean() > 0.05


def test_personal_weights_draw_their_own_pictures() -> None:
    own = draw(request(), "ann", personal={"ann": "/w"})[0]
    assert np.abs(own - draw(request())[0]).mean() > 0.01
    with pytest.raises(InvalidRequest, match="known: ann"):
        family(personal={"ann": "/w"}).load_weights("eve")


@pytest.mark.parametrize(("scheduler", "num_timesteps"), [("Euler", 4), ("Heun", 7), ("DDIM", 4)])
def test_scheduler_sets_the_timesteps(scheduler: str, num_timesteps: int) -> None:
    fake = family()
    (state,) = fake.encode(request(scheduler=scheduler), fake.load_weights(None))
    assert state.num_timesteps == num_timesteps
    assert state.num_rows == 2


@pytest.mark.parametrize("knob", ["scheduler", "sigmas"])
def test_unknown_names_are_refused_with_the_known(knob: str) -> None:
    with pytest.raises(InvalidRequest, match="known: ") as caught:
        draw(request(**{knob: "odd"}))
    assert caught.value.param == knob


def test_change_grows_with_strength() -> None:
    asked = [request(images=(png((10, 20, 30)),), strength=s) for s in (0.05, 0.5, 1.0)]
    source = np.array([10, 20, 30], dtype=np.float32) / 255
    changes = [np.abs(draw(one)[0] - source).mean() for one in asked]
    assert changes[0] < 0.05 < changes[1] < changes[2]


def test_inpainting_keeps_what_is_black() -> None:
    mask = Image.new("L", (64, 48), 0)
    mask.paste(255, (32, 0, 64, 48))
    buffer = BytesIO()
    mask.save(buffer, "png")
    asked = request(images=(png((10, 20, 30)),), mask=buffer.getvalue(), strength=1.0)
    (pixels,) = draw(asked)
    assert np.allclose(pixels[:, :32], np.array([10, 20, 30]) / 255)
    assert np.abs(pixels[:, 32:] - np.array([10, 20, 30]) / 255).mean() > 0.05


def test_several_inputs_need_a_limit_that_allows_them() -> None:
    asked = request(images=(png((0, 0, 0)), png((255, 255, 255))))
    with pytest.raises(InvalidRequest, match="at most 1"):
        draw(asked)
    assert draw(asked, limits={"max_input_images": 2})[0].shape == (48, 64, 3)


def test_preview_is_small() -> None:
    fake = family()
    (state,) = fake.encode(request(), fake.load_weights(None))
    assert fake.preview(state).shape == (6, 8, 3)


@pytest.mark.parametrize("stage", ["encode", "step", "advance", "decode"])
def test_prompt_makes_a_stage_fail(stage: str) -> None:
    with pytest.raises(RuntimeError):
        draw(request(f"a cat fail:{stage}, please"))


def test_prompt_makes_memory_run_out() -> None:
    with pytest.raises(MemoryError):
        draw(request("fail:oom"))
    assert len(draw(request("fail:oom-batch"))) == 1
    with pytest.raises(MemoryError):
        draw(request("fail:oom-batch", num_images=2))


def test_prompt_makes_nan() -> None:
    assert np.isnan(draw(request("fail:nan"))[0]).all()


def test_prompt_ends_the_process_at_the_second_step() -> None:
    code = """
import time
from deployments.config import ModelConfig
from deployments.engine.engine import Engine
from deployments.engine.inline import InlineRunner
from deployments.families.fake import FakeFamily
from deployments.types import GenerationRequest, SamplingParams, SecondPass

engine = Engine(FakeFamily(ModelConfig(family="fake")), InlineRunner())
engine.start()
params = SamplingParams(num_inference_steps=3)
engine.add("a", GenerationRequest(prompt="fail:exit", params=params), print)
time.sleep(30)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
    assert ran.returncode == 1
    assert b"Error" not in ran.stderr


def test_second_pass_has_the_final_size_and_its_own_prompt() -> None:
    second = SecondPass(width=128, height=96, strength=0.5)
    own = SecondPass(width=128, height=96, strength=0.5, prompt="a dog")
    pictures = [draw(request(second_pass=given))[0] for given in (second, own)]
    (large,) = draw(request(width=128, height=96))
    assert pictures[0].shape == (96, 128, 3)
    assert np.abs(pictures[0] - large).max() < 1e-4
    assert np.abs(pictures[1] - large).mean() > 0.01


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        pytest.param({"second_pass": SecondPass(width=64, height=64, upscaler="x")}, "'x'", id="x"),
        pytest.param(
            {"second_pass": SecondPass(width=64, height=64), "images": (png((1, 2, 3)),)},
            "text-to-image only",
            id="input",
        ),
    ],
)
def test_second_pass_is_refused(knobs: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        draw(request(**knobs))


def test_variations_differ_by_their_variation_seed() -> None:
    varied = {"variation_seed": 5, "variation_strength": 0.1}
    first, second = draw(request(num_images=2, **varied))
    assert not np.array_equal(first, second)
    assert np.array_equal(second, draw(request(**varied | {"variation_seed": 6}))[0])


def test_padding_redraws_a_box_and_keeps_the_input_s_size() -> None:
    mask = Image.new("L", (64, 48))
    mask.paste(255, (8, 8, 24, 24))
    buffer = BytesIO()
    mask.save(buffer, "png")
    box = {"images": (png((200, 100, 0)),), "mask": buffer.getvalue(), "mask_padding": 0}
    (pixels,) = draw(request(width=96, height=96, **box))
    assert pixels.shape == (48, 64, 3)
    kept = np.asarray(mask) == 0
    assert np.allclose(pixels[kept], np.array([200, 100, 0]) / 255, atol=1e-3)
    assert np.abs(pixels[~kept] - np.array([200, 100, 0]) / 255).mean() > 0.01
