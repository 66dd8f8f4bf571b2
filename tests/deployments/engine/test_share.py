"""The share of memory: sums, and requests that wait, run in smaller batches, or are told no."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from time import monotonic, sleep
from typing import Any

import pytest

from deployments.config import ModelConfig
from deployments.engine.calibration import CAUTION, calibrate
from deployments.engine.events import Finished
from deployments.engine.inline import InlineRunner
from deployments.engine.memory import Budget, Stand, WeightsPool
from deployments.engine.share import OVERHEAD, Appetite, Share, final_tokens, num_rows, told
from deployments.errors import GenerationFailed, InvalidRequest, MemoryExceeded
from deployments.families.fake import NUM_BYTES, FakeFamily, FakeWeights
from deployments.types import GenerationRequest, SamplingParams, SecondPass

#: 64 by 64 pixels have 64 image tokens.
TOKENS = 64
REQUEST = GenerationRequest(
    prompt="a", params=SamplingParams(width=64, height=64, guidance_scale=1.0)
)


def share_of(usable: float, *, denoise: float = 0.0, decode: float = 0.0) -> Share:
    """A share of which so many bytes can be used."""
    num_bytes = round(usable / (1 - OVERHEAD))
    return Share(num_bytes=num_bytes, appetite=Appetite(denoise=denoise, decode=decode))


def test_picture_takes_the_most_of_its_stages_and_passes() -> None:
    share = Share(appetite=Appetite(denoise=10, decode=15))
    guided = replace(REQUEST, params=replace(REQUEST.params, guidance_scale=5.0))
    assert share.bytes_of(REQUEST, 1 / 64) == 15 * TOKENS
    assert share.bytes_of(guided, 1 / 64) == 20 * TOKENS
    second = replace(guided, second_pass=SecondPass(width=128, height=128))
    assert share.bytes_of(second, 1 / 64) == 4 * 20 * TOKENS
    assert num_rows(guided) == 2


def test_picture_takes_what_its_task_and_its_inputs_ask_for() -> None:
    appetite = Appetite(text=7, encode=30, denoise=10, decode=20, encode_start=5, decode_start=3)
    share = Share(appetite=appetite, reference_side=128)
    assert share.bytes_of(REQUEST, 1 / 64) == 20 * TOKENS + 3
    latents = replace(REQUEST, gives_latents=True)
    assert share.bytes_of(latents, 1 / 64) == 10 * TOKENS
    assert share.bytes_of(replace(latents, task="encode"), 1 / 64) == 7
    # What is encoded is at least as large as what an edit looks at.
    edit = replace(REQUEST, images=(b"",))
    assert share.bytes_of(edit, 1 / 64) == 30 * 4 * TOKENS + 5
    small = replace(share, reference_side=0)
    assert small.bytes_of(edit, 1 / 64) == 30 * TOKENS + 5
    # A second pass may enlarge the picture as pixels, which are encoded again.
    second = replace(REQUEST, second_pass=SecondPass(width=128, height=128))
    assert small.bytes_of(second, 1 / 64) == 30 * 4 * TOKENS + 5
    assert final_tokens(second, 1 / 64) == 4 * TOKENS


def test_share_that_holds_the_model_is_no_error() -> None:
    share_of(1000, denoise=1.0).check(800, 100)
    Share().check(2**60, 100)


def test_share_that_does_not_hold_the_model_tells_the_sum() -> None:
    with pytest.raises(ValueError, match=r"weights 801 bytes \+ 200 bytes .* = 1001 bytes; .*1000"):
        share_of(1000, denoise=1.0).check(801, 100)
    with pytest.raises(ValueError, match=r"801 bytes \+ 9 bytes of fixed LoRAs \+ 200 .* = 1010"):
        share_of(1000, denoise=1.0).check(801, 100, lora_bytes=9)


@pytest.mark.parametrize(
    ("num_bytes", "words"), [(5, "5 bytes"), (2**20, "1.00 MiB"), (5 * 2**28, "1.25 GiB")]
)
def test_bytes_are_told(num_bytes: int, words: str) -> None:
    assert told(num_bytes) == words


def test_work_may_take_what_is_free() -> None:
    share = share_of(1000)
    assert share.free_bytes(400) == 600
    assert share.free_bytes(2000) == 0
    assert Share().free_bytes(0) is None


def test_work_waits_for_room_and_makes_it() -> None:
    def load(name: str | None) -> FakeWeights:
        return FakeWeights(name=name or "", num_bytes=10)

    pool = WeightsPool(load, Budget(max_total_bytes=40), expect=lambda _: 10)
    pool.acquire("a", 20)
    pool.reserve(20)
    pool.acquire("b", 5)
    assert pool.stand("a", 20) is Stand.READY
    assert pool.stand("a", 21) is Stand.NO_ROOM
    assert pool.stand("c", 5) is Stand.NO_ROOM
    pool.release("b")
    assert pool.stand("a", 30) is Stand.READY
    pool.acquire("a", 30)
    assert pool.names == ("a",)
    with pytest.raises(MemoryExceeded, match="31 bytes for a picture, 1 bytes more"):
        pool.acquire("a", 31)


def test_large_pictures_run_apart_and_too_large_ones_are_refused(
    build_engine: Any, ask: Any, gated: Any
) -> None:
    # Room for the weights, and for a forward of two pictures' tokens.
    share = share_of(NUM_BYTES + 2 * TOKENS * 1000, denoise=1000.0)
    engine = build_engine(runner=gated, share=share)
    small = [ask(engine, f"small {k}") for k in range(5)]
    gated.open_gate()
    with pytest.raises(MemoryExceeded, match="takes 1000000 bytes for its weights and 1") as told:
        ask(engine, "huge", width=256, height=256)
    assert told.value.status == 400
    assert {heard.finished().max_batch_rows for heard in small} <= {1, 2}
    assert engine.load().memory_bytes == share.num_bytes


def test_what_a_running_batch_takes_is_set_aside(build_engine: Any, ask: Any, gated: Any) -> None:
    share = share_of(NUM_BYTES + 4 * TOKENS * 1000, denoise=1000.0)
    engine = build_engine(runner=gated, share=share, is_started=False)
    heard = [ask(engine, str(k)) for k in range(3)]
    engine.start()
    gated.wait()
    assert engine.load().work_bytes == 3 * (TOKENS + 2) * 1000  # the prompt has two tokens
    gated.open_gate()
    for one in heard:
        one.finished()
    deadline = monotonic() + 10
    while engine.load().work_bytes and monotonic() < deadline:
        sleep(0.01)
    assert engine.load().work_bytes == 0


def test_picture_whose_references_are_too_many_is_refused_once_they_are_known(
    build_engine: Any, ask: Any
) -> None:
    class Referring(FakeFamily):
        """Tells more tokens than the picture's own."""

        def encode(self, request: GenerationRequest, weights: Any) -> Any:
            states = super().encode(request, weights)
            for state in states:
                state.tokens *= 3
            return states

    share = share_of(NUM_BYTES + 2 * TOKENS * 1000, denoise=1000.0)
    engine = build_engine(Referring(ModelConfig(family="fake")), share=share)
    assert isinstance(ask(engine, "a").error(), MemoryExceeded)
    assert engine.evict().weights == ("",)


def test_requests_for_different_weights_wait_for_each_others_memory(
    build_engine: Any, ask: Any
) -> None:
    names = ("ann", "bob", "eve")
    # One set of weights and its picture at once: two of both do not fit.
    share = share_of(2 * NUM_BYTES - 1 + TOKENS * 1000, denoise=1000.0)
    engine = build_engine(personal=names, share=share, step_seconds=0.001)
    heard = [ask(engine, f"{name}.{k}", weights=name) for k in range(4) for name in names]
    most = 0
    for one in heard:
        while not one.has_ended.wait(0.001):
            most = max(most, engine.load().weight_bytes)
        one.finished()
    assert most <= 2 * NUM_BYTES - 1


def test_calibration_measures_what_the_runner_tells() -> None:
    class Measuring(InlineRunner):
        def measure(self, function: Any, *args: Any) -> tuple[Any, int]:
            return function(*args), 640

    config = ModelConfig(family="fake", defaults={"width": 64, "height": 64, "scheduler": "Euler"})
    found = calibrate(FakeFamily(config), Measuring(), config)
    assert found.tokens_per_pixel == 1 / 64
    assert found.appetite == Appetite(
        text=800, encode=CAUTION * 10, denoise=CAUTION * 5, decode=CAUTION * 10
    )
    assert found.weight_bytes == NUM_BYTES


def test_calibration_of_pictures_in_tiles_finds_what_a_tile_takes() -> None:
    class Measuring(InlineRunner):
        """Decoding takes 1000 bytes and one for every 8 pixels; encoding 3000 of any."""

        def measure(self, function: Any, *args: Any) -> tuple[Any, int]:
            if function.__name__ == "encode":
                return function(*args), 3000 if args[0].images else 0
            if function.__name__ == "denoise":
                return function(*args), 0
            params = args[0][0].request.params
            return function(*args), 1000 + params.width * params.height // 8

    defaults = {"width": 512, "height": 512, "guidance_scale": 1.0}
    config = ModelConfig(family="fake", vae_tiling=True, defaults=defaults)
    found = calibrate(FakeFamily(config), Measuring(), config)
    assert found.appetite == Appetite(
        encode_start=round(CAUTION * 3000), decode=CAUTION * 8, decode_start=round(CAUTION * 1000)
    )


def test_calibration_of_what_draws_nothing_from_a_text_expects_nothing() -> None:
    class Silent(FakeFamily):
        def encode(self, request: GenerationRequest, weights: Any) -> Any:
            raise InvalidRequest("it needs a mask")

    config = ModelConfig(family="fake")
    found = calibrate(Silent(config), InlineRunner(), config)
    assert found.appetite == Appetite()


def test_the_sums_need_no_torch() -> None:
    code = "import sys, deployments.engine.share; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("num_bytes", [None, 10 * NUM_BYTES], ids=["unknown", "known"])
def test_work_that_is_over_is_set_aside_no_more(
    num_bytes: int | None, build_engine: Any, ask: Any
) -> None:
    share = Share(num_bytes=num_bytes, appetite=Appetite(denoise=100.0))
    engine = build_engine(share=share)
    ask(engine, "one").finished()
    until = monotonic() + 5
    while engine.load().work_bytes and monotonic() < until:
        sleep(0.01)
    assert engine.load().work_bytes == 0


@pytest.mark.parametrize("seed", range(4))
def test_storm_ends_for_everybody_and_nothing_stays_held(
    seed: int, build_engine: Any, ask: Any
) -> None:
    chance = random.Random(seed)

    class Unreliable(FakeFamily):
        """Now and then a set cannot be read, or memory does not hold it."""

        def load_weights(self, name: str | None) -> FakeWeights:
            sleep(chance.random() * 0.004)
            if name is not None and chance.random() < 0.1:
                raise chance.choice([MemoryError(), GenerationFailed("weights cannot be read")])
            return super().load_weights(name)

    names = [f"user {k}" for k in range(9)]
    family = Unreliable(ModelConfig(family="fake", personal=dict.fromkeys(names, "/w")))
    share = share_of((1.5 + seed) * NUM_BYTES, denoise=1000.0, decode=500.0)
    engine = build_engine(family, share=share, budget=Budget(max_sets=3))
    heard = []
    for k in range(80):
        side = chance.choice([64, 64, 128])
        weights = chance.choice([None, *names])
        heard.append(ask(engine, str(k), weights=weights, width=side, height=side))
        if chance.random() < 0.2:
            engine.cancel(str(chance.randrange(k + 1)))
        if chance.random() < 0.2:
            sleep(0.002)
    assert any(isinstance(one.end(), Finished) for one in heard)
    for one in heard:
        one.end()
    while engine.load().weight_bytes:  # a set that nobody waits for may still be on its way
        engine.evict()
