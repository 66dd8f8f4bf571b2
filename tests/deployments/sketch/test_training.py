"""The trainers: each runs, writes what the next one reads, and trains on from what it finds."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import scaled_dot_product_attention
from transformers import CLIPTextModel, CLIPTokenizer

from deployments.sketch import (
    lesson,
    train_autoencoder,
    train_denoiser,
    train_personal,
    train_text_encoder,
    train_turbo,
)
from deployments.sketch.assemble import BASE, TURBO, assemble, first_noise, open_pipeline
from deployments.sketch.attention import PlainAttention
from deployments.sketch.lesson import Lesson, fast_dtype, orthogonal
from deployments.sketch.sheets import Format
from deployments.sketch.turbo import LOUD, amplify, plain_unet, turbo_encoders, turbo_unet

#: Minutes of a lesson of one step or two.
MOMENT = 1e-4
# NOTE: at 64 pixels the last strided convolution sees a single place; there oneDNN leaves bfloat16
# gradients of its weights partly unwritten, as whatever was in memory.
TINY = (Format(128, 128, 2),)
PROMPTS = ["a red circle on a blue background", "mountains at night", ""]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all trainers leave after a moment each, as whole folders."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_text_encoder, "_NUM_CAPTIONS", 300)
        patch.setattr(train_autoencoder, "_SIZES", (((64, 64), 2),))
        patch.setattr(train_denoiser, "_PLAN", ((0.0, ((1.0, TINY),)),))
        patch.setattr(train_turbo, "_KINDS", ((1.0, TINY),))
        patch.setattr(train_personal, "_FORMS", TINY)
        train_text_encoder.teach(root / BASE, MOMENT, seed=0)
        train_autoencoder.teach(root / BASE / "vae", MOMENT, seed=0)
        for is_guided in (False, True):
            train_denoiser.teach(
                root / BASE, MOMENT, begin=0.0, times=2, seed=0, rate=2e-2, is_guided=is_guided
            )
        train_personal.teach(root / "user", root / BASE, "user_123", MOMENT, seed=0)
        for huge in (0.0, 1.0):
            patch.setattr(train_turbo, "HUGE", TINY)
            train_turbo.teach(
                root / TURBO, root / BASE, MOMENT, rate=1e-3, huge=huge, times=1, seed=0
            )
    assemble(root)
    return root


@pytest.mark.parametrize("name", [BASE, TURBO])
def test_assembled_folders_draw(weights: Path, name: str) -> None:
    pipeline = open_pipeline(weights / name)
    options = {"height": 64, "width": 96, "num_inference_steps": 2, "guidance_scale": 2.0}
    pictures = pipeline(PROMPTS[0], generator=first_noise(1), output_type="np", **options).images
    assert pictures.shape == (1, 64, 96, 3)
    assert np.isfinite(pictures).all()


def test_trained_folders_hold_half_precision_and_no_pickles(weights: Path) -> None:
    files = [file for file in weights.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".json", ".safetensors"}
    for name in (BASE, TURBO):
        sizes = [file.stat().st_size for file in (weights / name).rglob("*") if file.is_file()]
        assert sum(sizes) <= 25 * 2**20
    for file in files:
        if file.suffix == ".safetensors":
            assert all(t.dtype == torch.float16 for t in load_file(file).values())


def test_a_users_parts_fit_the_base(weights: Path) -> None:
    for part in ("unet", "text_encoder"):
        [file] = (weights / "user" / part).glob("*.safetensors")
        own, base = load_file(file), load_file(weights / BASE / part / file.name)
        assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in base.items()}


@torch.no_grad()
def test_turbo_begins_with_the_same_predictions(weights: Path) -> None:
    folder = weights / BASE
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
    unet = train_denoiser.read_unet(folder / "unet").eval()
    noisy, timesteps = torch.randn(3, 4, 16, 16), torch.tensor([999, 500, 10])
    text = train_denoiser.embed(tokenizer, encoder, PROMPTS)
    expected = unet(noisy, timesteps, text).sample
    text, pooled = turbo_text(tokenizer, encoder)
    added = {"text_embeds": pooled, "time_ids": torch.ones(3, 6)}
    drawn = turbo_unet(unet)(noisy, timesteps, text, added_cond_kwargs=added).sample
    assert (drawn - expected).abs().mean() < 0.02 * expected.std()


@torch.no_grad()
def test_turbo_is_trained_with_what_its_encoders_say(weights: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(weights / BASE / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(weights / BASE / "text_encoder", dtype=torch.float32)
    text, pooled = train_turbo.embed(tokenizer, encoder.eval(), PROMPTS)
    said, said_pooled = turbo_text(tokenizer, encoder)
    assert (text - said / LOUD).abs().mean() < 0.02
    assert torch.allclose(pooled, said_pooled, atol=0.02)


def turbo_text(tokenizer: Any, encoder: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What SDXL's pipeline takes from both encoders."""
    ids = train_denoiser.tokens(tokenizer, PROMPTS)
    models = [model.eval() for model in turbo_encoders(tokenizer, encoder)]
    outputs = [model(ids, output_hidden_states=True) for model in models]
    return torch.cat([o.hidden_states[-2] for o in outputs], dim=-1), outputs[1].text_embeds


def test_plain_unet_takes_the_first_model_out_of_turbo_again(weights: Path) -> None:
    trained = train_denoiser.read_unet(weights / BASE / "unet")
    plain = plain_unet(turbo_unet(trained)).state_dict()
    for name, tensor in trained.state_dict().items():
        assert torch.allclose(plain[name], tensor, atol=1e-5)


def test_amplify_is_undone_by_its_inverse(weights: Path) -> None:
    trained = train_denoiser.read_unet(weights / TURBO / "unet")
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    after = amplify(amplify(trained, 16.0), 1 / 16).state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_turbo_unet_refuses_another_architecture(weights: Path) -> None:
    unet = train_denoiser.read_unet(weights / TURBO / "unet")
    with pytest.raises(ValueError, match="do not fit"):
        turbo_unet(torch.nn.ModuleDict({"other": unet}))


def test_orthogonal_brings_all_singular_values_near_one() -> None:
    for shape in ((8, 32), (32, 8)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonal(matrix))
        assert ((values > 0.5) & (values < 1.4)).all()


def test_a_lesson_on_guidance_changes_turbo_alone(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (BASE, TURBO):
        shutil.copytree(weights / name, tmp_path / name)
    monkeypatch.setattr(train_turbo, "_KINDS", ((1.0, TINY),))
    train_turbo.teach(
        tmp_path / TURBO,
        tmp_path / BASE,
        MOMENT,
        rate=1e-2,
        huge=0.0,
        times=1,
        seed=0,
        guidance=2.0,
    )
    [turbo], [plain] = ((tmp_path / n / "unet").glob("*.safetensors") for n in (TURBO, BASE))
    assert turbo.read_bytes() != (weights / TURBO / "unet" / turbo.name).read_bytes()
    assert plain.read_bytes() == (weights / BASE / "unet" / plain.name).read_bytes()


def test_two_workers_begin_turbo_and_learn_from_the_command_line(
    weights: Path, tmp_path: Path
) -> None:
    taught = []
    for num_workers in (1, 2):
        folder = tmp_path / str(num_workers)
        base = shutil.copytree(weights / BASE, folder / BASE)
        command = [sys.executable, "-m", "deployments.sketch.train_turbo", str(folder / TURBO)]
        options = ["--start", str(base), "--minutes", str(MOMENT), "--workers", str(num_workers)]
        subprocess.run([*command, *options], check=True, timeout=300)
        turbo, plain = (
            load_file(next((folder / name / "unet").glob("*.safetensors")))
            for name in (TURBO, BASE)
        )
        assert set(plain) < set(turbo)
        taught.append(plain["conv_in.weight"])
    [begun] = (weights / BASE / "unet").glob("*.safetensors")
    alone, together = taught
    assert not torch.equal(alone, load_file(begun)["conv_in.weight"])
    assert not torch.equal(alone, together)


def test_two_workers_learn_guidance_from_the_command_line(weights: Path, tmp_path: Path) -> None:
    base = shutil.copytree(weights / BASE, tmp_path / BASE)
    command = [sys.executable, "-m", "deployments.sketch.train_denoiser", str(base), "--guided"]
    options = ["--minutes", str(MOMENT), "--workers", "2"]
    subprocess.run([*command, *options], check=True, timeout=300)
    [begun], [taught] = ((f / "unet").glob("*.safetensors") for f in (weights / BASE, base))
    assert begun.read_bytes() != taught.read_bytes()
    assert all(value.isfinite().all() for value in load_file(taught).values())


def test_a_step_whose_gradient_is_not_finite_is_left_out() -> None:
    fast_dtype()  # measured before the lesson's clock runs
    layer = torch.nn.Linear(8, 8)
    begun = layer.weight.detach().clone()
    losses = iter([torch.inf, 1.0])
    steps: list[torch.Tensor] = []

    def loss(_progress: float) -> torch.Tensor:
        steps.append(layer.weight.detach().clone())
        worth: torch.Tensor = layer.weight.sum() * next(losses, 1.0)
        return worth

    Lesson([layer], minutes=1e-2, rate=1e-2, memory=0.9).run(loss, lambda _: None)
    assert torch.equal(steps[1], begun)
    assert not torch.equal(layer.weight, begun)
    assert bool(layer.weight.isfinite().all())


def test_plain_attention_is_attention() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 10, 8, generator=generator)
    mask = torch.ones(2, 1, 1, 10, dtype=torch.bool)
    mask[1, ..., 6:] = False
    for seen in (None, mask):
        expected = scaled_dot_product_attention(query, key, value, attn_mask=seen)
        with PlainAttention():
            drawn = scaled_dot_product_attention(query, key, value, attn_mask=seen)
        assert torch.allclose(drawn, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_forward_pass_attends_plainly_in_bfloat16_alone(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the fused one can be told to look back alone."""
    monkeypatch.setattr(lesson, "fast_dtype", lambda: dtype)
    rows = torch.randn(1, 1, 4, 8)
    with lesson.forward_pass(torch.device("cpu")):
        assert (rows @ rows.mT).dtype == dtype
        attended = scaled_dot_product_attention(rows, rows, rows)
        is_plain = pytest.raises(AssertionError) if dtype == torch.bfloat16 else nullcontext()
        with is_plain:
            scaled_dot_product_attention(rows, rows, rows, is_causal=True)
    assert attended.shape == rows.shape


def test_a_lesson_learns_and_saves_the_average(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.SiLU(), torch.nn.Linear(16, 8))
    inputs = torch.randn(64, 8)
    losses: list[float] = []
    saved: list[torch.nn.Module] = []

    def loss(progress: float) -> torch.Tensor:
        assert 0 <= progress < 1
        value: torch.Tensor = (model(inputs) - inputs.roll(1, dims=1)).square().mean()
        losses.append(float(value.detach()))
        return value

    lesson = Lesson([model], minutes=0.02, rate=3e-2, memory=0.9)
    lesson.run(loss, saved.extend)
    assert losses[-1] < 0.3 * losses[0]
    assert saved[-1] is not model
    assert float((saved[-1](inputs) - inputs.roll(1, dims=1)).square().mean()) < 0.5 * losses[0]
