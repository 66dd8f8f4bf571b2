"""The README's map stays true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
ROOMS = ("deployments", "router", "clients", "benchmarks")
MODULES = sorted(
    str(path.relative_to(ROOT))
    for room in ROOMS
    for path in (ROOT / room).rglob("*.py")
    if path.read_text().strip()
)


def listed() -> set[str]:
    """Paths of the README's file list, which is indented like a tree."""
    block = README.split("```files\n")[1].split("```")[0]
    folder, paths = "", set()
    for line in block.splitlines():
        name = line.split()[0] if line.split() else ""
        if name.endswith("/"):
            folder = name
        elif name:
            paths.add(folder + name)
    return paths


def test_every_module_is_in_the_file_list() -> None:
    assert sorted(set(MODULES) - listed()) == []


def test_every_file_of_the_list_exists() -> None:
    assert [path for path in sorted(listed()) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(
    "command",
    ["pip install -e . && serve run serve_config.yaml", 'pip install -e ".[test]" && pytest'],
)
def test_the_two_commands_stand_in_the_readme(command: str) -> None:
    assert f"```bash\n{command}\n```" in README


def test_ci_calls_the_test_command() -> None:
    assert 'pip install -e ".[test]" && pytest' in (ROOT / ".ci/run").read_text()


def test_every_variable_of_the_table_is_read() -> None:
    sources = "".join((ROOT / path).read_text() for path in MODULES).lower()
    table = README.split("| variable")[1].split("\n\n")[0]
    names = re.findall(r"`([A-Z][A-Z_]+)`", table)
    assert len(names) > 10
    missing = [n for n in names if n.lower().removeprefix("atelier_") not in sources]
    assert missing == []
