"""Which way imports point. The table is the one of ``README.md``'s architecture section."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("deployments", "router", "clients", "benchmarks")
MODULES = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
    for room in ROOMS
    for path in (ROOT / room).rglob("*.py")
)

#: Packages that only these modules (prefixes) may import.
FOREIGN = {
    "torch": (
        "deployments.engine.runner",
        "deployments.families",
        "deployments.sketch",
        "benchmarks.qwen_device",
    ),
    "diffusers": ("deployments.families", "deployments.sketch", "benchmarks.qwen_device"),
    "transformers": ("deployments.families", "deployments.sketch", "benchmarks.qwen_device"),
    "ray": (
        "deployments.app",
        "deployments.request_router",
        "router.app",
        "router.ingress",
        "router.cluster",
        "benchmarks",
    ),
    "sqlalchemy": ("router.store", "benchmarks.claims"),
    "obstore": ("router.store", "deployments.families.upload"),
}
#: What a room may import of ours, by prefix of the importing module; the longest prefix decides.
OURS = {
    "deployments": ("deployments",),
    "router": ("router", "deployments.types", "deployments.errors"),
    "router.apis": (
        "router.apis",
        "router.service",
        "router.belongings",
        "router.job",
        "router.auth",
        "router.pictures",
        "router.fetch",
        "router.webhooks",
        "router.files",
        "router.personal_models",
        "router.scripts",
        "router.store.deliveries",
        "router.store.options",
        "deployments.types",
        "deployments.errors",
    ),
    "router.store": ("router.store", "router.job", "deployments.types", "deployments.errors"),
    "router.job": ("deployments.types",),
    "router.routing": ("router.models", "deployments.types", "deployments.errors"),
    "clients": ("clients",),
    "benchmarks": ("benchmarks", "clients", "deployments", "router"),
}


def imported_names(module: str) -> Iterator[str]:
    path = ROOT / (module.replace(".", "/") + ".py")
    if not path.exists():
        path = ROOT / module.replace(".", "/") / "__init__.py"
    tree = ast.parse(path.read_text())
    type_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and getattr(branch.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in type_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def is_within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    rule = max((p for p in OURS if is_within(module, (p,))), key=len)
    for name in imported_names(module):
        if name.split(".")[0] in ROOMS:
            assert is_within(name, OURS[rule]), f"{module} may not import {name}"
        allowed = FOREIGN.get(name.split(".")[0])
        assert allowed is None or is_within(module, allowed), f"{module} may not import {name}"


@pytest.mark.parametrize("module", [m for m in MODULES if m != "router.app"])
def test_nothing_imports_the_gateways_app(module: str) -> None:
    assert "router.app" not in set(imported_names(module))


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("router.app", ("torch", "diffusers", "transformers")),
        ("deployments.app", ("torch", "diffusers", "transformers")),
        ("deployments.engine.engine", ("torch", "ray")),
        ("deployments.host", ("torch", "ray")),
        ("deployments.families.stable_diffusion_xl", ("ray", "fastapi", "sqlalchemy")),
        ("clients.generate_client", ("ray", "torch", "fastapi", "deployments", "router")),
    ],
)
def test_importing_leaves_out(module: str, absent: tuple[str, ...]) -> None:
    code = (
        f"import sys, {module}; "
        f"found = [name for name in {absent!r} if name in sys.modules]; "
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
