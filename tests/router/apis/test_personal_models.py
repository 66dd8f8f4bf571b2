"""/v1/models/personal: owners register weights of their own, and /generate draws with them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.fake_models import FakeModels, fake_card
from tests.router.apis.gateway import fake_models, serving

PATH = "/v1/models/personal/sks"


def safetensors(num_bytes: int = 16) -> bytes:
    header = json.dumps(
        {"conv_in.weight": {"dtype": "F16", "shape": [num_bytes // 2], "data_offsets": [0, 16]}}
    ).encode()
    return len(header).to_bytes(8, "little") + header + bytes(num_bytes)


def upload(data: bytes | None = None, **fields: Any) -> dict[str, Any]:
    """A form with a file."""
    return {
        "data": {"base": "sd15-dreambooth", **fields},
        "files": {"file": ("sks.safetensors", safetensors() if data is None else data)},
    }


def basic(user: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:key'.encode()).decode()}"}


def error(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    told: dict[str, Any] = response.json()["error"]
    return told


async def test_upload_is_kept_told_and_removed(tmp_path: Path) -> None:
    async with serving(images_url=str(tmp_path)) as client:
        put = await client.put(PATH, **upload())
        assert put.status_code == 200, put.text
        model = put.json()
        assert model.pop("created") > 0
        assert model == {
            "id": "sks",
            "object": "personal_model",
            "type": "checkpoint",
            "owned_by": "default",
            "base": "sd15-dreambooth",
            "source": "upload",
            "parts": ["unet"],
            "num_bytes": len(safetensors()),
        }
        assert (await client.get(PATH)).json()["id"] == "sks"
        listed = (await client.get("/v1/models/personal")).json()
        assert [entry["id"] for entry in listed["data"]] == ["sks"]
        [kept] = tmp_path.glob("weights/*")
        assert kept.read_bytes() == safetensors()

        gone = await client.delete(PATH)
        assert gone.json() == {"id": "sks", "object": "personal_model", "deleted": True}
        assert not list(tmp_path.glob("weights/*"))
        assert error(await client.get(PATH), 404)["message"] == "there is no personal model 'sks'"
        assert error(await client.delete(PATH), 404)


async def test_generate_draws_with_the_callers_own_weights_first(tmp_path: Path) -> None:
    models = fake_models()
    async with serving(models, images_url=str(tmp_path), api_key="key") as client:
        client.headers.update(basic("ann"))
        await client.put(PATH, **upload())
        for user_id, headers in (("sks", {}), ("user_123", {}), ("eve", {}), ("sks", basic("bob"))):
            body = {"prompt": "a", "user_id": user_id, "width": 256, "height": 256}
            assert (await client.post("/generate", json=body, headers=headers)).is_success
    assert [call.weights for call in models.calls] == ["sks", "user_123", "default", "default"]
    own, *others = [call.weights_source for call in models.calls]
    assert own is not None
    assert own.kind == "upload"
    assert own.location.startswith(f"file://{tmp_path}/weights/pm_")
    assert others == [None, None, None]


async def test_openais_routes_draw_with_weights_by_name(tmp_path: Path) -> None:
    models = fake_models()
    async with serving(models, images_url=str(tmp_path)) as client:
        await client.put(PATH, **upload())
        body = {"prompt": "a", "model": "sd15-dreambooth", "size": "64x64"}
        for weights in ("sks", "user_123"):
            drawn = await client.post("/v1/images/generations", json={**body, "weights": weights})
            assert drawn.is_success, drawn.text
        unknown = await client.post("/v1/images/generations", json={**body, "weights": "eve"})
        assert "unknown weights 'eve'; known: default" in error(unknown, 400)["message"]
    assert [call.weights for call in models.calls] == ["sks", "user_123"]
    assert [call.weights_source is not None for call in models.calls] == [True, False]


async def test_models_of_one_owner_are_hidden_from_others(tmp_path: Path) -> None:
    async with serving(images_url=str(tmp_path), api_key="key") as client:
        assert (await client.put(PATH, **upload(), headers=basic("ann"))).is_success
        assert error(await client.put(PATH, **upload()), 401)
        assert error(await client.get(PATH, headers=basic("bob")), 404)
        assert error(await client.delete(PATH, headers=basic("bob")), 404)
        assert (await client.put(PATH, **upload(), headers=basic("bob"))).is_success
        listed = await client.get("/v1/models/personal", headers=basic("bob"))
        assert [entry["owned_by"] for entry in listed.json()["data"]] == ["bob"]
        assert len(list(tmp_path.glob("weights/*"))) == 2


async def test_gateways_over_one_database_agree_at_once(tmp_path: Path) -> None:
    shared = {"database_url": f"sqlite:///{tmp_path}/rows.db", "images_url": str(tmp_path / "i")}
    models = fake_models()
    async with serving(**shared) as first, serving(models, **shared) as second:
        assert (await first.put(PATH, **upload())).is_success
        body = {"prompt": "a", "user_id": "sks", "width": 256, "height": 256}
        assert (await second.post("/generate", json=body)).is_success
        assert models.calls[0].weights_source is not None
        assert (await second.delete(PATH)).is_success
        assert error(await first.get(PATH), 404)


async def test_path_within_the_configured_folders(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "sks.safetensors").write_bytes(safetensors())
    (folder / "out").symlink_to(tmp_path)
    async with serving(checkpoint_folders=[str(folder)]) as client:
        body = {"base": "sd15-dreambooth", "path": str(folder / "sks.safetensors")}
        told = (await client.put(PATH, json=body)).json()
        assert (told["source"], told["path"]) == ("path", body["path"])
        outside = str(tmp_path), f"{folder}/../x", f"{folder}/out/x", "/etc/passwd"
        for path in (*outside, "", "\0", f"{folder}{'/a' * 10_000}"):
            refused = error(await client.put(PATH, json={**body, "path": path}), 400)
            assert str(tmp_path) not in refused["message"]
    async with serving() as client:
        assert "by path" in error(await client.put(PATH, json=body), 400)["message"]


async def test_hub_id_is_registered(tmp_path: Path) -> None:
    async with serving(images_url=str(tmp_path)) as client:
        body = {"base": "sd15-dreambooth", "hub": "Zhurah/sd15-dreambooth-photoai"}
        assert (await client.put(PATH, json=body)).json()["hub"] == body["hub"]
        for hub in ("no-slash", "a/b/c", "../x", "a/b@"):
            assert error(await client.put(PATH, json={**body, "hub": hub}), 400)["param"] == "hub"


@pytest.mark.parametrize(
    ("form", "status", "part"),
    [
        pytest.param(upload(b"PK\3\4 a pickle in a zip"), 400, "no safetensors", id="zip"),
        pytest.param(upload(b"\x80\x04\x95 a pickle"), 400, "no safetensors", id="pickle"),
        pytest.param(upload(b""), 400, "no safetensors", id="empty"),
        pytest.param(upload(base="nobody"), 404, "unknown model", id="unknown base"),
        pytest.param(upload(base=""), 400, "base is missing", id="no base"),
        pytest.param(upload(base="plain"), 400, "takes no weights", id="a base without"),
        pytest.param({"data": {"base": "sd15-dreambooth"}}, 400, "JSON", id="no form"),
        pytest.param(
            {"data": {"base": "sd15-dreambooth", "file": "text"}, "files": {"x": b""}},
            400,
            "file is missing",
            id="no file",
        ),
        pytest.param(upload(safetensors(200_000)), 413, "at most 100000 bytes", id="too large"),
    ],
)
async def test_upload_that_is_refused_leaves_nothing(
    form: dict[str, Any], status: int, part: str, tmp_path: Path
) -> None:
    cards = (
        fake_card("sd15-dreambooth"),
        fake_card("plain", takes_weights=False, takes_loras=False),
    )
    models = FakeModels(*cards)
    async with serving(models, images_url=str(tmp_path), max_checkpoint_bytes=100_000) as client:
        assert part in error(await client.put(PATH, **form), status)["message"]
        assert not list(tmp_path.glob("weights/*"))
        assert error(await client.get(PATH), 404)


async def test_upload_that_does_not_fit_the_model_is_removed(tmp_path: Path) -> None:
    async with serving(images_url=str(tmp_path / "misfit")) as client:
        assert "do not fit" in error(await client.put(PATH, **upload()), 400)["message"]
    assert not list(tmp_path.glob("misfit/weights/*"))


async def test_names_that_are_refused(tmp_path: Path) -> None:
    async with serving(images_url=str(tmp_path)) as client:
        configured = await client.put("/v1/models/personal/user_123", **upload())
        assert "already" in error(configured, 409)["message"]
        for name in ("a%20b", "x" * 129, "%00"):
            assert error(await client.put(f"/v1/models/personal/{name}", **upload()), 400)
        for body in ({}, {"base": "x"}, {"base": "x", "path": "a", "hub": "b/c"}, {"base": 1}, []):
            assert error(await client.put(PATH, json=body), 400)


async def test_uploads_without_a_store_that_hosts_can_read_are_refused() -> None:
    async with serving() as client:
        assert "not kept" in error(await client.put(PATH, **upload()), 400)["message"]
