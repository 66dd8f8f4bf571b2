"""TorchRunner: no gradients, memory faults in one shape, and what ``auto`` means."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
import weakref

import pytest

torch = pytest.importorskip("torch")

from deployments.engine.device import host_device  # noqa: E402
from deployments.engine.runner import (  # noqa: E402
    TorchRunner,
    is_device_lost,
    pick_device,
    pick_dtype,
)

_TRIMMED = """
import psutil, torch
from deployments.engine.runner import TorchRunner
process = psutil.Process()
TorchRunner("cpu").trim()
free = process.memory_info().rss
torch.ones(64, 1 << 20)
kept = process.memory_info().rss
TorchRunner("cpu").trim()
print(kept - free, process.memory_info().rss - free)
"""


def test_run_is_without_gradients_and_loads_stay_ordinary() -> None:
    runner = TorchRunner("cpu", num_threads=1)
    runner.open()
    assert runner.run(torch.ones, 2).is_inference()
    loaded = runner.load(lambda name: torch.nn.Linear(2, 2), None)
    assert not loaded.weight.is_inference()
    assert torch.get_num_threads() == 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's memory")
def test_trim_gives_kept_memory_back_to_the_machine() -> None:
    """In a process that keeps what was given back, as ``serve_config.yaml`` tells the models to."""
    told = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
    process = [sys.executable, "-c", _TRIMMED]
    printed = subprocess.check_output(process, env={**os.environ, **told}, text=True)
    before, after = map(int, printed.split())
    assert before > 200 << 20 > 8 * after


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(torch.OutOfMemoryError("CUDA out of memory"), id="cuda"),
        pytest.param(
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            id="cpu",
        ),
    ],
)
def test_out_of_memory_becomes_a_memory_error(error: RuntimeError) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(MemoryError) as caught:
        TorchRunner("cpu").run(fail)
    assert caught.value.__context__ is None


def test_real_allocation_that_cannot_fit_is_a_memory_error() -> None:
    with pytest.raises(MemoryError):
        TorchRunner("cpu").run(torch.empty, 2**46)


def test_out_of_memory_keeps_nothing_alive() -> None:
    kept: list[weakref.ref[object]] = []

    def fail() -> None:
        large = torch.ones(8)
        kept.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory")

    gc.disable()
    try:
        with pytest.raises(MemoryError):
            TorchRunner("cpu").run(fail)
        assert kept[0]() is None
    finally:
        gc.enable()


def test_other_errors_pass() -> None:
    runner = TorchRunner("cpu")
    with pytest.raises(RuntimeError, match="shape"):
        runner.run(torch.ones(2).reshape, 3)
    assert not runner.is_lost


def test_accelerator_error_means_the_device_is_lost() -> None:
    assert is_device_lost(torch.AcceleratorError("CUDA error: illegal memory access"))
    assert not is_device_lost(RuntimeError("shape"))


def test_diffusers_scheduler_steps_in_inference_mode() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EulerDiscreteScheduler()
    runner = TorchRunner("cpu", num_threads=1)
    runner.run(scheduler.set_timesteps, 3)
    latents = torch.ones(1, 4, 2, 2)
    for timestep in scheduler.timesteps:
        scaled = runner.run(scheduler.scale_model_input, latents, timestep)
        latents = runner.run(scheduler.step, scaled * 0, timestep, latents).prev_sample
    assert torch.isfinite(latents).all()


def test_auto_is_resolved() -> None:
    assert pick_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cuda:1") == "cuda:1"
    assert pick_dtype("auto", "cpu") == "float32"
    assert pick_dtype("auto", "cuda:1") == "bfloat16"
    assert pick_dtype("float16", "cpu") == "float16"


def test_measure_tells_what_tensors_took_on_a_cpu() -> None:
    runner = TorchRunner("cpu")

    def work(num_bytes: int) -> int:
        return int(torch.ones(num_bytes, dtype=torch.uint8).max())

    result, taken = runner.measure(work, 200_000_000)
    assert result == 1
    assert 200_000_000 <= taken < 200_001_000
    assert runner.device == host_device()
    runner.bound(1)


def test_measure_counts_what_is_there_at_once() -> None:
    def work() -> None:
        for _ in range(3):
            first = torch.ones(1_000_000, dtype=torch.uint8)
            second = torch.ones(500_000, dtype=torch.uint8)
            del first, second

    assert TorchRunner("cpu").measure(work)[1] == 1_500_000
