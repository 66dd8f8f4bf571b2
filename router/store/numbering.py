"""Numbering: the numbers in the names of files that jobs save. Pure; all file stores share it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

#: Where the number goes.
NUMBER: Final = "{number:05}"


def numbered(series: str, number: int) -> str:
    """The series' name with this number, of five digits or more."""
    return series.replace(NUMBER, f"{number:05}")


def highest(series: str, names: Iterable[str]) -> int:
    """The highest number of those names that differ from the series in nothing else; 0 for none."""
    before, _, after = series.partition(NUMBER)
    pattern = re.compile(f"{re.escape(before)}([0-9]{{1,18}}){re.escape(after)}")
    matches = (pattern.fullmatch(name) for name in names)
    return max((int(match[1]) for match in matches if match), default=0)
