"""Numbering: the numbers in the names of files that jobs save. Pure; all file stores share it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

#: Where the number goes: the last of them, for a client may write one into its prefix.
NUMBER: Final = "{number:05}"


def numbered(series: str, number: int) -> str:
    """The series' name with this number, of five digits or more."""
    before, _, after = series.rpartition(NUMBER)
    return f"{before}{number:05}{after}"


def highest(series: str, names: Iterable[str]) -> int:
    """The highest number of those names that differ from the series in nothing else; 0 for none."""
    before, _, after = series.rpartition(NUMBER)
    pattern = re.compile(f"{re.escape(before)}([0-9]{{1,18}}){re.escape(after)}")
    matches = (pattern.fullmatch(name) for name in names)
    return max((int(match[1]) for match in matches if match), default=0)
