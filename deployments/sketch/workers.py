"""Workers: processes that take a lesson together, each with its own pictures, all with one model.

Two of one thread get through nearly twice the pictures that one of two threads does.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing


def run(work: Callable[..., None], arguments: Sequence[Any], *, workers: int) -> None:
    """Call ``work(*arguments)`` in so many processes, or, if it is one, in this one."""
    if workers == 1:
        work(*arguments)
        return
    with tempfile.TemporaryDirectory() as meeting:
        multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
            _join, (work, tuple(arguments), workers, f"{meeting}/store"), nprocs=workers
        )


def _join(
    rank: int, work: Callable[..., None], arguments: Sequence[Any], workers: int, store: str
) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=workers)
    try:
        work(*arguments)
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Which worker this is, from 0; the first one saves and logs."""
    return dist.get_rank() if dist.is_initialized() else 0


def agreed(number: float) -> float:
    """The first worker's number."""
    if not dist.is_initialized():
        return number
    told = torch.tensor(number, dtype=torch.float64)
    dist.broadcast(told, 0)
    return float(told)


@torch.no_grad()
def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Give every worker the mean of all workers' gradients; one that is missing counts as zero."""
    if not dist.is_initialized():
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([gradient.flatten() for gradient in gradients]).cpu()
    dist.all_reduce(flat)
    means = torch.split(flat / dist.get_world_size(), [p.numel() for p in parameters])
    for parameter, mean in zip(parameters, means, strict=True):
        parameter.grad = mean.view_as(parameter).to(parameter.device)
