"""Checkpoints made small, spread and offloaded: what a CPU can run of it, and what it refuses."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import QwenImagePipeline
from PIL import Image

from deployments.config import ModelConfig
from deployments.families import family_class
from deployments.families.base import Family
from deployments.families.offload import Offload
from deployments.families.qwen_image import QwenImage
from deployments.families.qwen_image_checkpoint import read_checkpoint
from deployments.families.qwen_image_placement import ENTRANCES
from deployments.families.qwen_image_text import image_processor
from deployments.opening import open_engine
from tests.deployments.families.driver import draw
from tests.deployments.families.qwen_image.stock import REFERENCE_PIXELS
from tests.deployments.families.qwen_image.test_golden import difference, scene, want

Load = Callable[..., Family]


def edit() -> Any:
    return want("make it red", images=(scene(),))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("quantization", "levels"), [("int8", 8.0), ("fp8", 40.0)])
def test_quantized_weights_are_smaller_and_draw_nearly_the_same(
    load_qwen: Load, quantization: str, levels: float
) -> None:
    pytest.importorskip("torchao")
    whole, small = load_qwen("qwen-edit"), load_qwen("qwen-edit", quantization=quantization)
    assert small.load_weights(None).num_bytes < 0.8 * whole.load_weights(None).num_bytes
    [expected], [picture] = draw(whole, edit()), draw(small, edit())
    assert 0 < np.abs(picture - expected).mean() < levels


@pytest.mark.filterwarnings("ignore")
def test_quantized_rows_are_alone_as_together(load_qwen: Load) -> None:
    pytest.importorskip("torchao")
    family = load_qwen("qwen-edit", quantization="int8")
    requests = [edit(), want("remove it", images=(scene(turn=0.4),), true_cfg_scale=1.0)]
    for one, request in zip(draw(family, *requests), requests, strict=True):
        assert difference(one, draw(family, request)[0]) <= 1


def test_offloaded_layers_draw_the_same(load_qwen: Load) -> None:
    offloaded = load_qwen("qwen-edit", offload="group")
    [expected], [picture] = draw(load_qwen("qwen-edit"), edit()), draw(offloaded, edit())
    assert difference(picture, expected) <= 0.01


def test_offload_keeps_the_one_that_was_called_last() -> None:
    moves: list[tuple[str, str]] = []

    class Module(torch.nn.Linear):
        def __init__(self, name: str) -> None:
            super().__init__(1, 1)
            self.name = name

        def to(self, device: Any) -> Any:  # type: ignore[override]
            moves.append((self.name, str(device)))
            return self

    one, other = Module("one"), Module("other")
    offload = Offload(torch.device("meta"))
    for module in (one, other):
        offload.add(module, [module])
    moves.clear()
    for module in (one, one, other, one):
        module(torch.zeros(1))
    assert moves == [
        ("one", "meta"),
        *[("one", "cpu"), ("other", "meta")],
        *[("other", "cpu"), ("one", "meta")],
    ]


def test_offload_is_entered_wherever_a_module_is_called(
    load_qwen: Load, qwen_checkpoints: Path
) -> None:
    config = ModelConfig(
        family="qwen-image",
        weights=str(qwen_checkpoints / "qwen-edit"),
        reference_pixels=REFERENCE_PIXELS,
    )
    checkpoint = read_checkpoint(config, "cpu", "float32")
    offload = Offload(torch.device("cpu"))
    present: list[str] = []
    for name, entrances in ENTRANCES.items():
        part = getattr(checkpoint.pipeline, name)
        offload.add(part, [part.get_submodule(entrance) for entrance in entrances])
        for submodule in part.modules():
            if not list(submodule.children()):
                submodule.register_forward_pre_hook(
                    lambda *_, part=part: present.append(str(offload.present is part))
                )
    [picture] = draw(QwenImage(config, checkpoint), edit())
    assert set(present) == {"True"}
    assert difference(picture, draw(load_qwen("qwen-edit"), edit())[0]) <= 0.01


def test_tiles_draw_nearly_the_same(load_qwen: Load) -> None:
    tiled = load_qwen("qwen", vae_tiling=True)
    assert tiled.base.vae.use_tiling
    request = want(width=320, height=64)
    [expected], [picture] = draw(load_qwen("qwen"), request), draw(tiled, request)
    assert np.abs(picture - expected).mean() < 40


@pytest.fixture(scope="module")
def gguf_file(load_qwen: Load, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny denoiser, eight bits a weight where the format can."""
    gguf = pytest.importorskip("gguf")
    whole: Any = load_qwen("qwen")
    file = tmp_path_factory.mktemp("gguf") / "transformer.gguf"
    writer = gguf.GGUFWriter(str(file), "qwen_image")
    for name, tensor in whole.base.transformer.state_dict().items():
        values = tensor.numpy()
        if values.ndim == 2 and values.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_gguf_file_is_the_denoiser(load_qwen: Load, gguf_file: Path) -> None:
    small = load_qwen("qwen", gguf=str(gguf_file))
    [expected], [picture] = draw(load_qwen("qwen"), want()), draw(small, want())
    assert 0 < np.abs(picture - expected).mean() < 8


def test_a_gguf_file_that_is_not_there_is_named(qwen_checkpoints: Path) -> None:
    config = ModelConfig(
        family="qwen-image", weights=str(qwen_checkpoints / "qwen"), gguf="no/such.gguf"
    )
    with pytest.raises(ValueError, match=r"no gguf file 'no/such.gguf'; accepted: a path, or http"):
        read_checkpoint(config, "cpu", "float32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="whole"),
        pytest.param({"offload": "group"}, id="offloaded"),
        pytest.param({"vae_tiling": True}, id="tiled"),
        pytest.param({"gguf": ""}, id="gguf"),
        pytest.param({"gguf": "", "offload": "group"}, id="gguf and offloaded"),
    ],
)
def test_every_dtype_draws_nearly_the_same(
    load_qwen: Load, qwen_checkpoints: Path, gguf_file: Path, dtype: str, options: dict[str, Any]
) -> None:
    own = {**options, "gguf": str(gguf_file)} if "gguf" in options else options
    config = ModelConfig(
        family="qwen-image",
        weights=str(qwen_checkpoints / "qwen-edit"),
        reference_pixels=REFERENCE_PIXELS,
        **own,
    )
    half: Any = family_class("qwen-image").load(config, "cpu", dtype)
    parts = half.base.transformer, half.base.text_encoder, half.base.vae
    assert {part.dtype for part in parts} == {getattr(torch, dtype)}
    [expected], [picture] = draw(load_qwen("qwen-edit"), edit()), draw(half, edit())
    assert 0 < np.abs(picture - expected).mean() < 12


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_quantized_layers_may_wait_elsewhere(load_qwen: Load, quantization: str) -> None:
    pytest.importorskip("torchao")
    small = load_qwen("qwen-edit", quantization=quantization)
    waiting = load_qwen("qwen-edit", quantization=quantization, offload="group")
    [expected], [picture] = draw(small, edit()), draw(waiting, edit())
    assert difference(picture, expected) <= 0.01


@pytest.mark.parametrize(
    ("options", "text"),
    [
        pytest.param({"quantization": "nf4"}, "'nf4' needs a CUDA device", id="nf4"),
        pytest.param({"offload": "model"}, "'model' needs a CUDA device", id="offload"),
        pytest.param({"device_map": "balanced"}, "'balanced' needs a CUDA", id="balanced"),
        pytest.param({"attention_slicing": True}, "nothing to slice", id="slicing"),
        pytest.param({"gguf": "a.gguf", "quantization": "int8"}, "quantized already", id="twice"),
    ],
)
def test_what_cannot_be_done_here_is_said_at_start(
    qwen_checkpoints: Path, options: dict[str, Any], text: str
) -> None:
    config = ModelConfig(family="qwen-image", weights=str(qwen_checkpoints / "qwen"), **options)
    with pytest.raises(ValueError, match=text):
        read_checkpoint(config, "cpu", "float32")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        pytest.param(
            {"device_map": "balanced", "offload": "model"},
            "places the modules itself: it takes no offload",
            id="spread and offloaded",
        ),
        pytest.param(
            {"device_map": "balanced", "quantization": "nf4"},
            "'nf4' reads onto one GPU: it takes no device_map",
            id="spread in four bits",
        ),
        pytest.param(
            {"quantization": "fp8"}, "takes dtype 'bfloat16', not 'float16'", id="fp8 of float16"
        ),
    ],
)
def test_what_no_gpu_can_do_is_said_at_start(
    qwen_checkpoints: Path, options: dict[str, Any], text: str
) -> None:
    config = ModelConfig(family="qwen-image", weights=str(qwen_checkpoints / "qwen"), **options)
    with pytest.raises(ValueError, match=text):
        read_checkpoint(config, "cuda", "float16")


def test_a_missing_package_is_named(
    qwen_checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    config = ModelConfig(
        family="qwen-image", weights=str(qwen_checkpoints / "qwen"), quantization="int8"
    )
    with pytest.raises(ValueError, match="'int8' needs a package: pip install torchao"):
        read_checkpoint(config, "cpu", "float32")


def test_other_families_refuse_what_only_some_heed() -> None:
    for options in ({"offload": "none"}, {"reference_pixels": 4096}):
        with pytest.raises(ValueError, match="is not for family 'fake'"):
            open_engine(ModelConfig(family="fake", **options))


def test_the_model_folder_of_the_environment_comes_first(
    qwen_checkpoints: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = ModelConfig(
        family="qwen-image", weights="no/such/folder", aliases=("Qwen/qwen-edit", "qwen")
    )
    monkeypatch.setenv("QWEN_MODEL_DIR", str(qwen_checkpoints))
    assert read_checkpoint(config, "cpu", "float32").images is not None
    monkeypatch.setenv("QWEN_MODEL_DIR", str(qwen_checkpoints / "qwen"))
    assert read_checkpoint(config, "cpu", "float32").images is None
    monkeypatch.setenv("QWEN_MODEL_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="QWEN_MODEL_DIR holds no diffusers checkpoint"):
        read_checkpoint(config, "cpu", "float32")


def test_the_device_map_of_the_environment_is_a_wish_on_a_cpu(
    qwen_checkpoints: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = ModelConfig(family="qwen-image", weights=str(qwen_checkpoints / "qwen"))
    monkeypatch.setenv("DEVICE_MAP", "balanced")
    with caplog.at_level(logging.WARNING):
        read_checkpoint(config, "cpu", "float32")
    assert "DEVICE_MAP=balanced, but there is no GPU" in caplog.text
    monkeypatch.setenv("DEVICE_MAP", "auto")
    with pytest.raises(ValueError, match="unknown DEVICE_MAP 'auto'; known: cuda, balanced"):
        read_checkpoint(config, "cpu", "float32")


@pytest.mark.parametrize(("named", "used"), [(None, 0), (1024, 1024), (0, 0)])
def test_a_checkpoint_tells_how_much_it_sees_of_references(
    qwen_checkpoints: Path, named: int | None, used: int
) -> None:
    config = ModelConfig(
        family="qwen-image", weights=str(qwen_checkpoints / "qwen-edit"), reference_pixels=named
    )
    assert read_checkpoint(config, "cpu", "float32").reference_pixels == used
    plain = ModelConfig(family="qwen-image", weights=str(qwen_checkpoints / "qwen"))
    assert read_checkpoint(plain, "cpu", "float32").reference_pixels == 1024 * 1024


def test_references_of_next_to_no_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1024"):
        ModelConfig(family="qwen-image", reference_pixels=500)


def test_a_distilled_checkpoint_fails_at_start_where_its_guidance_is_not_heard(
    qwen_checkpoints: Path, tmp_path: Path
) -> None:
    """As it would at its first step: there is no layer for the scale."""
    folder = tmp_path / "distilled"
    shutil.copytree(qwen_checkpoints / "qwen", folder)
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "guidance_embeds": True}))
    config = ModelConfig(family="qwen-image", weights=str(folder))
    with pytest.raises(ValueError, match=r"guidance_embeds: true, but .* no layer .* to one scale"):
        read_checkpoint(config, "cpu", "float32")
    stock = QwenImagePipeline.from_pretrained(folder)
    with pytest.raises(TypeError, match="positional arguments"):
        stock("a lake", width=64, height=64, num_inference_steps=2, guidance_scale=3.0)


def test_the_real_processor_s_configuration_is_read(tmp_path: Path) -> None:
    """As Qwen/Qwen-Image-Edit-2509, processor/preprocessor_config.json, which names a class of
    torchvision's."""
    told = {
        "default_to_square": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "max_pixels": 12845056,
        "merge_size": 2,
        "min_pixels": 3136,
        "patch_size": 14,
        "processor_class": "Qwen2VLProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"longest_edge": 12845056, "shortest_edge": 3136},
        "temporal_patch_size": 2,
    }
    (tmp_path / "processor").mkdir()
    (tmp_path / "processor" / "preprocessor_config.json").write_text(json.dumps(told))
    images = image_processor(str(tmp_path))
    seen = images(images=[Image.new("RGB", (544, 256))], return_tensors="pt")
    assert seen["image_grid_thw"].tolist() == [[1, 18, 38]]
    assert seen["pixel_values"].shape == (18 * 38, 3 * 2 * 14 * 14)
