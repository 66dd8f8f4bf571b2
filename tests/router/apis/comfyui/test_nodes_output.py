"""What output nodes leave behind: names of files, texts in them, and whose pictures they are."""

from __future__ import annotations

import io
import json
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deployments.errors import InvalidRequest
from router.apis.comfyui import png
from router.apis.comfyui.file_names import parse_name
from router.apis.comfyui.saving import name_of, place_files, temporary_stem, texts_of
from router.job import output_key
from tests.router.apis.comfyui.easel import Easel, execution, node, text_to_image

NOW = datetime(2026, 3, 4, 5, 6, 7)


def place(prefix: str) -> tuple[str, str]:
    return place_files(prefix, width=64, height=48, now=NOW)


def noise(*shape: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


async def saved(easel: Easel, prefix: str, **more: Any) -> list[dict[str, str]]:
    await execution(easel, text_to_image(prefix), **more).run()
    images: list[dict[str, str]] = easel.result["outputs"]["9"]["images"]
    return images


# -- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("ComfyUI", ("", "ComfyUI")),
        ("cats/black/cat", ("cats/black", "cat")),
        ("cats\\cat", ("cats", "cat")),
        ("cats//./cat", ("cats", "cat")),
        ("%width%x%height%", ("", "64x48")),
        ("%year%-%month%-%day%/%hour%%minute%%second%", ("2026-03-04", "050607")),
        ("a%batch_num%", ("", "a%batch_num%")),
        ("chat élégant", ("", "chat élégant")),
        ("a/../b", ("", "b")),
    ],
)
def test_prefix_is_a_folder_and_a_name(prefix: str, expected: tuple[str, str]) -> None:
    assert place(prefix) == expected


@pytest.mark.parametrize("prefix", ["../cat", "/etc/cat", "a/../../cat", "..", "..\\cat", "\\cat"])
def test_prefix_stays_in_its_folder(prefix: str) -> None:
    with pytest.raises(InvalidRequest, match="leads out of the output folder"):
        place(prefix)


@pytest.mark.parametrize(
    "prefix",
    ["a\0b", "a\nb", "x" * 300, "é" * 150, "a/" * 600 + "b"],
    ids=["nul", "newline", "long", "long-in-utf8", "deep"],
)
def test_prefix_that_no_file_can_have_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot name a file"):
        place(prefix)


def test_file_of_the_longest_prefix_can_be_asked_for() -> None:
    subfolder, stem = place("/".join(["a" * 200] * 4 + ["b" * 160]))
    name = name_of(temporary_stem(stem, "img_1", "9"), 0).format(number=10**12)
    assert parse_name(f"{subfolder}/{name}").name == name


def test_number_follows_the_prefix() -> None:
    assert name_of("cat%batch_num%", 3) == "cat3_{number:05}_.png"


def test_temporary_files_are_called_the_same_at_every_attempt() -> None:
    name = temporary_stem("ComfyUI", "img_1", "9")
    assert (
        name == temporary_stem("ComfyUI", "img_1", "9") != temporary_stem("ComfyUI", "img_2", "9")
    )
    assert len(name) == len("ComfyUI_temp_abcde")


async def test_counter_goes_on_where_the_prefix_left_it() -> None:
    easel = Easel()
    for number in (1, 2):
        (image,) = await saved(easel, "cats/cat", id=f"img_{number}")
        assert image == {
            "filename": f"cat_{number:05}_.png",
            "subfolder": "cats",
            "type": "output",
        }


async def test_batch_is_numbered_in_order() -> None:
    graph = text_to_image("%batch_num%of%width%")
    graph["5"]["inputs"]["batch_size"] = 2
    easel = Easel()
    await execution(easel, graph).run()
    names = [image["filename"] for image in easel.result["outputs"]["9"]["images"]]
    assert names == ["0of64_00001_.png", "1of64_00001_.png"]


async def test_preview_is_a_temporary_file_and_no_picture_of_the_job() -> None:
    graph = text_to_image()
    graph["9"] = node("PreviewImage", images=["8", 0])
    easel = Easel()
    await execution(easel, graph).run()
    (image,) = easel.result["outputs"]["9"]["images"]
    assert (image["type"], image["subfolder"]) == ("temp", "")
    assert image["filename"].startswith("ComfyUI_temp_")
    assert image["filename"].endswith("_00001_.png")
    assert easel.pictures == {}


async def test_prefix_that_leads_out_fails_the_node() -> None:
    easel = Easel()
    with pytest.raises(InvalidRequest):
        await saved(easel, "../x")
    _, data = easel.result["messages"][-1]
    assert (data["node_id"], data["exception_type"]) == ("9", "ValueError")
    assert await easel.files.list(owner="ann", kind="output") == []


async def test_saved_pictures_are_the_jobs() -> None:
    easel = Easel()
    await saved(easel, "cat")
    (file,) = await easel.files.list(owner="ann", kind="output")
    ((at, picture),) = easel.pictures.items()
    assert file.key == output_key("img_1", at, "png")
    assert (picture.key, picture.num_bytes) == (file.key, file.num_bytes)
    assert (picture.width, picture.height, picture.format) == (64, 64, "png")


async def test_two_nodes_pictures_have_places_of_their_own() -> None:
    graph = text_to_image()
    graph["10"] = node("SaveImage", images=["8", 0], filename_prefix="other")
    easel = Easel()
    await execution(easel, graph).run()
    files = await easel.files.list(owner="ann", kind="output")
    assert len(easel.pictures) == len({file.key for file in files}) == 2


# -- texts --------------------------------------------------------------------------------------


async def test_file_holds_the_graph_and_what_the_client_added() -> None:
    easel = Easel()
    workflow = {"nodes": [], "name": "été"}
    await saved(easel, "cat", extra_data={"extra_pnginfo": {"workflow": workflow, "more": 1}})
    (picture,) = easel.pictures.values()
    data = await easel.images.get(picture.key)
    texts = Image.open(io.BytesIO(data)).text  # type: ignore[attr-defined]
    assert json.loads(texts["prompt"]) == text_to_image("cat")
    assert json.loads(texts["workflow"]) == workflow
    assert texts["workflow"].isascii()
    assert texts["more"] == "1"


async def test_pixels_are_those_that_the_model_encoded() -> None:
    easel = Easel()
    await saved(easel, "cat")
    (picture,) = easel.pictures.values()
    data = await easel.images.get(picture.key)
    start = data.index(b"IDAT")
    graph = text_to_image()
    graph["9"] = node("PreviewImage", images=["8", 0])
    await execution(easel, graph, id="img_2").run()
    (file,) = await easel.files.list(owner="ann", kind="temp")
    other = await easel.files.read(file)
    assert other[other.index(b"IDAT") :] == data[start:]


def test_secrets_are_in_no_file() -> None:
    extra = {
        "auth_token_comfy_org": "s3cret",
        "extra_pnginfo": {
            "api_key_comfy_org": "s3cret",
            "workflow": {"extra": [{"auth_token_comfy_org": "s3cret", "kept": 1}]},
        },
    }
    texts = texts_of({"1": {"class_type": "Note", "inputs": {}}}, extra)
    assert texts.keys() == {"prompt", "workflow"}
    assert "s3cret" not in "".join(texts.values())
    assert json.loads(texts["workflow"]) == {"extra": [{"kept": 1}]}


@pytest.mark.parametrize("extra", [None, [], "x", 3])
def test_strange_extra_is_no_text(extra: Any) -> None:
    assert texts_of({}, {"extra_pnginfo": extra}).keys() == {"prompt"}


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7, 4), (5, 7)], ids=["rgb", "rgba", "grey"])
def test_texts_leave_the_pixels_alone(shape: tuple[int, ...]) -> None:
    pixels = noise(*shape)
    data = png.with_texts(png.encode(pixels), {"a": "b", "prompt": '{"x": "\\u00e9"}'})
    image = Image.open(io.BytesIO(data))
    image.load()
    assert np.array_equal(np.asarray(image), pixels)
    assert image.text == {"a": "b", "prompt": '{"x": "\\u00e9"}'}  # type: ignore[attr-defined]
    image.close()
    Image.open(io.BytesIO(data)).verify()


def test_header_tells_size_and_alpha() -> None:
    assert png.size_of(png.encode(noise(5, 7, 3))) == (7, 5)
    assert not png.has_alpha(png.encode(noise(5, 7, 3)))
    assert png.has_alpha(png.encode(noise(5, 7, 4)))
    assert np.array_equal(png.decode(png.encode(noise(5, 7, 4))), noise(5, 7, 4))


@pytest.mark.parametrize("keyword", ["", "x" * 80, "日本", "a\0b"])
def test_keyword_that_a_file_cannot_hold_is_refused(keyword: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot name a text in a PNG file"):
        png.with_texts(png.encode(noise(2, 2, 3)), {keyword: "x"})
