"""The LoRA files of a model: a folder that changes, and owners' files, checked and read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deployments.config import LiveConfig, ModelConfig
from deployments.errors import GenerationFailed, InvalidRequest
from deployments.families import family_class
from deployments.families.base import Family
from deployments.families.lora import Loras
from deployments.families.lora_digest import digest_of
from deployments.families.lora_file import Layers, convert_stable_diffusion
from deployments.families.lora_shelf import Shelf
from deployments.host import LOOK_SECONDS, ModelHost
from deployments.types import LoraUse, WeightsSource
from tests.deployments.families.driver import ask, draw
from tests.deployments.families.lora_making import (
    diffusers_form,
    factors,
    kohya_form,
    parts_of,
    write,
)
from tests.deployments.families.test_personal import COMMIT, Hub

Load = Callable[[str], Family]


@pytest.fixture(scope="module")
def inks(load: Load, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRAs of ``sd`` outside of any folder that a model looks into: ``ink`` and ``wool``."""
    folder = tmp_path_factory.mktemp("inks")
    base = load("sd").base  # type: ignore[attr-defined]
    write(folder / "ink.safetensors", diffusers_form(factors(base, seed=1)))
    write(folder / "wool.safetensors", kohya_form(factors(base, seed=2, rank=8), alpha=4))
    return folder


def start(checkpoints: Path, **options: Any) -> Family:
    config = ModelConfig(family="stable-diffusion", weights=str(checkpoints / "sd"), **options)
    return family_class("stable-diffusion").load(config, "cpu", "float32")


def loras_of(family: Family) -> Loras:
    assert family.loras is not None
    return family.loras


def source(location: Path | str, kind: Any = "path", name: str = "pm_1") -> WeightsSource:
    return WeightsSource(id=name, kind=kind, location=str(location), is_lora=True)


def drawn(family: Family, **use: Any) -> np.ndarray:
    return draw(family, ask(guidance_scale=1.0, loras=(LoraUse(**use),)))[0]


# -- a folder -----------------------------------------------------------------------------------


def test_files_of_a_folder_come_change_and_go(
    checkpoints: Path, inks: Path, tmp_path: Path
) -> None:
    family = start(checkpoints, lora_folder=str(tmp_path))
    loras = loras_of(family)
    assert (loras.names, loras.shelf.digests) == ((), ())
    (tmp_path / "styles").mkdir()
    shutil.copy(inks / "ink.safetensors", tmp_path / "styles")
    (tmp_path / "notes.safetensors").write_text("no LoRA")
    loras.look()
    assert loras.names == ("styles/ink",)
    assert loras.shelf.digests == (("styles/ink", digest_of(inks / "ink.safetensors")),)
    before = drawn(family, name="styles/ink")

    held = loras.get("styles/ink")
    shutil.copy(inks / "wool.safetensors", tmp_path / "styles" / "ink.safetensors")
    loras.look()
    assert loras.shelf.digests == (("styles/ink", digest_of(inks / "wool.safetensors")),)
    assert loras.needed_bytes() == held.num_bytes  # who uses it keeps it
    assert [(one.name, one.is_used) for one in loras.holdings()] == [("styles/ink", True)]
    other = loras.get("styles/ink")
    assert other is not held
    assert loras.num_bytes == held.num_bytes + other.num_bytes
    assert [one.is_used for one in loras.holdings()] == [True, True]
    del held
    assert loras.num_bytes == other.num_bytes
    assert np.abs(drawn(family, name="styles/ink") - before).mean() > 1

    shutil.rmtree(tmp_path / "styles")
    loras.look()
    assert loras.names == ()
    with pytest.raises(InvalidRequest, match="unknown LoRA 'styles/ink'; known: none"):
        loras.get("styles/ink")


def test_a_file_is_found_when_it_is_asked_for(
    checkpoints: Path, inks: Path, tmp_path: Path
) -> None:
    loras = loras_of(start(checkpoints, lora_folder=str(tmp_path)))
    shutil.copy(inks / "ink.safetensors", tmp_path)
    assert loras.get("ink").num_bytes > 0
    assert loras.num_bytes == loras.get("ink").num_bytes


def test_a_file_that_changed_is_read_anew_after_another_was_found(
    checkpoints: Path, inks: Path, tmp_path: Path
) -> None:
    loras = loras_of(start(checkpoints, lora_folder=str(tmp_path)))
    shutil.copy(inks / "ink.safetensors", tmp_path)
    held = loras.get("ink")
    shutil.copy(inks / "wool.safetensors", tmp_path / "ink.safetensors")
    shutil.copy(inks / "wool.safetensors", tmp_path)
    assert loras.get("wool").num_bytes > 0
    assert loras.get("ink") is not held


def test_a_file_that_changes_while_it_is_read_is_read_again(
    load: Load, inks: Path, tmp_path: Path
) -> None:
    class Busy(Shelf):
        """Another file comes, and is seen, before the first reading is over."""

        num_reads = 0

        def read(self, name: str, source: WeightsSource | None = None) -> Layers:
            layers = super().read(name, source)
            self.num_reads += 1
            if self.num_reads == 1:
                shutil.copy(inks / "wool.safetensors", tmp_path / "ink.safetensors")
                self.look()
            return layers

    shutil.copy(inks / "ink.safetensors", tmp_path)
    base: Any = load("sd").base  # type: ignore[attr-defined]
    modules, convert = parts_of(base), convert_stable_diffusion(base.unet.config)
    shelf = Busy(modules, convert, folder=str(tmp_path))
    lora = Loras(shelf, modules, max_bytes=2**30).get("ink")
    assert shelf.num_reads == 2
    ranks = {low.down.shape[0] for own in lora.layers.values() for low in own.values()}
    assert ranks == {8}


def test_a_file_that_is_still_being_written_is_offered_once_it_is_whole(
    checkpoints: Path, inks: Path, tmp_path: Path
) -> None:
    loras = loras_of(start(checkpoints, lora_folder=str(tmp_path)))
    whole = (inks / "ink.safetensors").read_bytes()
    for length in (4, len(whole) // 2):
        (tmp_path / "ink.safetensors").write_bytes(whole[:length])
        loras.look()
        assert loras.names == ()
    (tmp_path / "ink.safetensors").write_bytes(whole)
    loras.look()
    assert loras.names == ("ink",)


def test_named_and_fixed_files_stay_when_theirs_are_gone(
    checkpoints: Path, inks: Path, tmp_path: Path
) -> None:
    path = tmp_path / "ink.safetensors"
    shutil.copy(inks / "ink.safetensors", path)
    family = start(checkpoints, loras={"mine": str(path)}, fixed_loras={"mine": 0.5})
    expected = draw(family, ask())[0]
    path.unlink()
    loras_of(family).look()
    assert loras_of(family).names == ("mine",)
    assert np.abs(draw(family, ask())[0] - expected).max() <= 0.05


def test_what_was_read_stays_when_its_file_is_cut(
    checkpoints: Path, inks: Path, tmp_path: Path
) -> None:
    path = tmp_path / "ink.safetensors"
    shutil.copy(inks / "ink.safetensors", path)
    loras = loras_of(start(checkpoints, lora_folder=str(tmp_path)))
    layers = loras.get("ink").layers["unet"]
    expected = {name: low.down.clone() for name, low in layers.items()}
    with path.open("r+b") as file:
        file.truncate(100)
    assert all(torch.equal(layers[name].down, down) for name, down in expected.items())


async def test_a_host_tells_what_lies_in_its_folder_and_takes_another_one_live(
    checkpoints: Path, inks: Path, tmp_path: Path
) -> None:
    config = ModelConfig(
        family="stable-diffusion",
        weights=str(checkpoints / "sd"),
        device="cpu",
        num_threads=1,
        lora_folder=str(tmp_path),
    )
    host = ModelHost(config, "sd")
    try:
        card = await host.card()
        assert (card.loras, card.takes_loras) == ((), True)
        shutil.copy(inks / "ink.safetensors", tmp_path / "line.safetensors")
        host._looked_at -= LOOK_SECONDS
        assert (await host.card()).loras == ("line",)
        host.configure(LiveConfig(lora_folder=str(inks)))
        assert (await host.card()).loras == ("ink", "wool")
        host.configure(LiveConfig(loras={"mine": str(inks / "ink.safetensors")}))
        assert (await host.card()).loras == ("line", "mine")
        for live in (
            LiveConfig(lora_folder=str(tmp_path / "none")),
            LiveConfig(loras={"x": str(checkpoints / "sd" / "unet")}),
        ):
            with pytest.raises(ValueError, match=r"x|none"):
                host.configure(live)
        assert (await host.card()).loras == ("line", "mine")
    finally:
        host.close()


# -- owners' own --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ink", "wool"])
def test_an_owners_lora_is_checked_and_draws_as_the_same_of_a_folder(
    checkpoints: Path, inks: Path, name: str
) -> None:
    family, path = start(checkpoints, lora_folder=str(inks)), inks / f"{name}.safetensors"
    checked = family.check_weights(source(path), 2**20)
    assert (checked.is_lora, checked.location) == (True, str(path))
    assert checked.parts == ("unet", "text_encoder")
    assert (checked.num_bytes, checked.digest) == (path.stat().st_size, digest_of(path))
    placed = loras_of(family).get(name).num_bytes
    assert checked.num_values * 4 == placed
    own = WeightsSource(id="pm_1", kind="path", location=str(path), num_values=checked.num_values)
    assert loras_of(family).missing_bytes([LoraUse(name="x", source=own)]) == placed
    mine = drawn(family, name="x", weight=0.8, source=own)
    assert np.abs(mine - drawn(family, name=name, weight=0.8)).max() <= 0.05
    assert np.abs(mine - drawn(family, name=name, weight=0.1)).mean() > 1
    assert [one.name for one in loras_of(family).holdings()] == sorted([name, "pm_1"])


def test_the_same_name_of_two_owners_is_two_loras_in_one_batch(
    checkpoints: Path, inks: Path
) -> None:
    family = start(checkpoints)
    anns = LoraUse(name="mine", source=source(inks / "ink.safetensors", name="pm_a"))
    bobs = LoraUse(name="mine", source=source(inks / "wool.safetensors", name="pm_b"))
    both = drawn_with(family, anns, bobs)
    for use, picture in ((anns, drawn_with(family, anns)), (bobs, drawn_with(family, bobs))):
        assert np.abs(picture - both).mean() > 1, use
    with pytest.raises(InvalidRequest, match="unknown LoRA 'mine'"):
        drawn_with(family, LoraUse(name="mine"))


def drawn_with(family: Family, *uses: LoraUse) -> np.ndarray:
    return draw(family, ask(guidance_scale=1.0, loras=uses))[0]


def test_a_folder_with_one_file_is_that_file(load: Load, inks: Path, tmp_path: Path) -> None:
    shutil.copy(inks / "ink.safetensors", tmp_path / "pytorch_lora_weights.safetensors")
    checked = load("sd").check_weights(source(tmp_path), 2**20)
    assert checked.is_lora
    assert checked.location == str(tmp_path / "pytorch_lora_weights.safetensors")


def test_checkpoints_are_no_loras(load: Load, checkpoints: Path) -> None:
    checked = load("sd").check_weights(source(checkpoints / "sd-user"), 2**40)
    assert (checked.is_lora, checked.digest) == (False, "")


def test_loras_that_do_not_fit_are_refused_in_words(load: Load, inks: Path, tmp_path: Path) -> None:
    layer = "unet.down_blocks.0.resnets.0.conv1"
    good = diffusers_form(factors(load("sd").base, seed=1))  # type: ignore[attr-defined]
    sdxl = diffusers_form(factors(load("sdxl").base, seed=1))  # type: ignore[attr-defined]
    name = next(iter(good))
    cases = {
        "another model's": (sdxl, "which this model has not|by factors of shapes|for a model"),
        "integers": ({**good, name: good[name].to(torch.int8)}, "is I8; accepted: BF16, F16"),
        "half a pair": ({f"{layer}.lora_A.weight": torch.zeros(2, 8, 3, 3)}, "upper factor"),
        "another kind": ({f"{layer}.hada_w1_a": torch.zeros(2, 2)}, "it is LoHa"),
    }
    for case, (tensors, words) in cases.items():
        path = write(tmp_path / "x.safetensors", tensors)
        with pytest.raises(InvalidRequest, match=words) as caught:
            load("sd").check_weights(source(path), 2**40)
        assert str(tmp_path) not in caught.value.message, case
    with pytest.raises(InvalidRequest, match="accepted: at most 1000"):
        load("sd").check_weights(source(inks / "ink.safetensors"), 1000)


@pytest.mark.parametrize(
    "configuration",
    [
        {"unet.lora_alpha": None},
        {"unet.lora_alpha": "x"},
        {"unet.lora_alpha": [1]},
        {"unet.lora_alpha": 1, "unet.alpha_pattern": [1]},
        {"unet.lora_alpha": 1, "unet.alpha_pattern": {"^": {}}},
    ],
)
def test_strange_configurations_are_refused_in_words(
    load: Load, tmp_path: Path, configuration: dict[str, Any]
) -> None:
    good = diffusers_form(factors(load("sd").base, seed=1))  # type: ignore[attr-defined]
    path = write(tmp_path / "x.safetensors", good, **configuration)
    if configuration.get("unet.alpha_pattern") == {"^": {}}:
        assert load("sd").check_weights(source(path), 2**40).is_lora
        return
    with pytest.raises(InvalidRequest, match="its configuration cannot be read"):
        load("sd").check_weights(source(path), 2**40)


def test_metadata_nested_without_end_is_refused(load: Load, tmp_path: Path) -> None:
    good = diffusers_form(factors(load("sd").base, seed=1))  # type: ignore[attr-defined]
    metadata = {"lora_adapter_metadata": "[" * 100_000}
    save_file(good, tmp_path / "x.safetensors", metadata)
    with pytest.raises(InvalidRequest, match="its configuration cannot be read"):
        load("sd").check_weights(source(tmp_path / "x.safetensors"), 2**40)


def test_an_owners_lora_that_is_gone_fails_the_request_alone(
    checkpoints: Path, tmp_path: Path
) -> None:
    family = start(checkpoints)
    with pytest.raises(GenerationFailed, match="LoRA 'mine' cannot be read"):
        drawn(family, name="mine", source=source(tmp_path / "gone.safetensors"))


def test_an_upload_in_a_bucket_is_checked_and_read(
    load: Load, inks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boto3 = pytest.importorskip("boto3")
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="pictures")
    client.upload_file(str(inks / "ink.safetensors"), "pictures", "weights/ink.safetensors")
    url = f"s3://pictures/weights/ink.safetensors?endpoint_url={endpoint}&region=us-east-1"
    family = load("sd")
    checked = family.check_weights(source(url, "upload"), 2**40)
    assert (checked.is_lora, checked.digest) == (True, digest_of(inks / "ink.safetensors"))
    assert loras_of(family).get("mine", source(url, "upload", "pm_s3")).num_bytes > 0
    client.close()
    server.stop()
    with pytest.raises(GenerationFailed, match="LoRA 'other' is out of reach"):
        loras_of(family).get("other", source(url, "upload", "pm_gone"))


@pytest.mark.parametrize("location", ["owner/name", "owner/name/ink.safetensors@main"])
def test_a_lora_of_the_hub_is_pinned_to_what_its_id_means_now(
    load: Load, inks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    files = {"README.md": b"", "ink.safetensors": (inks / "ink.safetensors").read_bytes()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (Hub,), {"files": files}))
    Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    checked = load("sd").check_weights(source(location, "hub"), 2**40)
    assert checked.location == f"owner/name/ink.safetensors@{COMMIT}"
    assert (checked.is_lora, checked.digest) == (True, digest_of(inks / "ink.safetensors"))
    with pytest.raises(InvalidRequest, match="accepted: at most 10"):
        load("sd").check_weights(source(location, "hub"), 10)
    server.shutdown()
    server.server_close()
