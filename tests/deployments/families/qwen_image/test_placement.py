"""Where modules go, and what they take of a device."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deployments.config import ModelConfig
from deployments.families.base import Family
from deployments.families.qwen_image_placement import place, spread

Load = Callable[..., Family]

FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)
#: Qwen-Image-Edit-2509's in bfloat16, in GiB.
SIZES = {"text_encoder": 15, "transformer": 38, "vae": 1}


def moved(pipeline: Any) -> Any:
    """The same modules, all that is asked of them noted instead of done."""
    moves: list[tuple[str, str]] = []

    class Module(torch.nn.Linear):
        def __init__(self, name: str, width: int) -> None:
            super().__init__(width, 1, bias=False)
            self.name = name

        def get_submodule(self, target: str) -> Any:
            return self

        def to(self, device: Any) -> Any:  # type: ignore[override]
            moves.append((self.name, str(device)))
            return self

    parts = {name: Module(name, width) for name, width in pipeline.items()}
    return SimpleNamespace(**parts, moves=moves)


@pytest.mark.parametrize(
    ("free", "places"),
    [
        pytest.param((60, 60), (SECOND, FIRST, SECOND), id="the largest first"),
        pytest.param((20, 40), (FIRST, SECOND, FIRST), id="where most is left"),
        pytest.param((80, 12), (FIRST, FIRST, FIRST), id="all in one"),
    ],
)
def test_spread_puts_modules_where_most_is_left(
    free: tuple[int, int], places: tuple[torch.device, ...]
) -> None:
    found = spread(SIZES, dict(zip((FIRST, SECOND), free, strict=True)))
    assert tuple(found[name] for name in SIZES) == places


def test_spread_says_what_fits_nowhere() -> None:
    gibibytes = {name: size * 2**30 for name, size in SIZES.items()}
    with pytest.raises(ValueError, match=r"transformer takes 38\.0 GiB, .* at most 24\.0 GiB"):
        spread(gibibytes, {FIRST: 24 * 2**30, SECOND: 22 * 2**30})


def test_balanced_modules_count_on_the_fullest_device(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = moved({"text_encoder": 10, "transformer": 20, "vae": 5})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))
    config = ModelConfig(family="qwen-image")
    placement = place(pipeline, config, FIRST, "balanced")
    assert placement.devices == {"transformer": FIRST, "text_encoder": SECOND, "vae": SECOND}
    assert (placement.num_bytes, placement.waiting_bytes) == (80, 0)
    assert sorted(pipeline.moves) == [
        ("text_encoder", "cuda:1"),
        ("transformer", "cuda:0"),
        ("vae", "cuda:1"),
    ]


def test_whole_modules_that_wait_count_one_at_a_time() -> None:
    pipeline = moved({"text_encoder": 10, "transformer": 20, "vae": 5})
    placement = place(pipeline, ModelConfig(family="qwen-image", offload="model"), FIRST, "cuda")
    assert (placement.num_bytes, placement.waiting_bytes) == (80, 140)
    assert set(pipeline.moves) == {(n, "cpu") for n in ("text_encoder", "transformer", "vae")}
    assert set(placement.devices.values()) == {FIRST}


def test_four_bit_modules_stay_where_they_were_read() -> None:
    pipeline = moved({"text_encoder": 10, "transformer": 20, "vae": 5})
    config = ModelConfig(family="qwen-image", quantization="nf4")
    placement = place(pipeline, config, FIRST, "cuda")
    assert pipeline.moves == [("vae", "cuda:0")]
    assert placement.num_bytes == 140


def test_layers_that_wait_on_a_cpu_are_in_its_memory_all_the_time(load_qwen: Load) -> None:
    whole, offloaded = load_qwen("qwen-edit"), load_qwen("qwen-edit", offload="group")
    assert offloaded.expected_bytes(None) == whole.expected_bytes(None) > 10**6
    assert offloaded.host_bytes == whole.host_bytes == 0
