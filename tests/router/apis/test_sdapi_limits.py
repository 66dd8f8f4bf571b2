"""What this API refuses, drops or falls back from, rather than fail with a 500."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deployments.errors import InvalidRequest
from router.apis.sdapi.grid import draw_grids, encode
from router.apis.sdapi.infotext import MAX_LENGTH, parse_infotext
from router.apis.sdapi.plan import Layout, Sheet
from router.store.database import Database
from router.store.options import MAX_LENGTH as MAX_OPTIONS
from router.store.options import MemoryOptionStore
from router.store.sql_options import SqlOptionStore
from tests.router.apis.drawing import picture
from tests.router.apis.sdapi_gateway import PICTURE, Served, sdapi_gateway

T2I = "/sdapi/v1/txt2img"
I2I = "/sdapi/v1/img2img"
EXTRA = "/sdapi/v1/extra-single-image"
OPTIONS = "/sdapi/v1/options"
SMALL = {"width": 64, "height": 64, "steps": 2}


@pytest.fixture(scope="module")
def sd() -> Iterator[Served]:
    with sdapi_gateway() as running:
        yield running


@pytest.mark.parametrize(
    ("field", "value"), [("steps", 0), ("cfg_scale", 1e6), ("denoising_strength", 7)]
)
def test_refusals_name_fields_as_the_caller_does(sd: Served, field: str, value: float) -> None:
    body = {"init_images": [PICTURE], field: value}
    response = sd.refused(I2I, **body)
    assert response.status_code == 400
    assert response.json()["detail"].startswith(f"{field} {value}")


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        (I2I, {"width": 300_000, "height": 300_000}, 422),
        (I2I, {"width": 16_384, "height": 16_384}, 400),
        (I2I, {"width": 0}, 400),
        (T2I, {"width": 2048, "height": 2048, "batch_size": 65}, 400),
        (T2I, {"enable_hr": True, "hr_scale": 32, "n_iter": 65}, 400),
        (T2I, {"width": 10**400, "enable_hr": True}, 422),
        (T2I, {"width": 0, "enable_hr": True, "hr_resize_x": 64}, 400),
        (T2I, {"height": 0, "enable_hr": True, "hr_resize_y": 64}, 400),
        (T2I, {"enable_hr": True, "hr_scale": 1e308}, 422),
        (T2I, {"enable_hr": True, "hr_second_pass_steps": 10_000}, 400),
        (T2I, {"enable_hr": True, "hr_second_pass_steps": -1}, 400),
        (T2I, {"enable_hr": True, "hr_cfg": 1e300}, 422),
        (T2I, {"infotext": "a" * (MAX_LENGTH + 1)}, 400),
        (T2I, {"override_settings": {"s_noise": "inf"}}, 400),
        (EXTRA, {"upscaling_resize": 1e308}, 422),
        (EXTRA, {"resize_mode": 1, "upscaling_resize_w": 10**400}, 422),
        ("/sdapi/v1/interrogate", {"image": "AAAA"}, 400),
        ("/sdapi/v1/interrogate", {}, 404),
    ],
)
def test_input_out_of_range_is_refused(
    sd: Served, path: str, fields: dict[str, Any], status: int
) -> None:
    given = {"image": PICTURE, "init_images": [PICTURE], "prompt": "x", **SMALL}
    assert sd.refused(path, **given | fields).status_code == status


def test_img2img_when_its_pictures_are_large_together_is_refused(sd: Served) -> None:
    out = io.BytesIO()
    Image.new("1", (6000, 6000)).save(out, "PNG")
    large = base64.b64encode(out.getvalue()).decode()
    refusal = sd.refused(I2I, init_images=[large, large], batch_size=2, **SMALL)
    assert refusal.status_code == 400
    assert "72000000 pixels together" in refusal.json()["detail"]


def test_pictures_that_are_put_back_into_large_inputs_are_counted_at_their_size(sd: Served) -> None:
    out = io.BytesIO()
    Image.new("L", (5500, 5500), 255).save(out, "PNG")
    large = base64.b64encode(out.getvalue()).decode()
    body = {"init_images": [large], "mask": large, "inpainting_fill": 1, "n_iter": 9}
    refusal = sd.refused(I2I, **body, **SMALL)
    assert refusal.status_code == 400
    assert "272250000 pixels together; accepted: at most 268435456" in refusal.json()["detail"]


@pytest.mark.parametrize(
    "text",
    [
        "a" * 60_000,
        "- " * 30_000,
        "a: " * 20_000,
        'ab: "' * 12_000,
        'ab: "\\",' * 8_000,
        'ab: "x" ' * 8_000,
        "ab: " + " " * 60_000,
    ],
    ids=range(7),
)
def test_infotext_is_read_in_linear_time(text: str) -> None:
    started = time.thread_time()  # of this thread: servers run in others
    parse_infotext(text + "!")
    assert time.thread_time() - started < 0.5


def test_infotext_reads_quotes_and_stray_marks() -> None:
    told = parse_infotext('p\nSteps: 5, -/Model name: "a, b: \\"c\\"", Odd: "x" y, Size: 8x16, : z')
    assert told["Prompt"] == "p"
    assert (told["Steps"], told["Model name"], told["Odd"]) == ("5", 'a, b: "c"', '"x" y')
    assert (told["Size-1"], told["Size-2"]) == ("8", "16")


def test_txt2img_when_its_infotext_is_out_of_range_drops_those_fields(sd: Served) -> None:
    text = "p\nSteps: 3, CFG scale: inf, Variation seed strength: 5, Seed: 9, Clip skip: ²"
    sd.post(T2I, infotext=text, width=64, height=64)
    params = sd.models.calls[-1].params
    assert (params.num_inference_steps, params.seed) == (3, 9)
    assert (params.guidance_scale, params.variation_strength) == (7.0, 0.0)


def test_png_info_when_the_file_breaks_off_is_refused(sd: Served) -> None:
    out = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(out, "PNG")
    broken = base64.b64encode(out.getvalue()[:1000]).decode()
    refusal = sd.refused("/sdapi/v1/png-info", image=broken)
    assert (refusal.status_code, refusal.json()["detail"]) == (400, "Invalid encoded image: image")


@pytest.mark.parametrize(
    ("size", "output_format", "found"),
    [
        ((16_384, 8), "webp", "PNG"),
        ((65_501, 8), "jpeg", "PNG"),
        ((16_384, 8), "jpeg", "JPEG"),
        ((16_383, 8), "webp", "WEBP"),
    ],
)
def test_encode_falls_back_to_png_for_sides_that_the_format_lacks(
    size: tuple[int, int], output_format: Any, found: str
) -> None:
    data = encode(Image.new("RGB", size), output_format, 80, "text")
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size) == (found, size)


def test_encode_when_the_text_is_too_long_for_exif_leaves_it_out() -> None:
    data = encode(Image.new("RGB", (8, 8)), "jpeg", 80, "x" * 40_000)
    assert not Image.open(io.BytesIO(data)).getexif()


def test_draw_grids_when_a_grid_would_be_too_large_draws_no_sheet() -> None:
    class Headers(dict[int, bytes]):
        opened = 0

        def __getitem__(self, place: int) -> bytes:
            self.opened += 1
            return super().__getitem__(place)

    pictures = Headers({0: picture((4000, 4000))})
    sheet = Sheet(cells=((0,),) * 5, columns=5, x_labels=("a",) * 5, y_labels=("b",))
    assert draw_grids(Layout(sheets=(sheet,)), pictures) == []
    assert pictures.opened == 5
    assert len(draw_grids(Layout(sheets=(sheet,)), {0: picture((40, 40))})) == 1


def test_options_when_null_are_the_default_again(sd: Served) -> None:
    names = ("jpeg_quality", "samples_format", "s_noise", "sd_model_checkpoint", "n_rows")
    before = {name: sd.get(OPTIONS)[name] for name in names}
    sd.post(OPTIONS, jpeg_quality=11, samples_format="webp")
    sd.post(OPTIONS, **dict.fromkeys(names))
    assert {name: sd.get(OPTIONS)[name] for name in names} == before
    assert sd.post(T2I, prompt="x", **SMALL)["images"]


@pytest.mark.parametrize(
    "option",
    [
        {"s_churn": -1},
        {"CLIP_stop_at_last_layers": 99},
        {"eta_ddim": 2},
        {"samples_format": "avif"},
    ],
    ids=str,
)
def test_options_that_no_call_could_have_are_refused(sd: Served, option: dict[str, Any]) -> None:
    before = sd.get(OPTIONS)
    assert sd.refused(OPTIONS, jpeg_quality=7, **option).status_code == 400
    assert sd.get(OPTIONS) == before


def test_overrides_that_are_not_restored_are_kept() -> None:
    with sdapi_gateway() as sd:
        override = {"sd_model_checkpoint": "sd15-dreambooth", "jpeg_quality": 7, "nonsense": 1}
        fields = {"override_settings": override, **SMALL}
        sd.post(T2I, **fields)
        assert sd.get(OPTIONS)["jpeg_quality"] == 80
        sd.post(T2I, override_settings_restore_afterwards=False, **fields)
        told = sd.get(OPTIONS)
        assert told["jpeg_quality"] == 7
        assert told["sd_model_checkpoint"].startswith("sd15-dreambooth.safetensors [")
        assert "nonsense" not in told
        sd.post(T2I, **SMALL)
        assert sd.models.calls[-1].model == "sd15-dreambooth"


def test_options_that_are_not_finite_are_refused(sd: Served) -> None:
    for text in ('{"s_noise": NaN}', '{"s_noise": 1e999}', '{"s_noise": "inf"}', '{"x": 1e999}'):
        assert sd.http.post(OPTIONS, content=text).status_code == 400


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_options_are_bounded_together(kind: str, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/atelier.db")
    await database.open()
    store = MemoryOptionStore() if kind == "memory" else SqlOptionStore(database)
    await store.update({"a": "x" * (MAX_OPTIONS // 2)}, owner="ann", api="sdapi")
    with pytest.raises(InvalidRequest, match="too long"):
        await store.update({"b": "x" * (MAX_OPTIONS // 2)}, owner="ann", api="sdapi")
    assert list(await store.get(owner="ann", api="sdapi")) == ["a"]
    await database.close()


def test_wrong_credentials_are_told_as_the_original_does() -> None:
    with sdapi_gateway(api_key="right") as gateway:
        wrong = gateway.http.get(OPTIONS, auth=("ann", "wrong"))
        none = gateway.http.get(OPTIONS)
    assert (wrong.status_code, wrong.json()["detail"]) == (401, "Incorrect username or password")
    assert (none.status_code, none.json()["detail"]) == (401, "Not authenticated")
