"""Workers: two processes take one lesson, and end with one model."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from deployments.sketch import workers  # noqa: E402
from deployments.sketch.lesson import Lesson  # noqa: E402


def _take(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4)
    torch.manual_seed(workers.rank())
    inputs = torch.randn(8, 4)
    lesson = Lesson([model], minutes=0.02, rate=3e-2, memory=0.9)

    def loss(progress: float) -> torch.Tensor:
        return (model(inputs) - workers.rank()).square().mean()

    def save(averages: object) -> None:
        (folder / f"saved by {workers.rank()}").touch()

    lesson.run(loss, save)
    torch.save((model.state_dict(), inputs), folder / f"{workers.rank()}.pt")


def _average(folder: Path) -> None:
    taught, missed = torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True)
    taught.grad = torch.full((2,), float(workers.rank()))
    if workers.rank() == 1:
        missed.grad = torch.ones(3)
    workers.average_gradients([taught, missed])
    found = taught.grad.tolist(), missed.grad.tolist(), workers.agreed(workers.rank() + 7)
    torch.save(found, folder / f"{workers.rank()}.pt")


def test_workers_end_with_the_same_model_from_different_pictures(tmp_path: Path) -> None:
    workers.run(_take, [tmp_path], workers=2)
    (first, seen), (second, also_seen) = (torch.load(tmp_path / f"{k}.pt") for k in range(2))
    assert not torch.equal(seen, also_seen)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [path.name for path in tmp_path.glob("saved*")] == ["saved by 0"]


def test_gradients_are_averaged_and_the_first_workers_number_holds(tmp_path: Path) -> None:
    workers.run(_average, [tmp_path], workers=2)
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == ([0.5, 0.5], [0.5, 0.5, 0.5], 7.0)


def test_one_worker_is_this_process() -> None:
    called: list[str] = []
    workers.run(called.append, ["here"], workers=1)
    assert called == ["here"]
    assert workers.rank() == 0
    assert workers.agreed(0.5) == 0.5
    alone = torch.zeros(2, requires_grad=True)
    workers.average_gradients([alone])
    assert alone.grad is None
