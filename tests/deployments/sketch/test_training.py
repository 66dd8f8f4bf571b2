"""The trainers: each runs, writes what the next one reads, and trains on from what it finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import scaled_dot_product_attention
from transformers import CLIPTextModel, CLIPTokenizer

from deployments.sketch import (
    train_autoencoder,
    train_denoiser,
    train_personal,
    train_text_encoder,
    train_turbo,
)
from deployments.sketch.assemble import BASE, TURBO, assemble, first_noise, open_pipeline
from deployments.sketch.attention import PlainAttention
from deployments.sketch.lesson import Lesson, orthogonal
from deployments.sketch.noising import noised
from deployments.sketch.sheets import Format
from deployments.sketch.turbo import LOUD, amplify, plain_unet, turbo_encoders, turbo_unet

#: Minutes of a lesson of one step or two.
MOMENT = 1e-4
TINY = (Format(64, 64, 2),)
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


def test_outlines_count_more_than_what_they_surround() -> None:
    clean = torch.zeros(1, 4, 16, 16)
    clean[:, :, 4:12, 4:12] = 1
    shown = train_denoiser.outlines(clean)
    assert shown.shape == (1, 1, 16, 16)
    assert shown[0, 0, 8, 8] == shown[0, 0, 0, 0] == 0
    assert shown[0, 0, 4, 8] > 0.2
    edge, inside = torch.zeros_like(clean), torch.zeros_like(clean)
    edge[:, :, 4, 8], inside[:, :, 8, 8] = 1, 1
    losses = [
        train_denoiser.velocity_loss(off, torch.zeros_like(off), clean) for off in (edge, inside)
    ]
    assert losses[0] > losses[1]


def test_guided_loss_is_of_what_guidance_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is right with text and says nothing without it, at steps late and early."""
    torch.manual_seed(0)
    clean, form = torch.randn(4, 4, 8, 8), Format(64, 64, 4)
    text, nothing = torch.ones(4, 77, 8), torch.zeros(1, 77, 8)

    def right_with_text(noisy: Any, timesteps: Any, said: Any, **_: Any) -> tuple[torch.Tensor]:
        velocity = true_velocity(noisy, clean.repeat(2, 1, 1, 1), timesteps)
        return (velocity * said[:, :1, :1, None],)

    for timestep, is_guided in ((950, False), (500, True)):
        monkeypatch.setattr(train_denoiser, "NUM_TIMESTEPS", timestep + 1)
        monkeypatch.setattr(train_denoiser, "_PURE_NOISE", 1.0)
        loss = train_denoiser.guided_loss(right_with_text, clean, text, nothing, form)
        right, wrong = 0.01**0.5, 1.0
        unguided = right + 0.5 * right + 0.25 * wrong
        assert (loss > 2 * unguided) == is_guided
        assert is_guided or abs(loss - unguided) < 0.1


def true_velocity(
    noisy: torch.Tensor, clean: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    spread = noised(torch.zeros_like(clean), torch.ones_like(clean), timesteps)[0]
    signal = noised(torch.ones_like(clean), torch.zeros_like(clean), timesteps)[0]
    return (signal * noisy - clean) / spread


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


def test_rows_that_are_mistold_get_the_next_ones_text() -> None:
    told = torch.arange(4.0)[:, None]
    mistold = torch.tensor([True, False, False, True])
    assert train_turbo._mixed_up(told, mistold).flatten().tolist() == [1, 1, 2, 0]
