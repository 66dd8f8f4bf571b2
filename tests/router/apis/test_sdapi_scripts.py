"""Scripts, masks and grids: what several requests make of one call."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from deployments.types import GenerationRequest
from tests.router.apis.drawing import opened
from tests.router.apis.sdapi_gateway import PICTURE, Served, sdapi_gateway

T2I = "/sdapi/v1/txt2img"
I2I = "/sdapi/v1/img2img"
SMALL = {"width": 64, "height": 64, "steps": 2, "seed": 10}
NO_AXIS: list[Any] = [0, "", []]
#: Legend, sub images, sub grids, random seeds, seeds varied along X, Y, Z, margin, text inputs.
PLAIN = [False, True, False, False, False, False, False, 0, True]


@pytest.fixture(scope="module")
def sd() -> Iterator[Served]:
    with sdapi_gateway() as running:
        yield running


def encoded(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def decoded(data: bytes | None) -> Image.Image:
    assert data is not None
    return Image.open(io.BytesIO(data))


def colour(image: str) -> Any:
    return opened(image).getpixel((0, 0))


# -- scripts ------------------------------------------------------------------------------------


def test_prompt_matrix_draws_every_choice_behind_its_grid(sd: Served) -> None:
    args = [False, False, "positive", "comma", 0]
    fields = {"prompt": "a cat|red |blue", "script_name": "Prompt matrix", "script_args": args}
    answer = sd.post(T2I, **fields, **SMALL)
    info = json.loads(answer["info"])
    prompts = ["a cat", "a cat, red", "a cat, blue", "a cat, red, blue"]
    assert info["all_prompts"] == prompts
    assert info["all_seeds"] == [10, 10, 10, 10]
    grid, *pictures = answer["images"]
    assert len(pictures) == len(info["infotexts"]) - info["index_of_first_image"] == 4
    alone = [sd.post(T2I, prompt=prompt, **SMALL)["images"][0] for prompt in prompts]
    assert [colour(picture) for picture in pictures] == [colour(picture) for picture in alone]
    whole = opened(grid)
    assert whole.width > 128
    assert whole.getpixel((whole.width - 1, whole.height - 1)) == colour(pictures[3])
    assert whole.getpixel((whole.width - 128, whole.height - 128)) == colour(pictures[0])


def test_prompt_matrix_at_the_start_of_the_negative_prompt(sd: Served) -> None:
    args = [True, True, "negative", "space", 4]
    fields = {"negative_prompt": "x|y", "script_name": "prompt matrix", "script_args": args}
    info = json.loads(sd.post(T2I, prompt="p", **fields, **SMALL)["info"])
    assert info["all_negative_prompts"] == ["x", "y x"]
    assert info["all_seeds"] == [10, 11]


def test_xyz_plot_draws_every_combination_row_by_row(sd: Served) -> None:
    args = [1, "1, 2, 3", [], "Prompt S/R", "cat, dog", [], *NO_AXIS, *PLAIN]
    fields = {"prompt": "a cat", "script_name": "X/Y/Z plot", "script_args": args}
    answer = sd.post(T2I, **fields, **SMALL)
    info = json.loads(answer["info"])
    assert info["all_seeds"] == [1, 2, 3] * 2
    assert info["all_prompts"] == ["a cat"] * 3 + ["a dog"] * 3
    grid, *pictures = answer["images"]
    whole = opened(grid)
    assert whole.size == (192, 128)
    shown = [whole.getpixel((64 * x + 5, 64 * y + 5)) for y in range(2) for x in range(3)]
    assert shown == [colour(picture) for picture in pictures]


def test_xyz_plot_with_three_axes_makes_a_grid_of_grids(sd: Served) -> None:
    rest = [True, False, True, False, False, False, False, 2, False]
    axes = ["Steps", "1-2", [], "Sampler", "", ["Euler", "DDIM"], "CFG Scale", "1-3 [2]", []]
    fields = {"prompt": "a", "script_name": "x/y/z plot", "script_args": [*axes, *rest]}
    answer = sd.post(T2I, **fields, **SMALL)
    calls = {
        (r.params.num_inference_steps, r.params.scheduler, r.params.guidance_scale)
        for r in sd.models.calls[-8:]
    }
    assert calls == {(s, n, g) for s in (1, 2) for n in ("Euler", "DDIM") for g in (1.0, 3.0)}
    whole, first, second = [opened(image) for image in answer["images"]]
    assert first.size == second.size
    assert whole.size == (first.width * 2 + 2, first.height)
    assert json.loads(answer["info"])["index_of_first_image"] == 3


@pytest.mark.parametrize("length", [18, 15, 11], ids=["new", "without varied seeds", "old"])
def test_xyz_plot_reads_the_arguments_of_every_release(sd: Served, length: int) -> None:
    args: dict[int, list[Any]] = {
        18: [1, "5,6", [], *NO_AXIS, *NO_AXIS, *PLAIN],
        15: [1, "5,6", [], *NO_AXIS, *NO_AXIS, False, True, False, False, 0, True],
        11: [1, "5,6", 0, "", 0, "", False, True, False, False, 0],
    }
    fields = {"prompt": "a", "script_name": "X/Y/Z plot", "script_args": args[length]}
    info = json.loads(sd.post(T2I, **fields, **SMALL)["info"])
    assert info["all_seeds"] == [5, 6]


def test_xyz_plot_varies_seeds_orders_words_and_sizes(sd: Served) -> None:
    rest = [False, True, False, False, True, True, False, 0, True]
    args = ["Prompt order", "cat, dog", [], "Size", "64x64, 96x64", [], *NO_AXIS, *rest]
    fields = {"prompt": "a cat and a dog", "script_name": "X/Y/Z plot", "script_args": args}
    info = json.loads(sd.post(T2I, **fields, **SMALL)["info"])
    assert info["all_seeds"] == [10, 11, 12, 13]
    assert info["all_prompts"] == ["a cat and a dog", "a dog and a cat"] * 2
    assert {request.params.width for request in sd.models.calls[-4:]} == {64, 96}


def test_loopback_draws_each_picture_over_the_last(sd: Served) -> None:
    args = [3, 0.2, "Linear", "None"]
    fields = {"prompt": "loop", "denoising_strength": 0.8, "init_images": [PICTURE]}
    answer = sd.post(I2I, script_name="Loopback", script_args=args, **fields, **SMALL)
    calls = sd.models.calls[-3:]
    assert [call.params.seed for call in calls] == [10, 11, 12]
    assert [call.params.strength for call in calls] == pytest.approx([0.8, 0.5, 0.2])
    grid, *pictures = answer["images"]
    assert [base64.b64encode(call.images[0]).decode() for call in calls[1:]] == pictures[:2]
    assert (len(pictures), opened(grid).size) == (3, (192, 64))


def test_loopback_of_several_batches_shows_the_last_of_each(sd: Served) -> None:
    fields = {"prompt": "loop", "n_iter": 2, "init_images": [PICTURE], "script_args": [2]}
    answer = sd.post(I2I, script_name="Loopback", **fields, **SMALL)
    info = json.loads(answer["info"])
    assert len(answer["images"]) == 3
    assert info["all_seeds"] == [11, 13]


@pytest.mark.parametrize("upscaler", [1, "Nearest", "None"])
def test_sd_upscale_redraws_the_enlarged_picture_in_tiles(sd: Served, upscaler: Any) -> None:
    args = ["", 16, upscaler, 2.0]
    before = len(sd.models.calls)
    answer = sd.post(
        I2I,
        prompt="up",
        script_name="SD upscale",
        script_args=args,
        init_images=[PICTURE],
        **SMALL,
    )
    tiles = sd.models.calls[before:]
    size = (96, 64) if upscaler == "None" else (192, 128)
    assert len(tiles) == (2 if upscaler == "None" else 4 * 3)
    assert [opened(image).size for image in answer["images"]] == [size]
    assert sorted(tile.params.seed or 0 for tile in tiles) == [10 + k for k in range(len(tiles))]
    assert all(decoded(tile.images[0]).size == (64, 64) for tile in tiles)
    info = sd.post("/sdapi/v1/png-info", image=answer["images"][0])
    assert info["parameters"]["Seed"] == "10"


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        (I2I, {"script_name": "Loopback", "script_args": [99]}, 422),
        (I2I, {"script_name": "Loopback", "script_args": [2, 0.5, "Round"]}, 422),
        (I2I, {"script_name": "Loopback", "script_args": [2, 0.5, "Linear", "CLIP"]}, 400),
        (I2I, {"script_name": "SD upscale", "script_args": ["", 64, "ESRGAN", 2]}, 422),
        (I2I, {"script_name": "SD upscale", "script_args": ["", "x"]}, 422),
        (I2I, {"script_name": "SD upscale", "mask": PICTURE}, 400),
        (T2I, {"script_name": "Prompt matrix", "script_args": [0, 0, "sideways"]}, 422),
        (T2I, {"script_name": "Prompt matrix", "prompt": "|".join("abcdefghij")}, 422),
        (T2I, {"script_name": "X/Y/Z plot", "script_args": ["Checkpoint name", "x"]}, 400),
        (T2I, {"script_name": "X/Y/Z plot", "script_args": ["Colour", "x"]}, 422),
        (T2I, {"script_name": "X/Y/Z plot", "script_args": [1, "one"]}, 422),
        (T2I, {"script_name": "X/Y/Z plot", "script_args": [1, ""]}, 422),
        (T2I, {"script_name": "X/Y/Z plot", "script_args": [1, "1-5000"]}, 422),
        (T2I, {"script_name": "X/Y/Z plot", "script_args": ["Size", "wide", [], 0]}, 422),
        (T2I, {"script_name": "X/Y/Z plot", "script_args": ["Prompt S/R", "zebra"]}, 422),
        (
            T2I,
            {
                "script_name": "X/Y/Z plot",
                "script_args": [1, "1-90", [], 4, "1-90", [], *NO_AXIS, *PLAIN],
            },
            422,
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_scripts_refuse(sd: Served, path: str, fields: dict[str, Any], status: int) -> None:
    body = {"prompt": "x", "init_images": [PICTURE], **SMALL, **fields}
    assert sd.refused(path, **body).status_code == status


# -- masks and sizes ----------------------------------------------------------------------------


def half_mask(size: tuple[int, int] = (96, 64)) -> Image.Image:
    mask = Image.new("L", size, 0)
    mask.paste(255, (size[0] // 2, 0, size[0], size[1]))
    return mask


def masked(sd: Served, **fields: Any) -> GenerationRequest:
    body = {"mask": encoded(half_mask()), "init_images": [PICTURE], "mask_blur": 0}
    sd.post(I2I, **{"prompt": "m", **SMALL, **body, **fields})
    return sd.models.calls[-1]


def test_mask_by_default_is_drawn_alone_at_full_size(sd: Served) -> None:
    request = masked(sd, inpaint_full_res_padding=24, inpainting_fill=1)
    assert (request.mask_padding, request.masked_content) == (24, "original")
    assert decoded(request.images[0]).size == decoded(request.mask).size == (96, 64)


def test_mask_over_the_whole_picture_is_resized_with_it(sd: Served) -> None:
    request = masked(sd, inpaint_full_res=False, inpainting_fill=1, inpainting_mask_invert=False)
    mask = decoded(request.mask)
    assert (request.mask_padding, mask.size) == (None, (64, 64))
    assert (mask.getpixel((10, 10)), mask.getpixel((54, 10))) == (0, 255)


@pytest.mark.parametrize("invert", [1, True], ids=["int", "bool"])
def test_mask_is_inverted_and_blurred(sd: Served, invert: Any) -> None:
    request = masked(sd, inpainting_mask_invert=invert, mask_blur=4, inpainting_fill=1)
    mask = decoded(request.mask)
    assert (mask.getpixel((5, 30)), mask.getpixel((90, 30))) == (255, 0)
    assert 0 < mask.getpixel((48, 30)) < 255  # type: ignore[operator]


def test_mask_may_lie_in_alpha(sd: Served) -> None:
    image = Image.new("RGBA", (96, 64), (255, 255, 255, 0))
    image.paste((0, 0, 0, 255), (0, 0, 48, 64))
    mask = decoded(masked(sd, mask=encoded(image), inpainting_fill=1).mask)
    assert (mask.getpixel((5, 30)), mask.getpixel((90, 30))) == (255, 0)


def test_blank_mask_is_no_mask(sd: Served) -> None:
    request = masked(sd, mask=encoded(Image.new("L", (96, 64))))
    assert (request.mask, request.mask_padding) == (None, None)


@pytest.mark.parametrize(("fill", "content"), [(1, "original"), (2, "noise"), (3, "zeros")])
def test_masked_content(sd: Served, fill: int, content: str) -> None:
    assert masked(sd, inpainting_fill=fill).masked_content == content


def test_fill_spreads_the_colours_around_the_mask(sd: Served) -> None:
    image = Image.new("RGB", (96, 64), (0, 200, 0))
    image.paste((255, 0, 255), (48, 0, 96, 64))
    request = masked(sd, init_images=[encoded(image)], inpainting_fill=0)
    filled = decoded(request.images[0])
    assert request.masked_content == "original"
    assert filled.getpixel((10, 10)) == (0, 200, 0)
    red, green, blue = filled.getpixel((80, 30))  # type: ignore[misc]
    assert (red, blue) == (0, 0)
    assert green == pytest.approx(200, abs=3)


def test_resize_modes(sd: Served) -> None:
    image = Image.new("RGB", (128, 64), (255, 0, 0))
    image.paste((0, 0, 255), (64, 0, 128, 64))
    results = {}
    for mode in range(4):
        body = {"init_images": [encoded(image)], "resize_mode": mode}
        sd.post(I2I, prompt="r", **body, **SMALL)
        results[mode] = sd.models.calls[-1]
    assert [results[k].is_latent_resize for k in range(4)] == [False, False, False, True]
    sizes = [decoded(results[k].images[0]).size for k in range(4)]
    assert sizes == [(64, 64), (64, 64), (64, 64), (128, 64)]
    fill = decoded(results[2].images[0])
    assert fill.getpixel((2, 2)) == fill.getpixel((2, 32)) == (255, 0, 0)
    assert fill.getpixel((61, 61)) == (0, 0, 255)


def test_transparent_input_lies_on_the_background(sd: Served) -> None:
    clear = encoded(Image.new("RGBA", (64, 64), (0, 0, 0, 0)))
    overrides = {"img2img_background_color": "#00ff00"}
    sd.post(I2I, prompt="b", init_images=[clear], override_settings=overrides, **SMALL)
    assert decoded(sd.models.calls[-1].images[0]).getpixel((3, 3)) == (0, 255, 0)
