"""Workers: two processes take one lesson, and end with one model."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from deployments.sketch import workers  # noqa: E402
from deployments.sketch.lesson import Lesson, fast_dtype  # noqa: E402


class _Pupil(torch.nn.Module):
    """What workers begin with differs, and one layer is asked in every third step only."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(workers.rank())
        self.first, self.second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
        self.num_asked = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.num_asked += 1
        hidden: torch.Tensor = self.first(inputs)
        return hidden if self.num_asked % 3 else self.second(hidden)


def _take(folder: Path) -> None:
    torch.set_num_threads(1)
    fast_dtype()  # measured before the lesson's clock runs
    pupil = _Pupil()
    inputs = torch.randn(8, 8)
    lesson = Lesson([pupil], minutes=0.05, rate=3e-2, memory=0.9)
    begun = {name: value.clone() for name, value in pupil.state_dict().items()}

    def loss(progress: float) -> torch.Tensor:
        error: torch.Tensor = (pupil(inputs) - workers.rank()).square().mean()
        return error

    def save(averages: object) -> None:
        (folder / f"saved by {workers.rank()}").touch()

    lesson.run(loss, save)
    states = [begun, pupil.state_dict(), lesson.averages[0].state_dict()]
    torch.save([states, inputs], folder / f"{workers.rank()}.pt")


def _throw(folder: Path) -> None:
    alike, own = workers.dice(5)
    torch.save(
        [alike.random(), own.random(), float(torch.rand(1))], folder / f"{workers.rank()}.pt"
    )


def _average(folder: Path) -> None:
    parameters = [torch.zeros(size, requires_grad=True) for size in (2, 3, 4)]
    parameters[0].grad = torch.full((2,), float(workers.rank()))
    if workers.rank() == 1:
        parameters[1].grad = torch.ones(3)
    workers.average_gradients(parameters)
    found = [None if p.grad is None else p.grad.tolist() for p in parameters]
    torch.save([found, workers.agreed(workers.rank() + 7)], folder / f"{workers.rank()}.pt")


def test_workers_end_with_the_same_model_from_different_pictures(tmp_path: Path) -> None:
    workers.run(_take, [tmp_path], num_workers=2)
    (first, seen), (second, also_seen) = (torch.load(tmp_path / f"{k}.pt") for k in range(2))
    assert not torch.equal(seen, also_seen)
    for ours, theirs in zip(first, second, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    begun, ended, _ = first
    assert not any(torch.equal(begun[name], ended[name]) for name in begun)
    assert [path.name for path in tmp_path.glob("saved*")] == ["saved by 0"]


def test_workers_throw_alike_how_much_there_is_to_do_but_not_what(tmp_path: Path) -> None:
    workers.run(_throw, [tmp_path], num_workers=2)
    (alike, *own), (also_alike, *others) = (torch.load(tmp_path / f"{k}.pt") for k in range(2))
    assert alike == also_alike
    assert not set(own) & set(others)


def test_gradients_are_averaged_and_the_first_workers_number_holds(tmp_path: Path) -> None:
    workers.run(_average, [tmp_path], num_workers=2)
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == [[[0.5] * 2, [0.5] * 3, None], 7.0]


def test_one_worker_is_this_process() -> None:
    called: list[str] = []
    workers.run(called.append, ["here"], num_workers=1)
    assert called == ["here"]
    assert workers.rank() == 0
    assert workers.agreed(0.5) == 0.5
    alone = torch.zeros(2, requires_grad=True)
    workers.average_gradients([alone])
    assert alone.grad is None


def test_fewer_than_one_worker_is_refused() -> None:
    with pytest.raises(ValueError, match="0 workers; at least 1"):
        workers.run(print, [], num_workers=0)
