"""ComfyUI's files as its clients use them: uploads, views, documents, settings."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image, PngImagePlugin

from deployments.errors import InvalidRequest, NotFound
from router.apis.comfyui.file_names import parse_name, resolve_input
from router.apis.comfyui.files import file_routes
from router.auth import Authenticator
from router.fake_models import FakeModels, fake_card
from router.files import FileKind, Files
from router.job import JobStatus
from router.store.jobs import Outcome
from router.store.options import MemoryOptionStore
from tests.router.making import Inside, running

ANN, BOB = ("ann", "key"), ("bob", "key")


@asynccontextmanager
async def serving(api_key: str = "") -> AsyncIterator[tuple[httpx.AsyncClient, Inside]]:
    """A client of the file routes, bare and under ``/api``, and what is behind them."""
    async with running(FakeModels(fake_card())) as inside:
        routes = file_routes(inside.service, Authenticator(api_key=api_key), MemoryOptionStore())
        app = FastAPI()
        app.include_router(routes)
        app.include_router(routes, prefix="/api")
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            yield client, inside


def picture(*colour: int, size: tuple[int, int] = (8, 6), kind: str = "PNG", **texts: str) -> bytes:
    """A flat picture of 3 or 4 channels."""
    info = PngImagePlugin.PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    out = io.BytesIO()
    mode = "RGBA" if len(colour) == 4 else "RGB"
    Image.new(mode, size, colour).save(out, kind, **({"pnginfo": info} if texts else {}))
    return out.getvalue()


RED = picture(255, 0, 0)
CLEAR_RED = picture(255, 0, 0, 64)


async def upload(
    client: httpx.AsyncClient,
    data: bytes = RED,
    name: str = "x.png",
    path: str = "/upload/image",
    **fields: str,
) -> httpx.Response:
    return await client.post(path, files={"image": (name, data)}, data=fields)


async def save(inside: Inside, data: bytes, name: str, **fields: Any) -> None:
    place = {"owner": "default", "kind": "output", "subfolder": "", **fields}
    await inside.files.write(data, name=name, **place)


def opened(response: httpx.Response) -> Image.Image:
    assert response.status_code == 200, response.text
    return Image.open(io.BytesIO(response.content))


# -- uploads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_upload_is_kept_as_it_is_and_can_be_viewed(prefix: str) -> None:
    async with serving() as (client, _):
        sent = await upload(client, path=f"{prefix}/upload/image")
        told = sent.json()
        query = {"filename": told["name"], "subfolder": "", "type": told["type"]}
        seen = await client.get(f"{prefix}/view", params=query)
    assert (sent.status_code, told) == (200, {"name": "x.png", "subfolder": "", "type": "input"})
    assert seen.content == RED
    assert seen.headers["content-type"] == "image/png"
    assert seen.headers["content-disposition"] == 'filename="x.png"'


async def test_upload_of_a_name_that_is_taken() -> None:
    blue, green = picture(0, 0, 255), picture(0, 255, 0)
    async with serving() as (client, inside):
        names = [
            (await upload(client, data)).json()["name"] for data in (RED, RED, blue, green, blue)
        ]
        again = await upload(client, green, overwrite="true")
        seen = await client.get("/view", params={"filename": "x.png", "type": "input"})
        files = await inside.files.list(owner="default", kind="input")
    assert names == ["x.png", "x.png", "x (1).png", "x (2).png", "x (1).png"]
    assert again.json()["name"] == "x.png"
    assert seen.content == green
    assert len(files) == 3


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"type": "temp", "subfolder": "a/b"},
            {"name": "x.png", "subfolder": "a/b", "type": "temp"},
        ),
        (
            {"subfolder": "a//./b/../c/"},
            {"name": "x.png", "subfolder": "a/c", "type": "input"},
        ),
        ({"name": "d/y.png"}, {"name": "y.png", "subfolder": "d", "type": "input"}),
        ({"name": "é ü.png"}, {"name": "é ü.png", "subfolder": "", "type": "input"}),
    ],
    ids=["folder", "normal", "path", "unicode"],
)
async def test_upload_says_where_it_lies(
    fields: Mapping[str, str], told: Mapping[str, str]
) -> None:
    async with serving() as (client, _):
        response = await upload(client, **fields)  # type: ignore[arg-type]
        place = {"filename": told["name"], "subfolder": told["subfolder"], "type": told["type"]}
        seen = await client.get("/view", params=place)
    assert response.json() == told
    assert seen.content == RED


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "nonsense"},
        {"subfolder": "../x"},
        {"subfolder": "/etc"},
        {"name": "../x.png"},
        {"name": "a/../../x.png"},
        {"subfolder": "a", "name": "../x.png"},
        {"name": "/x.png"},
        {"name": "x" * 241},
        {"subfolder": "/".join(["x" * 200] * 6)},
        {"subfolder": "a\tb"},
    ],
    ids=lambda fields: ascii(fields)[:40],
)
async def test_upload_that_names_no_place_is_refused_with_an_empty_body(
    fields: Mapping[str, str],
) -> None:
    async with serving() as (client, inside):
        response = await upload(client, **fields)  # type: ignore[arg-type]
        kept = await inside.files.list(owner="default", kind="input")
    assert (response.status_code, response.content, kept) == (400, b"", [])


async def test_upload_without_its_file_is_refused_with_an_empty_body() -> None:
    async with serving() as (client, _):
        for request in (
            {"data": {"type": "input"}},
            {"data": {"image": "text"}, "files": {"other": ("x.png", RED)}},
            {"json": {"image": "x"}},
            {"content": b""},
        ):
            response = await client.post("/upload/image", **request)
            assert (response.status_code, response.content) == (400, b"")


@pytest.mark.parametrize(
    "data", [b"", b"no picture", b"<svg xmlns='http://www.w3.org/2000/svg'/>", RED[:20]]
)
async def test_upload_that_is_no_picture_is_refused(data: bytes) -> None:
    async with serving() as (client, _):
        response = await upload(client, data)
    assert response.status_code == 400
    assert set(response.json()) == {"error"}


async def test_upload_with_too_many_pixels_is_refused_by_its_header() -> None:
    async with serving() as (client, _):
        bomb = bytearray(RED)
        bomb[16:24] = (100_000).to_bytes(4, "big") * 2
        response = await upload(client, bytes(bomb))
    assert response.status_code == 400


async def test_upload_that_is_too_large_is_refused() -> None:
    async with serving() as (client, _):
        response = await upload(client, b"x" * (64 * 2**20 + 1))
        cut = await client.post(
            "/upload/image",
            content=b"--b\r\n",
            headers={"content-type": "multipart/form-data"},
        )
    assert (response.status_code, cut.status_code) == (413, 400)


async def test_files_belong_to_their_owner() -> None:
    async with serving("key") as (client, _):
        await client.post("/upload/image", files={"image": ("x.png", RED)}, auth=ANN)
        query = {"filename": "x.png", "type": "input"}
        mine = await client.get("/view", params=query, auth=ANN)
        other = await client.get("/view", params=query, auth=BOB)
        nobody = await client.get("/view", params=query)
    assert [response.status_code for response in (mine, other, nobody)] == [200, 404, 401]


@pytest.mark.parametrize("header", ["Bearer ", "Bearer junk", "Basic !", ""])
async def test_credentials_that_nobody_asked_for_are_ignored(header: str) -> None:
    async with serving() as (client, _):
        response = await client.get("/settings", headers={"Authorization": header})
    assert (response.status_code, response.json()) == (200, {})


# -- masks --------------------------------------------------------------------------------------


async def test_mask_gives_its_alpha_to_a_picture_that_keeps_its_texts() -> None:
    original = picture(255, 0, 0, prompt="{}", workflow="ü")
    async with serving() as (client, inside):
        await save(inside, original, "o.png", subfolder="s")
        reference = json.dumps({"filename": "o.png", "subfolder": "s"})
        mask = picture(0, 0, 0, 64)
        sent = await upload(client, mask, "m.png", "/upload/mask", original_ref=reference)
        again = await upload(client, mask, "m.png", "/upload/mask", original_ref=reference)
        seen = opened(await client.get("/view", params={"filename": "m.png", "type": "input"}))
    assert sent.json() == again.json() == {"name": "m.png", "subfolder": "", "type": "input"}
    assert (seen.mode, seen.getpixel((0, 0))) == ("RGBA", (255, 0, 0, 64))
    assert seen.text == {"prompt": "{}", "workflow": "ü"}  # type: ignore[attr-defined]


async def test_mask_for_an_upload_by_annotation() -> None:
    async with serving() as (client, _):
        await upload(client, RED)
        reference = json.dumps({"filename": "x.png [input]"})
        sent = await upload(client, CLEAR_RED, "m.png", "/upload/mask", original_ref=reference)
    assert sent.status_code == 200


@pytest.mark.parametrize(
    ("reference", "status"),
    [
        ("", 400),
        ("[", 400),
        ("[]", 400),
        ('{"filename": 7}', 400),
        ('{"filename": "../x.png"}', 400),
        ('{"filename": "x.png", "subfolder": ["a"]}', 400),
        ('{"filename": "x.png", "type": "nonsense"}', 400),
        ('{"filename": "absent.png"}', 404),
        ('{"filename": "wide.png"}', 400),
    ],
)
async def test_mask_for_no_picture_is_refused(reference: str, status: int) -> None:
    async with serving() as (client, inside):
        await save(inside, picture(1, 2, 3, size=(9, 6)), "wide.png")
        sent = await upload(client, CLEAR_RED, "m.png", "/upload/mask", original_ref=reference)
    assert sent.status_code == status


# -- views --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({}, 404),
        ({"filename": ""}, 400),
        ({"filename": "absent.png"}, 404),
        ({"filename": "/x.png"}, 400),
        ({"filename": "a/../x.png"}, 400),
        ({"filename": "x.png", "type": "userdata"}, 400),
        ({"filename": "x.png", "type": "input"}, 404),
        ({"filename": "x.png", "subfolder": "../.."}, 403),
        ({"filename": "x.png", "subfolder": "/etc"}, 403),
        ({"filename": "x.png\0"}, 404),
    ],
    ids=ascii,
)
async def test_view_of_no_file_is_refused_with_an_empty_body(
    query: Mapping[str, str], status: int
) -> None:
    async with serving() as (client, inside):
        await save(inside, RED, "x.png")
        response = await client.get("/view", params=query)
    assert (response.status_code, response.content) == (status, b"")


async def test_view_finds_a_file_by_each_way_to_name_it() -> None:
    async with serving() as (client, inside):
        await save(inside, RED, "x.png", subfolder="s/t", kind="temp")
        for query in (
            {"filename": "x.png", "subfolder": "s/t", "type": "temp"},
            {"filename": "x.png [temp]", "subfolder": "s/t"},
            {"filename": "s/t/x.png [temp]", "subfolder": "s/t/", "type": "output"},
        ):
            assert (await client.get("/view", params=query)).content == RED


@pytest.mark.parametrize(
    ("query", "kind", "mode"),
    [
        ({"preview": "webp;90"}, "WEBP", "RGBA"),
        ({"preview": "webp"}, "WEBP", "RGBA"),
        ({"preview": "jpeg;75"}, "JPEG", "RGB"),
        ({"preview": "jpeg"}, "JPEG", "RGB"),
        ({"preview": "tiff;x"}, "WEBP", "RGBA"),
        ({"preview": "jpeg;999999", "channel": "rgba"}, "WEBP", "RGBA"),
        ({"preview": "webp", "channel": "rgb"}, "WEBP", "RGB"),
        ({"channel": "rgb"}, "PNG", "RGB"),
        ({"channel": "a"}, "PNG", "RGBA"),
        ({"channel": "rgba"}, "PNG", "RGBA"),
    ],
    ids=lambda value: ascii(value)[:30],
)
async def test_view_of_a_rendition(query: Mapping[str, str], kind: str, mode: str) -> None:
    async with serving() as (client, inside):
        await save(inside, CLEAR_RED, "x.png")
        response = await client.get("/view", params={"filename": "x.png", **query})
    seen = opened(response)
    assert (seen.format, seen.mode) == (kind, mode)
    assert response.headers["content-type"] == f"image/{kind.lower()}"
    assert response.headers["content-disposition"] == 'filename="x.png"'


async def test_view_of_channels_has_their_pixels() -> None:
    async with serving() as (client, inside):
        await save(inside, CLEAR_RED, "x.png")
        await save(inside, RED, "opaque.png")
        alpha = opened(await client.get("/view", params={"filename": "x.png", "channel": "a"}))
        colours = opened(await client.get("/view", params={"filename": "x.png", "channel": "rgb"}))
        none = opened(await client.get("/view", params={"filename": "opaque.png", "channel": "a"}))
    assert alpha.getpixel((0, 0)) == (0, 0, 0, 64)
    assert colours.getpixel((0, 0)) == (255, 0, 0)
    assert none.getpixel((0, 0)) == (0, 0, 0, 255)


async def test_rendition_of_what_is_no_picture_is_refused() -> None:
    async with serving() as (client, inside):
        await save(inside, b"no picture", "x.latent")
        plain = await client.get("/view", params={"filename": "x.latent"})
        preview = await client.get("/view", params={"filename": "x.latent", "preview": "webp"})
    assert plain.content == b"no picture"
    assert plain.headers["content-type"] == "application/octet-stream"
    assert preview.status_code == 400


@pytest.mark.parametrize(
    ("asked", "status", "content", "told"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=5-99", 206, b"56789", "bytes 5-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=5-4", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=-", 200, b"0123456789", None),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
async def test_view_of_a_range(asked: str, status: int, content: bytes, told: str | None) -> None:
    async with serving() as (client, inside):
        await save(inside, b"0123456789", "x.bin")
        response = await client.get("/view", params={"filename": "x.bin"}, headers={"Range": asked})
    assert (response.status_code, response.content) == (status, content)
    assert response.headers.get("content-range") == told


@pytest.mark.parametrize("name", ["x.html", "x.js", "x.css", "x.svg", "x.xml"])
async def test_view_of_what_a_page_could_run_is_a_download(name: str) -> None:
    async with serving() as (client, inside):
        await save(inside, b"<script>", name)
        response = await client.get("/view", params={"filename": name})
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-disposition"] == f'attachment; filename="{name}"'


async def test_name_cannot_leave_its_header() -> None:
    name = 'a"; x="é €.webp'
    async with serving() as (client, inside):
        await save(inside, RED, name)
        response = await client.get("/view", params={"filename": name})
    told = dict(response.headers.raw)[b"Content-Disposition".lower()]
    assert told.decode() == 'filename="a\\"; x=\\"é €.webp"'
    assert response.headers["content-type"] == "image/webp"


async def test_view_of_head_and_of_metadata() -> None:
    async with serving() as (client, inside):
        await save(inside, RED, "x.png")
        head = await client.head("/view", params={"filename": "x.png"})
        weights = {"filename": "x.safetensors"}
        metadata = await client.get("/view_metadata/loras", params=weights)
    assert head.headers["content-length"] == str(len(RED))
    assert metadata.status_code == 404


# -- names of inputs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "subfolder"),
    [
        ("x.png", "input", ""),
        ("x.png [input]", "input", ""),
        ("a/b/x.png", "input", "a/b"),
        ("x.png [output]", "output", ""),
        ("a/x.png [temp]", "temp", "a"),
    ],
)
async def test_input_is_found_by_its_name(name: str, kind: FileKind, subfolder: str) -> None:
    async with running(FakeModels()) as inside:
        place = {"owner": "ann", "kind": kind, "subfolder": subfolder, "name": "x.png"}
        kept = await inside.files.write(RED, **place)  # type: ignore[arg-type]
        assert await resolve_input(inside.files, "ann", name) == kept
        with pytest.raises(NotFound):
            await resolve_input(inside.files, "bob", name)


@pytest.mark.parametrize("name", ["", "../x.png", "/x.png", "a/", "x\0.png", ".", " [input]/.."])
async def test_input_that_can_be_no_file(name: str) -> None:
    async with running(FakeModels()) as inside:
        with pytest.raises(InvalidRequest):
            await resolve_input(inside.files, "ann", name)


def test_names_are_normal() -> None:
    assert parse_name("a\\b\\c.png").path == "a/b/c.png"
    assert parse_name("./c.png", within="a//b/.").path == "a/b/c.png"


# -- userdata -----------------------------------------------------------------------------------


async def put(client: httpx.AsyncClient, path: str, data: bytes = b"{}", **query: str) -> Any:
    response = await client.post(f"/userdata/{path}", content=data, params=query)
    assert response.status_code == 200, response.text
    return response.json()


async def test_document_is_kept_and_read_back() -> None:
    async with serving() as (client, _):
        assert await put(client, "workflows%2Fa%20b.json", b'{"1": 2}') == "workflows/a b.json"
        seen = await client.get("/api/userdata/workflows%2Fa%20b.json")
        twice = await client.get("/userdata/workflows%252Fa%2520b.json")
        plain = await client.get("/userdata/workflows/a b.json")
        gone = await client.delete("/userdata/workflows%2Fa%20b.json")
        after = await client.get("/userdata/workflows%2Fa%20b.json")
    assert seen.content == twice.content == plain.content == b'{"1": 2}'
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["content-disposition"].startswith("attachment")
    assert (gone.status_code, gone.content, after.status_code) == (204, b"", 404)


async def test_document_is_overwritten_unless_asked_not_to() -> None:
    async with serving() as (client, _):
        await put(client, "a.json", b"1")
        refused = await client.post("/userdata/a.json?overwrite=false", content=b"2")
        info = await put(client, "a.json", b"333", overwrite="true", full_info="true")
        seen = await client.get("/userdata/a.json")
    assert (refused.status_code, refused.text) == (409, "File already exists")
    assert (info["path"], info["size"]) == ("a.json", 3)
    assert info["created"] == info["modified"] > 1_700_000_000_000
    assert seen.content == b"333"


async def test_document_is_moved() -> None:
    async with serving() as (client, _):
        await put(client, "a.json", b"a")
        await put(client, "w%2Fmove%2Fb.json", b"b")
        to_b = "/userdata/a.json/move/w%2Fmove%2Fb.json"
        refused = await client.post(to_b, params={"overwrite": "false"})
        to_itself = await client.post("/userdata/a.json/move/a.json")
        moved = await client.post(to_b)
        absent = await client.post(to_b)
        seen = await client.get("/userdata/w%2Fmove%2Fb.json")
        listed = await client.get("/userdata", params={"dir": ".", "recurse": "true"})
    assert (refused.status_code, to_itself.status_code, absent.status_code) == (409, 200, 404)
    assert moved.json() == "w/move/b.json"
    assert seen.content == b"a"
    assert listed.json() == ["w/move/b.json"]


@pytest.mark.parametrize("name", ["..%2Fx", "%2Fetc%2Fpasswd", "a%00b", "%252e%252e%252Fx", "a%2F"])
async def test_document_that_can_have_no_place_is_refused(name: str) -> None:
    async with serving() as (client, _):
        for method in ("GET", "POST", "DELETE"):
            response = await client.request(method, f"/userdata/{name}")
            assert (response.status_code, response.content) == (403, b"")
        moved = await client.post(f"/userdata/a/move/{name}")
    assert moved.status_code == 403


async def test_folder_is_listed_in_each_form() -> None:
    async with serving() as (client, _):
        for name in ("w/b.json", "w/a.json", "w/c/d.json", "w/.hidden", "w/.h/x", "top", "ww/no"):
            await put(client, name.replace("/", "%2F"))

        async def listed(**query: str) -> Any:
            response = await client.get("/userdata", params={"dir": "w", **query})
            assert response.status_code == 200, response.text
            return response.json()

        assert await listed() == ["a.json", "b.json"]
        assert await listed(recurse="true") == ["a.json", "b.json", "c/d.json"]
        split = await listed(recurse="true", split="true")
        assert split[2] == ["c/d.json", "c", "d.json"]
        whole = await listed(full_info="true", split="true")
        assert set(whole[0]) == {"path", "size", "modified", "created"}
        assert await listed(dir=".") == ["top"]
        for query, status in (({}, 400), ({"dir": "../x"}, 403), ({"dir": "absent"}, 404)):
            assert (await client.get("/userdata", params=query)).status_code == status


async def test_tree_has_folders_first() -> None:
    async with serving() as (client, _):
        assert (await client.get("/v2/userdata")).json() == []
        for name in ("w/b.json", "w/c/d.json", "A.json"):
            await put(client, name.replace("/", "%2F"))
        tree = (await client.get("/api/v2/userdata")).json()
        below = (await client.get("/v2/userdata", params={"path": "w"})).json()
        statuses = [
            (await client.get("/v2/userdata", params={"path": path})).status_code
            for path in ("../x", "absent", "A.json")
        ]
    assert [(entry["path"], entry["type"]) for entry in tree] == [
        ("w/c", "directory"),
        ("w", "directory"),
        ("A.json", "file"),
        ("w/b.json", "file"),
        ("w/c/d.json", "file"),
    ]
    assert [entry["path"] for entry in below] == ["w/c", "w/b.json", "w/c/d.json"]
    assert statuses == [400, 404, 400]


async def test_documents_belong_to_their_owner() -> None:
    async with serving("key") as (client, _):
        await client.post("/userdata/a.json", content=b"1", auth=ANN)
        other = await client.get("/userdata/a.json", auth=BOB)
        listed = await client.get("/userdata?dir=.", auth=BOB)
    assert (other.status_code, listed.json()) == (404, [])


# -- settings and what is internal --------------------------------------------------------------


async def test_settings_are_kept_per_owner() -> None:
    async with serving("key") as (client, _):
        sent = await client.post("/settings", content=b'{"a": 1, "b.c": [null]}', auth=ANN)
        one = await client.post("/api/settings/b.c", content=b"true", auth=ANN)
        mine = await client.get("/settings", auth=ANN)
        single = await client.get("/settings/b.c", auth=ANN)
        unset = await client.get("/settings/zzz", auth=ANN)
        other = await client.get("/settings", auth=BOB)
        refused = [
            (await client.post(path, content=body, auth=ANN)).status_code
            for path, body in (("/settings", b"[]"), ("/settings", b"{"), ("/settings/x", b""))
        ]
    assert (sent.status_code, sent.content, one.status_code) == (200, b"", 200)
    assert mine.json() == {"a": 1, "b.c": True}
    assert (single.json(), unset.json(), other.json()) == (True, None, {})
    assert refused == [400, 400, 400]


async def test_users_and_folders_tell_nothing_of_the_machine() -> None:
    async with serving() as (client, _):
        users = (await client.get("/users")).json()
        folders = (await client.get("/internal/folder_paths")).json()
    assert users == {"storage": "server", "migrated": True}
    assert folders["checkpoints"] == []
    assert "/" not in json.dumps(folders)


async def test_internal_files_are_the_newest_first() -> None:
    async with serving() as (client, inside):
        for name in ("a.png", "b.png"):
            await save(inside, RED, name)
        await save(inside, RED, "c.png", subfolder="s")
        listed = await client.get("/internal/files/output")
        unknown = await client.get("/internal/files/userdata")
    assert listed.json() == ["b.png", "a.png"]
    assert (unknown.status_code, unknown.json()) == (400, {"error": "Invalid directory type"})


async def test_logs_tell_of_the_callers_own_prompts() -> None:
    async with serving("key") as (client, inside):
        for owner in ("ann", "bob"):
            job = await inside.service.enqueue(
                "nonsense", {}, model="absent", api="comfyui", owner=owner, name=f"of {owner}"
            )
            claim = await inside.jobs.claim(model="absent", worker="w", lease_seconds=9)
            assert claim is not None
            await inside.jobs.finish(job.id, claim.token, Outcome(status=JobStatus.COMPLETED))
        raw = (await client.get("/internal/logs/raw", auth=ANN)).json()
        text = (await client.get("/internal/logs", auth=ANN)).json()
        joined = await client.patch(
            "/internal/logs/subscribe", json={"clientId": "c", "enabled": True}, auth=ANN
        )
        bad = await client.patch("/internal/logs/subscribe", json={}, auth=ANN)
    assert [entry["m"] for entry in raw["entries"]] == [
        "got prompt of ann\n",
        "prompt of ann begins\n",
        "prompt of ann completed\n",
    ]
    assert set(raw["size"]) == {"cols", "rows"}
    assert text.count("\n") == 3
    assert "bob" not in text
    assert (joined.status_code, joined.content, bad.status_code) == (200, b"", 400)


async def test_files_of_nobody_are_not_read_without_the_key() -> None:
    async with serving("key") as (client, inside):
        files: Files = inside.files
        assert await files.list(owner="default", kind="input") == []
        for method, path in (
            ("POST", "/upload/image"),
            ("GET", "/userdata?dir=."),
            ("GET", "/settings"),
            ("GET", "/internal/logs"),
            ("GET", "/internal/files/output"),
        ):
            assert (await client.request(method, path)).status_code == 401
