"""Owners' weights: every layout that is accepted, and what is refused."""

from __future__ import annotations

import json
import queue
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.engine.engine import Engine
from deployments.engine.events import Event, Finished, Stepped
from deployments.engine.memory import Budget
from deployments.engine.runner import TorchRunner
from deployments.errors import GenerationFailed, InvalidRequest
from deployments.families.base import Family
from deployments.families.personal import PersonalModules
from deployments.types import GenerationRequest, WeightsSource
from tests.deployments.families.driver import ask, draw

Load = Callable[[str], Family]
#: Names of a residual block's layers: diffusers' and the original's.
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


@pytest.fixture(scope="session")
def user(checkpoints: Path) -> dict[str, dict[str, Any]]:
    """The tensors of ``sd-user``, by module."""
    folder = checkpoints / "sd-user"
    return {
        "unet": load_file(folder / "unet" / "diffusion_pytorch_model.safetensors"),
        "text_encoder": load_file(folder / "text_encoder" / "model.safetensors"),
    }


def source(location: Path | str, kind: Any = "path") -> WeightsSource:
    return WeightsSource(id=f"pm_{Path(location).name}", kind=kind, location=str(location))


def resolved(family: Family, own: WeightsSource) -> GenerationRequest:
    """A request for weights of its owner's, as the engine has it."""
    assert family.sources is not None
    return family.sources.resolve(ask(weights="mine", weights_source=own))


def prefixed(**modules: dict[str, Any]) -> dict[str, Any]:
    return {f"{part}.{name}": t for part, own in modules.items() for name, t in own.items()}


def original(name: str, per_block: int, with_attention: set[int]) -> str:
    """A UNet tensor's name in the original code, from its name in diffusers."""
    layer, _, kind = name.rpartition(".")
    if layer in TOP:
        return f"{TOP[layer]}.{kind}"
    found = re.match(r"(down|mid|up)_blocks?\.?(\d*)\.(\w+)\.(\d+)\.(.*)", name)
    assert found, name
    place, block, what, index, rest = found.groups()
    i, j = int(block or 0), int(index)
    if what == "resnets":
        inner, _, kind = rest.partition(".")
        rest = f"{RESNET[inner]}.{kind}"
    if place == "mid":
        return f"middle_block.{2 * j if what == 'resnets' else 1}.{rest}"
    if what == "downsamplers":
        return f"input_blocks.{(per_block + 1) * (i + 1)}.0.{rest.replace('conv', 'op')}"
    if what == "upsamplers":
        return f"output_blocks.{(per_block + 1) * i + per_block}.{1 + (i in with_attention)}.{rest}"
    nth = (per_block + 1) * i + j + (place == "down")
    blocks = "input_blocks" if place == "down" else "output_blocks"
    return f"{blocks}.{nth}.{0 if what == 'resnets' else 1}.{rest}"


def original_file(user: dict[str, dict[str, Any]], per_block: int) -> dict[str, Any]:
    names = user["unet"]
    attending = {int(n.split(".")[1]) for n in names if re.match(r"up_blocks\.\d\.attentions", n)}
    unet = {
        f"model.diffusion_model.{original(name, per_block, attending)}": tensor
        for name, tensor in names.items()
    }
    text = {f"cond_stage_model.transformer.{n}": t for n, t in user["text_encoder"].items()}
    return {**unet, **text, "first_stage_model.encoder.conv_in.bias": torch.zeros(8)}


@pytest.mark.parametrize("layout", ["folder", "unet", "pair", "half", "original"])
def test_every_layout_draws_the_same(
    layout: str, load: Load, checkpoints: Path, user: dict[str, Any], tmp_path: Path
) -> None:
    family = load("sd")
    path = tmp_path / "sks.safetensors"
    if layout == "folder":
        path = checkpoints / "sd-user"
    elif layout == "unet":
        save_file(user["unet"], path)
    elif layout == "pair":
        save_file(prefixed(**user), path)
    elif layout == "half":
        save_file({n: t.half() for n, t in prefixed(**user).items()}, path)
    else:
        per_block = family.base.unet.config.layers_per_block  # type: ignore[attr-defined]
        save_file(original_file(user, per_block), path)
    checked = family.check_weights(source(path), 2**40)
    assert checked.parts == (("unet",) if layout == "unet" else ("unet", "text_encoder"))
    assert checked.num_bytes > 1000

    own = family.load_weights(resolved(family, source(path)).weights)
    unet = own.pipeline.unet.state_dict()
    atol = 1e-2 if layout == "half" else 0
    for name, tensor in user["unet"].items():
        assert torch.allclose(unet[name], tensor, atol=atol), name
    assert not own.pipeline.unet.training
    assert own.pipeline.vae is family.base.vae  # type: ignore[attr-defined]


def test_weights_of_an_upload_draw_what_their_folder_draws(
    load: Load, user: dict[str, Any], tmp_path: Path
) -> None:
    family = load("sd")
    save_file(prefixed(**user), tmp_path / "a b.safetensors")
    upload = source((tmp_path / "a b.safetensors").as_uri(), "upload")
    assert family.check_weights(upload, 2**40).parts == ("unet", "text_encoder")
    asked = resolved(family, upload)
    assert asked.weights == upload.id
    [mine] = draw(family, asked)
    [theirs] = draw(family, ask(weights="alice"))
    assert np.abs(mine - theirs).max() <= 1


def test_owners_who_draw_at_once_get_what_they_get_alone(load: Load) -> None:
    family = load("sd")
    requests = [ask(weights=weights, seed=seed) for seed in (1, 2) for weights in ("alice", None)]
    alone = [draw(family, request)[0] for request in requests]
    engine = Engine(family, TorchRunner("cpu", num_threads=1), budget=Budget(max_sets=2))
    engine.start()
    ends: queue.Queue[tuple[int, Finished]] = queue.Queue()

    def listen(number: int, event: Event) -> None:
        if not isinstance(event, Stepped):
            assert isinstance(event, Finished), event
            ends.put((number, event))

    for number, request in enumerate(requests):
        engine.add(str(number), request, partial(listen, number))
    rows = []
    for _ in requests:
        number, finished = ends.get(timeout=60)
        rows.append(finished.max_batch_rows)
        assert np.abs(finished.pictures[0].pixels * 255 - alone[number]).max() <= 1
    assert max(rows) == 4  # those of the same weights share their steps
    engine.stop()


def test_check_names_what_does_not_fit(
    load: Load, checkpoints: Path, user: dict[str, Any], tmp_path: Path
) -> None:
    family = load("sd")
    unet = user["unet"]
    name, tensor = next(iter(unet.items()))
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "missing": (dict(list(unet.items())[1:]), rf"unet has {name} of shape None"),
        "more": (
            {**unet, "another.weight": tensor.clone()},
            r"another.weight .* the base has None",
        ),
        "shape": ({**unet, name: tensor[:1].clone()}, rf"unet has {name} of shape \(1,"),
        "dtype": ({**unet, name: tensor.double()}, rf"{name} is F64; accepted: F16, BF16, F32"),
        "unknown": ({"a.b": tensor}, "a.b belongs to no module"),
        "no unet": (prefixed(text_encoder=user["text_encoder"]), "there is no UNet"),
        "lora": ({"unet.x.lora_A.weight": tensor}, "it lacks the upper factor of unet.x"),
    }
    for case, (tensors, words) in cases.items():
        path = tmp_path / f"{case}.safetensors"
        save_file(tensors, path)
        with pytest.raises(InvalidRequest, match=words):
            family.check_weights(source(path), 2**40)
    with pytest.raises(InvalidRequest, match="the base has"):
        family.check_weights(source(checkpoints / "sdxl"), 2**40)
    save_file(unet, tmp_path / "sks.safetensors")
    with pytest.raises(InvalidRequest, match="accepted: at most 1000"):
        family.check_weights(source(tmp_path / "sks.safetensors"), 1000)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x80\x04\x95" + bytes(100), id="pickle"),
        pytest.param((2**62).to_bytes(8, "little") + b"{}", id="huge header"),
        pytest.param((2).to_bytes(8, "little") + b"{}", id="no tensors"),
        pytest.param((9).to_bytes(8, "little") + b'{"a": [1]', id="no json"),
        pytest.param(
            (lambda h: len(h).to_bytes(8, "little") + h)(
                json.dumps({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode()
            ),
            id="cut off",
        ),
    ],
)
def test_damaged_files_are_refused_in_words_without_paths(
    data: bytes, load: Load, tmp_path: Path
) -> None:
    path = tmp_path / "sks.safetensors"
    path.write_bytes(data)
    with pytest.raises(InvalidRequest) as caught:
        load("sd").check_weights(source(path), 2**40)
    assert str(tmp_path) not in caught.value.message
    for gone in (tmp_path / "none", tmp_path / "none.safetensors"):
        with pytest.raises(InvalidRequest):
            load("sd").check_weights(source(gone), 2**40)


def test_original_names_of_another_model_are_refused(
    load: Load, user: dict[str, Any], tmp_path: Path
) -> None:
    family = load("sd")
    per_block = family.base.unet.config.layers_per_block  # type: ignore[attr-defined]
    tensors = original_file(user, per_block)
    tensors.pop("model.diffusion_model.input_blocks.1.0.in_layers.0.weight")
    save_file(tensors, tmp_path / "sks.safetensors")
    with pytest.raises(InvalidRequest, match=r"do not fit|cannot be read"):
        family.check_weights(source(tmp_path / "sks.safetensors"), 2**40)


@pytest.mark.parametrize(
    ("pattern", "number", "words"),
    [
        ("model.diffusion_model.input_blocks.{}.0.weight", 300, "it has 300 blocks"),
        ("unet.a{}", 16_385, "it has 16385 tensors; accepted: at most 16384"),
    ],
    ids=["blocks", "tensors"],
)
def test_names_by_the_thousand_are_refused_before_they_take_long(
    load: Load, tmp_path: Path, pattern: str, number: int, words: str
) -> None:
    tensors = {pattern.format(n): torch.zeros(1) for n in range(number)}
    save_file(tensors, tmp_path / "sks.safetensors")
    with pytest.raises(InvalidRequest, match=words):
        load("sd").check_weights(source(tmp_path / "sks.safetensors"), 2**40)


def test_hub_that_cannot_be_reached_is_told_as_such(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    for hub_id in ("no/such--repo", "no/such--repo/ink.safetensors"):
        with pytest.raises(InvalidRequest, match="cannot be read"):
            load("sd").check_weights(source(hub_id, "hub"), 2**40)


def test_weights_stay_as_they_were_read_when_their_file_changes(
    load: Load, user: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "sks.safetensors"
    save_file(user["unet"], path)
    modules = PersonalModules({"unet": load("sd").base.unet}, 0)  # type: ignore[attr-defined]
    read = modules.read(source(path))["unet"]
    with path.open("r+b") as file:
        file.truncate(100)
    for name, tensor in read.state_dict().items():
        assert torch.equal(tensor, user["unet"][name]), name


def test_load_that_finds_its_file_gone_fails_in_words(load: Load, tmp_path: Path) -> None:
    modules = PersonalModules({"unet": load("sd").base.unet}, 0)  # type: ignore[attr-defined]
    with pytest.raises(GenerationFailed, match=r"weights 'pm_gone.safetensors' cannot be read"):
        modules.read(source(tmp_path / "gone.safetensors"))


def test_upload_in_a_bucket_is_checked_by_its_header_and_read(
    load: Load, user: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boto3 = pytest.importorskip("boto3")
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    save_file(user["unet"], tmp_path / "sks.safetensors")
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="pictures")
    client.upload_file(str(tmp_path / "sks.safetensors"), "pictures", "a/weights/sks.safetensors")
    url = f"s3://pictures/a/weights/sks.safetensors?endpoint_url={endpoint}&region=us-east-1"
    family = load("sd")
    checked = family.check_weights(source(url, "upload"), 2**40)
    assert checked.num_bytes == (tmp_path / "sks.safetensors").stat().st_size
    modules = PersonalModules({"unet": family.base.unet}, 0)  # type: ignore[attr-defined]
    read = modules.read(source(url, "upload"))["unet"].state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in user["unet"].items())
    client.close()
    server.stop()
    with pytest.raises(GenerationFailed):
        modules.read(source(url.replace("sks", "gone"), "upload"))


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Enough of Hugging Face's hub for one repository, ``owner/name``."""

    files: dict[str, bytes]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/owner/name/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": str(hash(data))}
                for name, data in self.files.items()
            ]
            self._answer(json.dumps(tree).encode())
            return
        if path.startswith("/api/models/owner/name"):
            siblings = [{"rfilename": n, "size": len(data)} for n, data in self.files.items()]
            told = {"id": "owner/name", "modelId": "owner/name", "sha": COMMIT}
            self._answer(json.dumps({**told, "siblings": siblings, "tags": []}).encode())
            return
        name = path.partition(f"/resolve/{COMMIT}/")[2]
        if not path.startswith("/owner/name/") or name not in self.files:
            self.send_error(404)
            return
        data = self.files[name]
        asked = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        part = data[int(asked[1]) : int(asked[2]) + 1] if asked else data
        self._answer(
            part, 206 if asked else 200, {"ETag": f'"{hash(data)}"', "X-Repo-Commit": COMMIT}
        )

    def _answer(
        self, data: bytes, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def test_hub_id_is_checked_by_headers_pinned_and_read(
    load: Load,
    checkpoints: Path,
    user: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = checkpoints / "sd-user"
    paths = [
        folder / "unet" / "diffusion_pytorch_model.safetensors",
        folder / "unet" / "config.json",
    ]
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (Hub,), {"files": files}))
    Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    family = load("sd")
    hub = source("owner/name", "hub")
    checked = family.check_weights(hub, 2**40)
    assert (checked.location, checked.parts) == (f"owner/name@{COMMIT}", ("unet",))
    assert checked.num_bytes == len(files["unet/diffusion_pytorch_model.safetensors"])
    with pytest.raises(InvalidRequest, match="accepted: at most 9"):
        family.check_weights(hub, 9)
    modules = PersonalModules({"unet": family.base.unet}, 0)  # type: ignore[attr-defined]
    read = modules.read(replace(hub, location=checked.location))["unet"].state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in user["unet"].items())
    server.shutdown()
    server.server_close()
