"""What a call may ask for: lengths, counts, ranges and seeds, and that every refusal is told."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from router.apis.sdapi.inputs import prepare_inputs
from router.apis.sdapi.scripts import call as calls
from tests.router.apis.sdapi_gateway import PICTURE, Served, sdapi_gateway

T2I = "/sdapi/v1/txt2img"
I2I = "/sdapi/v1/img2img"
SMALL = {"width": 64, "height": 64, "steps": 1, "seed": 10}
NO_AXIS: list[Any] = [0, "", []]
LAST_SEED = 2**32 - 1


@pytest.fixture(scope="module")
def sd() -> Iterator[Served]:
    with sdapi_gateway() as running:
        yield running


def plot(kind: Any, values: str, *, keep: bool = False, vary: bool = False) -> dict[str, Any]:
    rest = [False, True, False, keep, vary, False, False, 0, True]
    args = [kind, values, [], *NO_AXIS, *NO_AXIS, *rest]
    return {"script_name": "X/Y/Z plot", "script_args": args}


def told(answer: Any, name: str) -> Any:
    return json.loads(answer["info"])[name]


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> str:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def test_an_empty_body_draws(sd: Served) -> None:
    assert len(sd.post(T2I)["images"]) == 1
    assert sd.models.calls[-1].prompt == ""


# -- lengths and counts -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prompt", "negative_prompt", "hr_prompt", "hr_negative_prompt"])
def test_long_prompts_are_refused(sd: Served, name: str) -> None:
    refusal = sd.refused(T2I, **{**SMALL, name: "x" * 20_001})
    assert refusal.status_code == 400
    assert f"{name} has 20001 characters" in refusal.json()["detail"]


def test_prompt_search_is_judged_by_what_it_would_make(sd: Served) -> None:
    refusal = sd.refused(T2I, prompt="a" * 3000, **plot("Prompt S/R", "a," + "b" * 100_000))
    assert "prompt has 300000000 characters" in refusal.json()["detail"]


@pytest.mark.parametrize(
    "fields",
    [
        plot("Seed", "1-" + " " * 20_000 + "x"),
        plot("Steps", "1-" + "9" * 400),
        plot("Steps", "1-5 [" + "9" * 5000 + "]"),
        plot("Steps", "1\r2"),
        plot("Steps", "1" * 140_000),
        plot("Steps", ",".join(["1-100"] * 10_000)),
        plot("Prompt S/R", ",b"),
        plot("Prompt order", "a,,b"),
        plot("Prompt order", "a,b,c,d,e"),
        plot("Prompt order", ",".join("abcdefgh")),
        plot("CFG Scale", "nan"),
        plot("CFG Scale", "1e999"),
        plot("Var. strength", "7"),
        plot("Seed", str(LAST_SEED + 1)),
        plot("Clip skip", "99999"),
    ],
    ids=lambda fields: str(fields["script_args"][:2])[:40],
)
def test_plots_refuse_at_once(sd: Served, fields: dict[str, Any]) -> None:
    start = time.monotonic()
    refusal = sd.refused(T2I, **{**SMALL, "prompt": "a b", **fields})
    assert refusal.status_code in (400, 422)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    "fields",
    [
        {"override_settings": {"s_tmax": 1e9}},
        {"override_settings": {"s_noise": "inf"}},
        {"override_settings": {"s_churn": -9}},
        {"override_settings": {"CLIP_stop_at_last_layers": 99999}},
        {"s_tmin": -1},
        {"cfg_scale": 1e300},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(sd: Served, fields: dict[str, Any]) -> None:
    refusal = sd.refused(T2I, prompt="a", **{**SMALL, **fields})
    assert refusal.status_code == 400
    assert next(iter(fields.get("override_settings", fields))) in refusal.json()["detail"]


def test_loops_in_batches_are_counted_before_they_are_planned(sd: Served) -> None:
    fields = {"script_name": "Loopback", "script_args": [32], "n_iter": 256}
    start = time.monotonic()
    refusal = sd.refused(I2I, prompt="a", init_images=[PICTURE], **fields, **SMALL)
    assert "8192 pictures" in refusal.json()["detail"]
    assert time.monotonic() - start < 2


def test_scripts_prepare_their_picture_once(sd: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[Any] = []

    def prepare(*args: Any) -> Any:
        prepared.append(args)
        return prepare_inputs(*args)

    monkeypatch.setattr(calls, "prepare_inputs", prepare)
    body = {"prompt": "a", "init_images": [PICTURE], **SMALL}
    sd.post(I2I, **body, **plot("CFG Scale", "1-4"))
    assert len(prepared) == 1
    sd.post(I2I, **body, **plot("Size", "64x64, 96x64"))
    assert len(prepared) == 3


def test_sd_upscale_counts_its_tiles_before_it_lays_them(sd: Served) -> None:
    body = {
        "prompt": "a",
        "script_name": "SD upscale",
        "init_images": [flat((0, 0, 0), (2000, 2000))],
    }
    many = sd.refused(I2I, **body, script_args=["", 63, "None", 1], **SMALL)
    assert "tiles are too many" in many.json()["detail"]
    whole = sd.refused(I2I, **body, script_args=["", 64, "None", 1], **SMALL)
    assert "accepted: 0 to 63" in whole.json()["detail"]


def test_eta_of_the_options_is_in_the_same_range(sd: Served) -> None:
    refusal = sd.refused(T2I, prompt="a", override_settings={"eta_ddim": 1e9}, **SMALL)
    assert "eta_ddim 1000000000.0 is out of range; accepted: 0 to 1" in refusal.json()["detail"]


# -- seeds and pictures -------------------------------------------------------------------------


def test_prompt_order_moves_words(sd: Served) -> None:
    answer = sd.post(T2I, prompt="x, y, z", **plot("Prompt order", "x,y,z"), **SMALL)
    assert len(set(told(answer, "all_prompts"))) == 6


def test_a_random_seed_of_an_axis_is_drawn_once(sd: Served) -> None:
    fields = plot("Seed", "-1")
    fields["script_args"][3:6] = ["Steps", "1,2", []]
    first, second = told(sd.post(T2I, prompt="a", **fields, **SMALL), "all_seeds")
    assert first == second
    fields["script_args"][12] = True  # keep -1 for seeds
    first, second = told(sd.post(T2I, prompt="a", **fields, **SMALL), "all_seeds")
    assert first != second


def test_a_random_seed_is_drawn_before_seeds_are_varied(sd: Served) -> None:
    seeds = told(sd.post(T2I, prompt="a", **plot("Seed", "-1,-1", vary=True), **SMALL), "all_seeds")
    assert min(seeds) > 1


def test_seeds_that_a_script_derives_go_on_from_the_first(sd: Served) -> None:
    body = {**SMALL, "prompt": "a|b", "seed": LAST_SEED}
    matrix = {"script_name": "Prompt matrix", "script_args": [False, True]}
    assert told(sd.post(T2I, **body, **matrix), "all_seeds") == [LAST_SEED, 0]
    loops = {"script_name": "Loopback", "script_args": [2], "init_images": [PICTURE]}
    assert told(sd.post(I2I, **body, **loops), "all_seeds") == [LAST_SEED, 0]
    batches = told(sd.post(T2I, **body, n_iter=2), "all_seeds")
    assert batches == [LAST_SEED, 0]
    varied = plot("CFG Scale", "1,2", vary=True)
    assert told(sd.post(T2I, **body, **varied), "all_seeds") == [LAST_SEED, 0]
    assert sd.refused(T2I, **{**body, "seed": LAST_SEED + 1}).status_code == 400


def test_loops_keep_their_mask_and_leave_the_first_picture(sd: Served) -> None:
    body = {"prompt": "a", "init_images": [PICTURE], "mask": flat((255, 255, 255), (96, 64))}
    loops = {"script_name": "Loopback", "script_args": [2], "inpaint_full_res": False}
    first, second = sd.post(I2I, **body, **loops, **SMALL)["images"][1:]
    drawn = sd.models.calls[-2:]
    assert base64.b64encode(drawn[1].images[0]).decode() == first != second
    assert drawn[0].mask == drawn[1].mask is not None


def test_loops_draw_under_a_mask_at_full_size(sd: Served) -> None:
    body = {"prompt": "a", "init_images": [PICTURE], "mask": flat((255, 255, 255), (96, 64))}
    loops = {"script_name": "Loopback", "script_args": [2], "mask_blur": 0}
    assert len(sd.post(I2I, **body, **loops, **SMALL)["images"]) == 3
    assert [call.mask_padding for call in sd.models.calls[-2:]] == [0, 0]


def test_every_variation_of_a_batch_has_its_picture(sd: Served) -> None:
    before = len(sd.models.calls)
    body = {"prompt": "a", "batch_size": 2, "n_iter": 2, "subseed_strength": 0.5}
    sd.post(I2I, **body, init_images=[PICTURE], **SMALL)
    assert [len(call.images) for call in sd.models.calls[before:]] == [1] * 4


def test_pictures_of_a_batch_take_theirs_in_turn(sd: Served) -> None:
    before = len(sd.models.calls)
    images = [flat((255, 0, 0)), flat((0, 255, 0))]
    sd.post(I2I, prompt="a", batch_size=2, n_iter=2, init_images=images, **SMALL)
    drawn = [call.images[0] for call in sorted(sd.models.calls[before:], key=_seed)]
    assert drawn[0] != drawn[1]
    assert drawn[2:] == drawn[:2]


def test_shifted_leaves_what_is_no_seed() -> None:
    assert [calls.shifted(seed, 1) for seed in (-1, -7, LAST_SEED + 1)] == [-1, -7, LAST_SEED + 1]


def _seed(request: Any) -> int:
    return int(request.params.seed)
