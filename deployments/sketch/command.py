"""Command: what the trainers' command lines share."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch


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
    start(given.threads)
    return given


def start(threads: int) -> None:
    """From now on this process shows its log, and torch takes so many threads in it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(threads)
