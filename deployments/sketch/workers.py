"""Workers: processes that take a lesson together, each with its own pictures, all with one model.

On two cores two of one thread each get through more pictures than one of two threads.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing


def run(work: Callable[..., None], arguments: Sequence[Any], *, num_workers: int) -> None:
    """Call ``work(*arguments)`` in so many processes, or, if it is one, in this one.

    For several, ``work`` can be imported by its name, and the arguments can be pickled. Raises
    ``ValueError`` for fewer than one.
    """
    if num_workers < 1:
        raise ValueError(f"{num_workers} workers; at least 1 is needed")
    if num_workers == 1:
        work(*arguments)
        return
    with tempfile.TemporaryDirectory() as meeting:
        multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
            _join, (work, tuple(arguments), num_workers, f"{meeting}/store"), nprocs=num_workers
        )


def _join(
    index: int, work: Callable[..., None], arguments: Sequence[Any], num_workers: int, store: str
) -> None:
    if sys.platform == "linux":
        # NOTE: else Gloo looks for the host's name, which may lead nowhere.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=index, world_size=num_workers
    )
    try:
        work(*arguments)
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Which worker this is, from 0; the first one saves, and logs how it goes."""
    return dist.get_rank() if dist.is_initialized() else 0


def dice(seed: int) -> tuple[Random, Random]:
    """What workers throw alike, such as how much there is to do, and what each throws for itself,
    such as what is in the pictures; torch's is each one's own, too."""
    torch.manual_seed(seed + rank())
    return Random(seed), Random(f"{seed} {rank()}")


def wait() -> None:
    """Until all workers have come here."""
    if dist.is_initialized():
        dist.barrier()


def agreed(number: float) -> float:
    """The first worker's number."""
    if not dist.is_initialized():
        return number
    told = torch.tensor(number, dtype=torch.float64)
    dist.broadcast(told, 0)
    return float(told)


@torch.no_grad()
def share(parameters: Sequence[Tensor]) -> None:
    """Give every worker the first one's values."""
    if dist.is_initialized():
        for parameter in parameters:
            values = parameter.cpu()
            dist.broadcast(values, 0)
            parameter.copy_(values)


@torch.no_grad()
def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Give every worker the mean of all workers' gradients.

    One that some lack counts as zero there; one that all lack stays missing.
    """
    if not dist.is_initialized():
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    there = torch.tensor([float(p.grad is not None) for p in parameters])
    flat = torch.cat([there, *(gradient.flatten().cpu() for gradient in gradients)])
    dist.all_reduce(flat)
    there, *sums = torch.split(flat, [len(there), *(p.numel() for p in parameters)])
    for parameter, found, total in zip(parameters, there.tolist(), sums, strict=True):
        mean = (total / dist.get_world_size()).view_as(parameter).to(parameter.device)
        parameter.grad = mean if found else None
