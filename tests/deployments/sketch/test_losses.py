"""Losses: what lessons for denoisers want of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

import pytest
import torch

from deployments.sketch import guided, noising, train_turbo, velocity
from deployments.sketch.guided import GuidedBatch, Prompts
from deployments.sketch.negatives import Told, with_negatives
from deployments.sketch.noising import noised
from deployments.sketch.sheets import Format, draw_sheet, latents_of_scenes
from deployments.sketch.wording import captioned


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
    nothing = torch.zeros(4, 77, 8)
    prompts = Prompts(torch.ones_like(nothing), nothing, nothing)

    def right_with_text(noisy: Any, timesteps: Any, said: Any, **_: Any) -> tuple[torch.Tensor]:
        velocity = true_velocity(noisy, clean.repeat(2, 1, 1, 1), timesteps)
        return (velocity * said[:, :1, :1, None],)

    for timestep, is_guided in ((950, False), (500, True)):
        monkeypatch.setattr(guided, "random_timesteps", always(timestep))
        loss = guided.guided_loss(
            right_with_text, GuidedBatch(clean, torch.zeros_like(clean), prompts), form
        )
        right, wrong = 0.01**0.5, 1.0
        share = 0.25 if is_guided else 1.0
        unguided = right + 0.5 * right + share * wrong
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

    nothing = torch.zeros(64, 77, 8)
    prompts = Prompts(torch.ones_like(nothing), nothing, nothing)
    loss = guided.guided_loss(
        knows, GuidedBatch(clean, torch.zeros_like(clean), prompts), Format(64, 64, 64)
    )
    assert loss == pytest.approx((1.75 if is_strong else 2.5) * 0.01**0.5)
    assert (strength(met[0], clean, timestep) > 2) == is_strong


def test_a_negative_prompt_refuses_things_only_where_a_picture_is_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(noising, "_PURE_NOISE", 0.0)
    clean = torch.zeros(64, 4, 8, 8)
    prompts = Prompts(*(torch.full((64, 77, 8), said) for said in (1.0, 2.0, 3.0)))
    met: list[torch.Tensor] = []

    def listens(noisy: Any, timesteps: Any, said: Any, **_: Any) -> tuple[torch.Tensor]:
        met.extend((timesteps, said[:, 0, 0]))
        return (noisy,)

    guided.guided_loss(
        listens, GuidedBatch(clean, torch.zeros_like(clean), prompts), Format(64, 64, 64)
    )
    timesteps, (caption, negative) = (both.chunk(2) for both in met)
    assert torch.equal(*timesteps)
    assert (caption == 1).all()
    assert set(negative.tolist()) == {2.0, 3.0}
    assert torch.equal(negative == 3, timesteps[1] < noising.UNDECIDED)


@pytest.mark.parametrize("is_knowing", [True, False])
@pytest.mark.parametrize("every", [1, 2])
def test_much_guidance_is_to_lead_away_from_what_is_refused(
    every: int, is_knowing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model says what is seen, and one more of what is not wanted when told not to."""
    torch.manual_seed(0)
    monkeypatch.setattr(guided, "_MOST_GUIDANCE", 5.0)
    monkeypatch.setattr(noising, "_TOO_STRONG", 0.0)
    clean = torch.randn(32, 4, 8, 8)
    unwanted = torch.zeros_like(clean)
    unwanted[::every, :, 2:6, 2:6] = 2
    texts = Prompts(*(torch.full((32, 77, 8), said) for said in (1.0, 2.0, 3.0)))
    met: list[torch.Tensor] = []

    def sees(noisy: Any, timesteps: Any, said: Any, **_: Any) -> tuple[torch.Tensor]:
        met.extend((timesteps[:32], said[32:, 0, 0]))
        seen = clean + unwanted
        shown = torch.cat([seen, seen + unwanted / 4 if is_knowing else seen])
        return (true_velocity(noisy, shown, timesteps),)

    loss = guided.guided_loss(sees, GuidedBatch(clean, unwanted, texts), Format(64, 64, 32))
    timesteps, negative = met
    assert (timesteps[::every] < noising.UNDECIDED).all()
    assert (negative[::every] == 3).all()
    alone = torch.where(timesteps < noising.UNDECIDED, 0.75, 1.5)
    alone[::every] = 0
    least = 0.01**0.5 * (1 + float(alone.mean()))
    assert loss == pytest.approx(least, rel=1e-2) if is_knowing else loss > 2 * least


def test_leading_away_is_learnt_with_the_negative_prompt_alone() -> None:
    torch.manual_seed(0)
    said = torch.zeros(64, 4, 8, 8, requires_grad=True)
    clean, unwanted = torch.randn(32, 4, 8, 8), torch.zeros(32, 4, 8, 8)
    unwanted[::2] = 2
    nothing = torch.zeros(32, 77, 8)
    batch = GuidedBatch(clean, unwanted, Prompts(nothing, nothing, nothing))
    guided.guided_loss(lambda *_, **__: (said,), batch, Format(64, 64, 32)).backward()
    assert said.grad is not None
    named, unnamed = said.grad.flatten(1).any(dim=1).chunk(2)
    assert named.tolist() == [False, True] * 16
    assert unnamed[::2].all()


def test_prompts_are_encoded_once_and_in_their_places() -> None:
    asked: list[str] = []

    def encode(texts: Sequence[str]) -> torch.Tensor:
        asked.extend(texts)
        return torch.tensor([float(text or 0) for text in texts]).view(-1, 1, 1)

    texts = [("1", "", "2"), ("3", "", ""), ("1", "4", "5")]
    told = [Told(caption=c, early=n, naming=m) for c, n, m in texts]
    prompts = Prompts.encoded(told, encode)
    assert sorted(asked) == ["", "1", "2", "3", "4", "5"]
    assert prompts.text.flatten().tolist() == [1, 3, 1]
    assert prompts.early.flatten().tolist() == [0, 0, 4]
    assert prompts.naming.flatten().tolist() == [2, 0, 5]


def test_a_batch_has_what_pictures_are_to_be_led_away_from() -> None:
    form = Format(64, 64, 24)

    def encode(texts: Sequence[str]) -> torch.Tensor:
        return torch.zeros(len(texts), 77, 8)

    batch = guided.guided_batch(form, captioned, Random(3), encode)
    _, told = draw_sheet(form, partial(with_negatives, captioned), Random(3))
    assert batch.clean.shape == batch.unwanted.shape == (24, 4, 8, 8)
    assert batch.prompts.naming.shape == (24, 77, 8)
    refused = {row: each.refused for row, each in enumerate(told) if each.refused is not None}
    rows = [*refused]
    assert 0 < len(rows) < 12
    assert batch.unwanted.flatten(1).any(dim=1).nonzero().flatten().tolist() == rows
    seen = latents_of_scenes([*refused.values()], form)
    assert torch.allclose((batch.clean + batch.unwanted)[rows], seen, atol=1e-5)


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
