"""Lesson: a training run of so many minutes, with its learning rate, averaged weights and log."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from deployments.sketch import workers
from deployments.sketch.attention import plain_attention

logger = logging.getLogger(__name__)

#: Share of the minutes in which the learning rate rises.
_WARM_UP: Final = 0.01
#: Layers with as few rows or fewer, such as a last convolution, are not Muon's.
_FEW_ROWS: Final = 4
#: Seconds between two saves.
_SAVE_EVERY: Final = 180.0


def pick_device() -> torch.device:
    """The GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def fast_dtype() -> torch.dtype:
    """bfloat16 where it multiplies faster; processors without it take ten times as long."""
    if pick_device().type == "cuda":
        return torch.bfloat16
    single, half = map(_seconds_to_multiply, (torch.float32, torch.bfloat16))
    return torch.bfloat16 if workers.agreed(half / single) < 1 else torch.float32


def _seconds_to_multiply(dtype: torch.dtype) -> float:
    square = torch.ones(512, 512, dtype=dtype)
    tries = []
    for _ in range(3):
        began = time.perf_counter()
        square @ square
        tries.append(time.perf_counter() - began)
    return min(tries)


@contextmanager
def forward_pass(device: torch.device) -> Iterator[None]:
    """What lessons' forward passes run in: bfloat16 where faster, then on processors with plain
    attention, as their fused one takes three times as long in it."""
    if fast_dtype() is torch.float32:
        yield
        return
    with torch.autocast(device.type, torch.bfloat16), plain_attention(device):
        yield


def rooted(errors: Tensor, small: float) -> Tensor:
    """Mean root of pictures' mean squared errors (n,); those below ``small`` count less and less.

    The root lets flat shapes, whose errors are small, count as much as landscapes.
    """
    loss: Tensor = (errors + small).sqrt().mean()
    return loss


class Muon:
    """Momentum whose steps are made orthogonal, for matrices; Adam for all other parameters.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks". On our
    small convolutional networks it needs several times fewer steps than Adam.
    """

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        embeddings = {id(e.weight) for m in modules for e in m.modules() if _is_embedding(e)}
        self.parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
        self._matrices: list[Tensor] = []
        others: list[Tensor] = []
        for parameter in self.parameters:
            is_small = parameter.ndim < 2 or parameter.shape[0] <= _FEW_ROWS
            is_adams = is_small or id(parameter) in embeddings
            (others if is_adams else self._matrices).append(parameter)
        self._momenta = [torch.zeros_like(p) for p in self._matrices]
        self._adam = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step; Adam's rate is a tenth of the matrices'."""
        for group in self._adam.param_groups:
            group["lr"] = rate / 10
        self._adam.step()
        for matrix, momentum in zip(self._matrices, self._momenta, strict=True):
            if matrix.grad is None:
                continue
            momentum.lerp_(matrix.grad, 0.1)
            change = orthogonal(matrix.grad.lerp(momentum, 0.9).flatten(1))
            scale = math.sqrt(max(1, change.shape[0] / change.shape[1]))
            matrix.add_(change.view_as(matrix), alpha=-rate * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix whose singular values are all near one, by Newton and Schulz' iteration.

    The quintic's factors are those of Jordan et al. 2024: fast, not exact.
    """
    current = matrix.to(fast_dtype()) / (matrix.norm() + 1e-7)
    is_tall = current.shape[0] > current.shape[1]
    if is_tall:
        current = current.T
    for _ in range(5):
        square = current @ current.T
        factor = torch.addmm(square, square, square, beta=-4.7750, alpha=2.0315)
        current = torch.addmm(current, factor, current, beta=3.4445)
    found: Tensor = (current.T if is_tall else current).to(matrix.dtype)
    return found


def _is_embedding(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Embedding)


class Lesson:
    """Muon on some modules until the minutes are over; what is saved is a moving average.

    Minutes are the clock's, from ``run`` on, so that a run ends when it shall, however busy the
    machine is; there is always one step.
    """

    def __init__(
        self, modules: Sequence[torch.nn.Module], *, minutes: float, rate: float, memory: float
    ) -> None:
        """``memory``: share of the average that one step leaves, such as 0.998."""
        self.modules = list(modules)
        workers.share([parameter for module in modules for parameter in module.parameters()])
        self.averages = [copy.deepcopy(module).requires_grad_(False) for module in modules]
        self._optimizer = Muon(modules)
        self._rate, self._memory = rate, memory
        self._seconds = minutes * 60
        self._num_steps = 0

    def run(self, loss: Callable[[float], Tensor], save: Callable[[Sequence[Any]], None]) -> None:
        """Repeat steps on ``loss(progress)``, which goes from 0 to 1; ``save`` gets the averages
        now and then, and last."""
        now = began = saved = shown = time.monotonic()
        smooth = math.nan
        while (progress := workers.agreed((now - began) / self._seconds)) < 1:
            value = self._step(loss(progress), progress)
            smooth = value if math.isnan(smooth) else 0.98 * smooth + 0.02 * value
            now = time.monotonic()
            if workers.rank() > 0:
                continue
            if now - shown > 20:
                logger.info("%.3f step %d loss %.4f", progress, self._num_steps, smooth)
                shown = now
            if now - saved > _SAVE_EVERY:
                save(self.averages)
                saved = now
        if workers.rank() == 0:
            save(self.averages)

    def _step(self, loss: Tensor, progress: float) -> float:
        for parameter in self._optimizer.parameters:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        workers.average_gradients(self._optimizer.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self._optimizer.parameters, 1.0)
        self._num_steps += 1
        if not torch.isfinite(norm):
            # One bad batch would spoil all that has been learnt.
            logger.warning("step %d: the gradient is not finite; left out", self._num_steps)
            return float(loss.detach())
        self._optimizer.step(self._rate * _pace(progress))
        self._average()
        return float(loss.detach())

    @torch.no_grad()
    def _average(self) -> None:
        memory = min(self._memory, (1 + self._num_steps) / (10 + self._num_steps))
        for average, module in zip(self.averages, self.modules, strict=True):
            theirs: list[Tensor] = list(average.parameters())
            ours: list[Tensor] = list(module.parameters())
            torch._foreach_lerp_(theirs, ours, 1 - memory)


def _pace(progress: float) -> float:
    """Rises, stays, and falls by a cosine to a fiftieth."""
    if progress < _WARM_UP:
        return max(progress / _WARM_UP, 0.01)
    return 0.02 + 0.98 * (1 + math.cos(math.pi * min(progress, 1))) / 2


def save_half(module: Any, folder: Path) -> None:
    """Write a copy in float16 safetensors."""
    copy.deepcopy(module).half().save_pretrained(folder, safe_serialization=True)


def save_first(folder: Path, modules: Any) -> None:
    """The first of a lesson's modules, in half precision."""
    save_half(modules[0], folder)
