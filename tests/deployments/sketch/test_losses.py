"""Losses: what lessons for denoisers want of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from deployments.sketch import guided, noising, train_turbo, velocity
from deployments.sketch.noising import noised
from deployments.sketch.sheets import Format


def always(timestep: int) -> Callable[[int, Format], torch.Tensor]:
    return lambda count, _: torch.full((count,), timestep)


def test_outlines_count_more_than_what_they_surround() -> None:
    clean = torch.zeros(1, 4, 16, 16)
    clean[:, :, 4:12, 4:12] = 1
    shown = velocity.outlines(clean)
    assert shown.shape == (1, 1, 16, 16)
    assert shown[0, 0, 8, 8] == shown[0, 0, 0, 0] == 0
    assert shown[0, 0, 4, 8] > 0.2
    edge, inside = torch.zeros_like(clean), torch.zeros_like(clean)
    edge[:, :, 4, 8], inside[:, :, 8, 8] = 1, 1
    losses = [velocity.velocity_loss(off, torch.zeros_like(off), clean) for off in (edge, inside)]
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
        monkeypatch.setattr(guided, "random_timesteps", always(timestep))
        loss = guided.guided_loss(right_with_text, clean, text, nothing, form)
        right, wrong = 0.01**0.5, 1.0
        unguided = right + 0.5 * right + 0.25 * wrong
        assert (loss > 2 * unguided) == is_guided
        assert is_guided or abs(loss - unguided) < 0.1


@pytest.mark.parametrize(("timestep", "is_strong"), [(880, False), (500, True)])
def test_guided_loss_wants_the_truth_of_pictures_that_are_too_strong(
    timestep: int, is_strong: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(noising, "_TOO_STRONG", 1.0)
    monkeypatch.setattr(noising, "_MOST_TOO_STRONG", 100.0)
    monkeypatch.setattr(guided, "random_timesteps", always(timestep))
    clean = torch.randn(64, 4, 8, 8)
    met: list[torch.Tensor] = []

    def knows(noisy: Any, timesteps: Any, *_: Any, **__: Any) -> tuple[torch.Tensor]:
        met.append(noisy[:64])
        return (true_velocity(noisy, clean.repeat(2, 1, 1, 1), timesteps),)

    text, nothing = torch.ones(64, 77, 8), torch.zeros(1, 77, 8)
    loss = guided.guided_loss(knows, clean, text, nothing, Format(64, 64, 64))
    assert loss == pytest.approx(1.75 * 0.01**0.5)
    assert (strength(met[0], clean, timestep) > 2) == is_strong


def strength(noisy: torch.Tensor, clean: torch.Tensor, timestep: int) -> float:
    """How much of a picture shows in a noisy one; 1 is as much as belongs there."""
    times = torch.full((len(clean),), timestep)
    signal = noised(clean, torch.zeros_like(clean), times)[0]
    return float((noisy * signal).mean() / signal.square().mean())


def saying(volume: float) -> Any:
    """A model that says so much with text and nothing without it."""

    def predicted(noisy: Any, timesteps: Any, said: Any, **_: Any) -> tuple[torch.Tensor]:
        return (volume * said[:, :1, :1, None].expand_as(noisy),)

    return predicted


@pytest.fixture
def batch() -> train_turbo.Batch:
    return train_turbo.Batch(
        clean=torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
        text=torch.ones(4, 77, 8),
        pooled=torch.ones(4, 8),
        form=Format(64, 64, 4),
    )


def test_a_lesson_on_guidance_wants_what_the_teacher_makes_with_it(
    monkeypatch: pytest.MonkeyPatch, batch: train_turbo.Batch
) -> None:
    monkeypatch.setattr(train_turbo, "_UNTOLD", 0.0)
    monkeypatch.setattr(noising, "_TOO_STRONG", 0.0)
    monkeypatch.setattr(train_turbo, "_MISTOLD", 0.0)
    losses = [train_turbo._guided_loss(saying(v), saying(1.0), batch, 3.0) for v in (1.0, 3.0)]
    assert losses[1] == pytest.approx(0.01**0.5)
    assert losses[0] > 1


@pytest.mark.parametrize(("timestep", "is_strong"), [(999, False), (880, False), (500, True)])
def test_a_lesson_on_guidance_wants_the_truth_of_pictures_that_are_too_strong(
    timestep: int, is_strong: bool, monkeypatch: pytest.MonkeyPatch, batch: train_turbo.Batch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(noising, "_TOO_STRONG", 1.0)
    monkeypatch.setattr(noising, "_MOST_TOO_STRONG", 100.0)
    monkeypatch.setattr(train_turbo, "_VISITED", (timestep,))
    monkeypatch.setattr(train_turbo, "_FEW", 1.0)
    met: list[torch.Tensor] = []

    def knows(noisy: Any, timesteps: Any, *_: Any, **__: Any) -> tuple[torch.Tensor]:
        met.append(noisy)
        return (true_velocity(noisy, batch.clean, timesteps),)

    loss = train_turbo._guided_loss(knows, saying(1.0), batch, 3.0)
    assert (loss == pytest.approx(0.01**0.5)) == is_strong
    if is_strong:
        assert strength(met[0], batch.clean, timestep) > 4


def test_a_lesson_on_guidance_wants_the_same_of_pictures_whose_text_is_not_told(
    monkeypatch: pytest.MonkeyPatch, batch: train_turbo.Batch
) -> None:
    told: list[torch.Tensor] = []

    def learns(noisy: Any, timesteps: Any, said: Any, **others: Any) -> tuple[torch.Tensor]:
        told.extend((said, others["added_cond_kwargs"]["text_embeds"]))
        return (torch.full_like(noisy, 3.0),)

    monkeypatch.setattr(noising, "_TOO_STRONG", 0.0)
    monkeypatch.setattr(train_turbo, "_UNTOLD", 1.0)
    loss = train_turbo._guided_loss(learns, saying(1.0), batch, 3.0)
    assert loss == pytest.approx(0.01**0.5)
    assert not any(text.any() for text in told)


def true_velocity(
    noisy: torch.Tensor, clean: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    spread = noised(torch.zeros_like(clean), torch.ones_like(clean), timesteps)[0]
    signal = noised(torch.ones_like(clean), torch.zeros_like(clean), timesteps)[0]
    return (signal * noisy - clean) / spread


def test_rows_that_are_mistold_get_the_next_ones_text() -> None:
    told = torch.arange(4.0)[:, None]
    mistold = torch.tensor([True, False, False, True])
    assert train_turbo._mixed_up(told, mistold).flatten().tolist() == [1, 1, 2, 0]
