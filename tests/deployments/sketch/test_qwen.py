"""The embedded editor's modules before they are trained: what they can from the beginning."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from deployments.families.qwen_image_denoiser import grid, pack
from deployments.families.qwen_image_text import QwenText, image_processor
from deployments.sketch import begin_qwen, train_autoencoder, train_qwen, train_qwen_text
from deployments.sketch.lesson import Muon
from deployments.sketch.meaning import EDIT_QUESTIONS, edit_answers
from deployments.sketch.painter import paint
from deployments.sketch.questions import Questions
from deployments.sketch.qwen_beginning import (
    NUM_CONSTANTS,
    NUM_HELD,
    NUM_SAYING,
    hold,
    set_beginning,
)
from deployments.sketch.qwen_places import NUM_TELLING
from deployments.sketch.qwen_reader import QwenReader
from deployments.sketch.qwen_thumbnails import NUM_CHANNELS, qwen_latents
from deployments.sketch.scenes import Shape, Shapes, random_scene
from deployments.sketch.sheets import Format
from deployments.sketch.thumbnails import thumbnails

#: Minutes of a lesson of one step or two.
MOMENT = 1e-4
TINY = (Format(64, 64, 2),)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is begun, and not trained."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(begin_qwen, "_NUM_TEXTS", 200)
        begin_qwen.begin(folder, seed=0)
    return folder


def scenes(width: int, height: int) -> torch.Tensor:
    """Four pictures (4, 3, height, width), -1..1."""
    pictures = [np.asarray(paint(random_scene(Random(k)), width, height)) for k in range(4)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def test_the_encoder_makes_thumbnails(begun: Path) -> None:
    vae = AutoencoderKLQwenImage.from_pretrained(begun / "vae", torch_dtype=torch.float32)
    pixels = scenes(96, 64)
    latents = vae.encode(pixels[:, :, None]).latent_dist
    expected = thumbnails(pixels)
    assert (latents.mean[:, :NUM_CHANNELS, 0] - expected).abs().max() < 0.01
    assert latents.mean[:, NUM_CHANNELS:].abs().max() == 0
    assert latents.std.max() < 0.01


@torch.no_grad()
def test_the_decoder_enlarges_colours_and_sees_no_empty_channel(begun: Path) -> None:
    vae = AutoencoderKLQwenImage.from_pretrained(begun / "vae", torch_dtype=torch.float32)
    flat = torch.tensor([0.8, -0.5, 0.2]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    latents = qwen_latents(thumbnails(flat))
    drawn = vae.decode(latents[:, :, None]).sample[:, :, 0]
    assert (drawn - flat)[..., 16:-16, 16:-16].abs().max() < 0.1
    latents[:, NUM_CHANNELS:] = torch.randn_like(latents[:, NUM_CHANNELS:])
    assert torch.equal(vae.decode(latents[:, :, None]).sample[:, :, 0], drawn)


def denoiser(folder: Path) -> QwenImageTransformer2DModel:
    return QwenImageTransformer2DModel.from_pretrained(
        folder / "transformer", torch_dtype=torch.float32
    )


@torch.no_grad()
def flow(model: QwenImageTransformer2DModel, pictures: list[torch.Tensor], level: float) -> Any:
    """What the model says of the first of some ``thumbnails``; the others are references."""
    packed = [pack(qwen_latents(picture)) for picture in pictures]
    text = torch.randn(1, 200, 128, generator=torch.Generator().manual_seed(5))
    shapes = [[grid(picture) for picture in pictures]]
    said = model(
        torch.cat(packed, dim=1), text, timestep=torch.tensor([level]), img_shapes=shapes
    ).sample
    return said[:, : packed[0].shape[1], :NUM_SAYING]


@pytest.mark.parametrize("size", [(24, 32), (64, 64), (128, 36)])
@pytest.mark.parametrize("num_references", [0, 1, 2])
@pytest.mark.parametrize("level", [1.0, 0.6, 0.1])
def test_the_denoiser_copies_the_first_reference_exactly(
    begun: Path, num_references: int, level: float, size: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    noise, *references = torch.randn(1 + num_references, 1, 4, *size, generator=generator)
    clean = references[0] if references else torch.zeros_like(noise)
    noisy = (1 - level) * clean + level * noise
    said = flow(denoiser(begun), [noisy, *references], level)
    expected = pack(qwen_latents(noise - clean))[..., :NUM_SAYING]
    assert (level * (said - expected)).abs().mean() < 0.01


@torch.no_grad()
def found(folder: Path, number: int, picture: torch.Tensor, reference: torch.Tensor) -> Any:
    """What the heads of a layer find, (rows, columns, heads, size)."""
    model = denoiser(folder)
    heads: list[torch.Tensor] = []
    writing = model.transformer_blocks[number].attn.to_out[0]
    writing.register_forward_pre_hook(lambda _module, given: heads.append(given[0]))
    flow(model, [picture, reference], 0.5)
    _, rows, columns = grid(picture)
    own = heads[0][0, : rows * columns]
    return own.view(rows, columns, model.config.num_attention_heads, -1)


@pytest.mark.parametrize(
    ("size", "least"), [((16, 24), 0.1), ((64, 64), 0.2), ((96, 128), 0.2)], ids=str
)
def test_the_first_layer_tells_how_far_a_place_is_from_each_side(
    begun: Path, size: tuple[int, int], least: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    picture, reference = torch.randn(2, 1, 4, *size, generator=generator)
    places = found(begun, 0, picture, reference)[..., 2:, 0]
    for number, (axis, sign) in enumerate(((0, 1), (0, -1), (1, 1), (1, -1))):
        told = places[..., number]
        assert (told.diff(dim=axis) * sign > 0).all()
        assert (told.diff(dim=axis).sum(dim=axis) * sign > least).all()
        assert told.diff(dim=1 - axis).abs().max() < 0.02


def test_the_second_layer_sees_what_its_reference_holds_beside_a_place(begun: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    picture, reference = torch.randn(2, 1, 4, 32, 32, generator=generator)
    seen = found(begun, 1, picture, reference)[..., :NUM_SAYING]
    tokens = pack(qwen_latents(reference))[0, :, :NUM_SAYING].view(16, 16, -1)
    for head, (down, right) in enumerate(((-1, 0), (1, 0), (0, -1), (0, 1))):
        beside = tokens.roll((-down, -right), (0, 1))[1:-1, 1:-1]
        assert (seen[1:-1, 1:-1, head] - beside).abs().mean() < 0.05
    model = denoiser(begun)
    size = model.config.attention_head_dim
    values = model.transformer_blocks[1].attn.to_v.weight[: 4 * size].view(4, size, -1)
    assert (values[:, NUM_SAYING:] != 0).any(dim=-1).all()  # what is theirs to learn is not silent


def test_a_model_with_too_few_heads_cannot_begin() -> None:
    narrow = QwenImageTransformer2DModel(
        num_layers=2, num_attention_heads=4, attention_head_dim=32, axes_dims_rope=(8, 12, 12)
    )
    with pytest.raises(ValueError, match="4 heads; at least 6"):
        set_beginning(narrow)


def test_what_copies_stays_while_the_denoiser_learns(begun: Path) -> None:
    torch.manual_seed(0)
    model = denoiser(begun)
    hold(model)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    muon = Muon([model])
    picture, reference = torch.randn(2, 1, 4, 16, 16)
    pairs = [pack(qwen_latents(p)) for p in (picture, reference)]
    for _ in range(2):
        said = model(
            torch.cat(pairs, dim=1),
            torch.randn(1, 20, 128),
            timestep=torch.tensor([0.5]),
            img_shapes=[[grid(picture)] * 2],
        ).sample
        (said[..., :NUM_SAYING] - 1).square().mean().backward()
        muon.step(1e-2)
    changed = {name: tensor != before[name] for name, tensor in model.named_parameters()}
    copying, looking = (count * model.config.attention_head_dim for count in (2, 2 + NUM_TELLING))
    first = "transformer_blocks.0.attn"
    for name in ("to_q", "to_k", "to_v", "add_k_proj", "add_v_proj"):
        for part in ("weight", "bias"):
            assert not changed[f"{first}.{name}.{part}"][:looking].any()
    for name in ("norm_q", "norm_k", "norm_added_k"):
        assert not changed[f"{first}.{name}.weight"].any()
    assert not changed[f"{first}.to_out.0.weight"][:, :copying].any()
    assert changed[f"{first}.to_out.0.weight"][:, copying:looking].any()
    modulated = changed["transformer_blocks.0.img_mod.1.weight"].view(6, model.inner_dim, -1)
    assert not modulated[:3, :NUM_HELD].any()
    scaled = changed["norm_out.linear.weight"].view(2, model.inner_dim, -1)
    assert not scaled[:, :NUM_HELD].any()
    assert not changed["proj_out.weight"][:, :NUM_HELD].any()
    for name in ("img_in.weight", "time_text_embed.timestep_embedder.linear_1.weight"):
        assert not changed[name].any()
    for number in range(len(model.transformer_blocks)):
        for name in ("attn.to_out.0", "img_mlp.net.2"):
            written = changed[f"transformer_blocks.{number}.{name}.weight"]
            assert not written[:NUM_HELD].any()
            assert written[NUM_HELD:-NUM_CONSTANTS].any()
    for part in (modulated[:3], scaled, changed["proj_out.weight"][None]):
        assert part.any()
    for name in ("to_q", "to_k", "to_v", "add_k_proj", "add_v_proj"):
        assert changed[f"transformer_blocks.1.attn.{name}.weight"].any()
    assert changed["transformer_blocks.1.attn.to_out.0.weight"].any()


@torch.no_grad()
def test_the_reader_reads_as_the_family_does(begun: Path) -> None:
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        begun / "text_encoder", dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(begun / "tokenizer")
    text = QwenText(tokenizer, model, image_processor(str(begun)), torch.device("cpu"))
    reader = QwenReader(tokenizer, model)
    prompts = ["a red circle", "put the star of image 2 on image 1, please"]
    drawn, mask = reader.read(prompts, [(), ()])
    for row, kept, prompt in zip(drawn, mask, prompts, strict=True):
        assert torch.allclose(row[kept], text.encode(prompt, (), None)[0], atol=1e-4)
    pictures = [Image.new("RGB", (384, 384)), Image.new("RGB", (448, 320), (200, 30, 0))]
    edited, mask = reader.read(prompts[1:], [[(14, 14), (11, 16)]])
    expected = text.encode(prompts[1], pictures, None)[0]
    assert torch.allclose(edited[0][mask[0]], expected, atol=1e-4)


def test_begin_writes_the_same_files_twice(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(begin_qwen, "_NUM_TEXTS", 200)
    begin_qwen.begin(tmp_path, seed=0)
    assert files(tmp_path) == files(begun)


def files(folder: Path) -> dict[Path, bytes]:
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.*")}


def test_every_trainer_trains_on(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_qwen, "_PLAN", ((0.0, TINY, TINY),))
    monkeypatch.setattr(train_autoencoder, "_SIZES", (((64, 64), 2),))
    monkeypatch.setattr(train_qwen_text, "_BATCH", 4)
    before = {file: file.read_bytes() for file in begun.rglob("*.safetensors")}
    train_qwen_text.teach(begun, MOMENT, seed=0)
    train_autoencoder.teach(begun / "vae", MOMENT, seed=0)
    for drawing in (0.0, 1.0):
        old = text_encoder(begun)
        train_qwen.teach(begun, MOMENT, begin=0.0, drawing=drawing, rate=1e-2, seed=0)
        learnt = {
            name for name, of in text_encoder(begun).items() if not torch.equal(of, old[name])
        }
        assert learnt
        assert not any("visual" in name for name in learnt)
    assert len(before) == 3
    assert all(file.read_bytes() != old for file, old in before.items())
    transformer = QwenImageTransformer2DModel.from_pretrained(begun / "transformer")
    assert not transformer.img_in.weight[:, NUM_SAYING:].any()


def text_encoder(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "text_encoder" / "model.safetensors")


def test_all_shapes_stand_apart_from_their_ground() -> None:
    shape = Shape(kind="square", colour="red", x=0.3, y=0.3, radius=0.1)
    other = replace(shape, colour="blue", x=0.7, y=0.7)
    scene = Shapes(ground="white", layout="single", shapes=(shape, other))
    pixels = torch.from_numpy(np.array(paint(scene, 128, 128))).permute(2, 0, 1)[None]
    apart = train_qwen._apart(thumbnails(pixels / 127.5 - 1))[0, 0]
    assert apart[4, 4]
    assert apart[11, 11]
    assert not apart[11, 4]
    assert apart.float().mean() < 0.15


@pytest.mark.parametrize(
    ("share", "grids"), [(1.0, [(14, 14)]), (0.25, [(7, 7)]), (1 / 16, [(3, 3)])]
)
def test_small_pictures_are_seen_in_fewer_tokens(
    share: float, grids: list[tuple[int, int]]
) -> None:
    assert train_qwen._grids([torch.zeros(1, 4, 64, 64)], share) == grids


def test_edit_answers_count_from_one_and_leave_out_what_nobody_asked() -> None:
    answers = edit_answers({"edit": "add", "thing": "sun"})
    told = dict(zip(EDIT_QUESTIONS, answers, strict=True))
    assert (told["edit"], told["thing"]) == (2, 1)
    assert sum(answers) == 3


def test_two_workers_learn_from_the_command_line(begun: Path, tmp_path: Path) -> None:
    """The step is on edits, which asks everything that a lesson asks."""
    taught = []
    for num_workers in (1, 2):
        folder = shutil.copytree(begun, tmp_path / str(num_workers))
        command = [sys.executable, "-m", "deployments.sketch.train_qwen", str(folder)]
        options = ["--minutes", str(MOMENT), "--workers", str(num_workers), "--drawing", "0"]
        subprocess.run([*command, *options], check=True, timeout=300)
        [file] = (folder / "transformer").glob("*.safetensors")
        taught.append(load_file(file))
    alone, together = taught
    before = load_file(begun / "transformer" / file.name)
    assert {name: of.shape for name, of in together.items()} == {
        name: of.shape for name, of in before.items()
    }
    assert any(not torch.equal(together[name], before[name]) for name in before)
    assert any(not torch.equal(together[name], alone[name]) for name in before)


@torch.no_grad()
def test_what_is_heard_behind_layers_are_the_pictures_tokens(begun: Path) -> None:
    model = QwenImageTransformer2DModel.from_pretrained(begun / "transformer")
    questions = Questions(model.inner_dim)
    with questions.listening(model) as heard:
        model(
            hidden_states=torch.randn(1, 16 + 4, 64),
            timestep=torch.ones(1),
            encoder_hidden_states=torch.randn(1, 3, model.config.joint_attention_dim),
            img_shapes=[[(1, 4, 4), (1, 2, 2)]],
            return_dict=False,
        )
    assert sorted(heard) == [2, 3, 4, 5]
    assert {tokens.shape for tokens in heard.values()} == {(1, 20, model.inner_dim)}
