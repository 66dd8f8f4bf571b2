"""Command: what the trainers' command lines share."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from deployments.sketch import workers


def command_line(description: str | None, *, minutes: float) -> argparse.ArgumentParser:
    """A folder to train in, how many minutes, a seed and threads; others may be added."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--threads", type=int, default=1, help="of a process")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def read(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What was given; from now on the log is shown, and torch takes so many threads."""
    given = parser.parse_args()
    _start(given.threads)
    return given


def run(parser: argparse.ArgumentParser, teach: Callable[[argparse.Namespace], None]) -> None:
    """``teach`` what is given, in as many ``--workers`` as it says; each shows its log, and so many
    threads are each one's. ``teach`` can be imported by its name."""
    parser.add_argument("--workers", type=int, default=1, help="processes that learn together")
    given = parser.parse_args()
    workers.run(_teach, [teach, given], num_workers=given.workers)


def _teach(teach: Callable[[argparse.Namespace], None], given: argparse.Namespace) -> None:
    _start(given.threads)
    teach(given)


def _start(threads: int) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(threads)
