"""Axes of X/Y/Z plots: models, styles, seeds that are drawn for every cell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.router.apis.sdapi_gateway import PICTURE, SD15, SDXL, Served, sdapi_gateway

T2I = "/sdapi/v1/txt2img"
I2I = "/sdapi/v1/img2img"
SMALL = {"prompt": "a", "width": 64, "height": 64, "steps": 1}
#: A model of few samplers, other sizes, and without masks.
ODD = replace(
    SDXL,
    id="odd",
    aliases=(),
    modes=("text-to-image",),
    schedulers=("Euler",),
    size_multiple=16,
)


@pytest.fixture(scope="module")
def sd() -> Iterator[Served]:
    styles = {"ink": {"prompt": "ink"}, "oil": {"prompt": "oil {prompt}"}}
    with sdapi_gateway(SDXL, SD15, ODD, prompt_styles=styles) as running:
        yield running


def plot(*axes: tuple[Any, Any], keep: bool = False) -> dict[str, Any]:
    """A plot whose axes' values are chosen when they are a list, and text otherwise."""
    args: list[Any] = []
    for kind, values in [*axes, (0, "")] if len(axes) < 3 else axes:
        args += [kind, *(("", values) if isinstance(values, list) else (values, []))]
    args += [0, "", []] * (3 - len(args) // 3)
    is_text = not any(isinstance(values, list) for _, values in axes)
    args += [False, True, False, keep, False, False, False, 0, is_text]
    return {"script_name": "X/Y/Z plot", "script_args": args}


def told(answer: Any, name: str) -> Any:
    return json.loads(answer["info"])[name]


# -- models -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Checkpoint name", 11], ids=["by label", "by place"])
def test_checkpoints_of_a_plot_each_draw_their_cells(sd: Served, kind: Any) -> None:
    before = len(sd.models.calls)
    titles = [model["title"] for model in sd.get("/sdapi/v1/sd-models")]
    named = [next(t for t in titles if t.startswith(name)) for name in ("sd15", "sdxl")]
    answer = sd.post(T2I, **SMALL, seed=7, **plot((kind, named), ("Steps", "1,2")))
    drawn = [(call.model, call.params.num_inference_steps) for call in sd.models.calls[before:]]
    assert sorted(drawn) == [(m, k) for m in ("sd15-dreambooth", "sdxl-turbo") for k in (1, 2)]
    told_models = [text.partition("Model: ")[2].split(",")[0] for text in told(answer, "infotexts")]
    assert told_models[1:] == ["sd15-dreambooth", "sdxl-turbo"] * 2
    assert told(answer, "sd_model_name") == "sd15-dreambooth"
    assert len(answer["images"]) == 5


def test_each_model_of_a_plot_has_its_own_limits(sd: Served) -> None:
    before = len(sd.models.calls)
    sd.post(T2I, **{**SMALL, "width": 88}, **plot(("Checkpoint name", "sdxl-turbo, odd")))
    assert [call.params.width for call in sd.models.calls[before:]] == [88, 96]


def test_plot_is_the_same_as_its_cells_one_by_one(sd: Served) -> None:
    plotted = sd.post(T2I, **SMALL, seed=3, **plot(("Checkpoint name", "sd15-dreambooth,odd")))
    single = [
        sd.post(T2I, **SMALL, seed=3, override_settings={"sd_model_checkpoint": name})["images"][0]
        for name in ("sd15-dreambooth", "odd")
    ]
    assert plotted["images"][1:] == single


@pytest.mark.parametrize(
    ("path", "fields", "words"),
    [
        (T2I, {}, "model 'nope' not found"),
        (T2I, {"sampler_name": "DDIM", "odd": True}, "Sampler not found: 'DDIM'; odd has: Euler"),
        (I2I, {"odd": True}, "'odd' cannot do image-to-image"),
    ],
    ids=["unknown", "without the sampler", "without the mode"],
)
def test_plot_over_a_model_that_cannot_is_refused(
    sd: Served, path: str, fields: dict[str, Any], words: str
) -> None:
    models = "sdxl-turbo," + ("odd" if fields.pop("odd", False) else "nope")
    body = {**SMALL, "init_images": [PICTURE], **fields}
    refusal = sd.refused(path, **body, **plot(("Checkpoint name", models)))
    assert refusal.status_code == 400
    assert words in refusal.json()["detail"]


# -- other axes ---------------------------------------------------------------------------------


def test_styles_of_a_plot_are_added_to_the_calls_own(sd: Served) -> None:
    axis = ("Styles", ["oil", "ink,oil", "none"])
    prompts = told(sd.post(T2I, **SMALL, styles=["ink"], **plot(axis)), "all_prompts")
    assert prompts == ["oil a, ink", "oil a, ink, ink", "a, ink"]


def test_info_tells_the_numbers_of_the_first_cell(sd: Served) -> None:
    answer = sd.post(T2I, **SMALL, **plot(("Steps", "3,2"), ("CFG Scale", "2,4")))
    assert (told(answer, "steps"), told(answer, "cfg_scale")) == (3, 2.0)


# -- seeds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [{}, {"seed": -1, "subseed": -1}], ids=["left out", "-1"])
def test_random_seeds_are_kept_random_for_every_cell(sd: Served, seeds: dict[str, int]) -> None:
    fields = {**SMALL, **seeds, "subseed_strength": 0.5}
    answer = sd.post(T2I, **fields, **plot(("Steps", "1,2,3"), keep=True))
    assert len(set(told(answer, "all_seeds"))) == 3
    assert len(set(told(answer, "all_subseeds"))) == 3
    answer = sd.post(T2I, **fields, **plot(("Steps", "1,2,3")))
    assert len(set(told(answer, "all_seeds"))) == 1


def test_a_seed_that_is_named_is_every_cells(sd: Served) -> None:
    answer = sd.post(T2I, **SMALL, seed=5, n_iter=2, **plot(("Steps", "1,2"), keep=True))
    assert told(answer, "all_seeds") == [5, 6, 5, 6]
