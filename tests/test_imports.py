"""Arrows between packages go one way: face -> frontends, passes, targets -> ir -> errors, cache, threads."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"sdc": "sdc", "passes": "sdc.passes", "targets": "sdc.targets", "frontends": "sdc.frontends"}
MIDDLE = {"sdc.frontends", "sdc.passes", "sdc.targets"}
TARGETS = {"cpu", "cuda", "neuro"}


@cache
def modules() -> dict[str, Path]:
    found = {}
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found[name] = path
    return found


def imports(path: Path) -> set[str]:
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(str(node.module))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "sdc"}


def layer(name: str) -> str:
    """The package of a module that an arrow may start from or end at."""
    parts = name.split(".")
    return ".".join(parts[:2])


def forbidden(name: str, imported: str) -> bool:
    here, there = layer(name), layer(imported)
    if there == "sdc.cli":
        return here not in ("sdc.cli",)
    if here in ("sdc.errors", "sdc.cache", "sdc.threads"):
        return True
    if here == "sdc.ir":
        return there not in ("sdc.ir", "sdc.errors", "sdc.threads")
    if here in MIDDLE:
        return there not in (
            {here, "sdc.ir", "sdc.errors", "sdc.cache", "sdc.threads"}
            | ({"sdc.targets"} if here == "sdc.targets" else set())
        )
    return False


def target_of(name: str) -> str:
    parts = name.split(".")
    return parts[2] if parts[:2] == ["sdc", "targets"] and len(parts) > 2 and parts[2] in TARGETS else ""


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_down(name):
    path = modules()[name]
    wrong = sorted(i for i in imports(path) if forbidden(name, i))
    assert not wrong, f"{name} imports {wrong}"
    others = sorted(i for i in imports(path) if target_of(name) and target_of(i) not in ("", target_of(name)))
    assert not others, f"one target imports another: {name} imports {others}"


def test_the_rule_sees_what_is_wrong():
    assert forbidden("sdc.ir.model", "sdc.passes.base")
    assert forbidden("sdc.passes.smooth", "sdc.targets.base")
    assert forbidden("sdc.api", "sdc.cli.app")
    assert not forbidden("sdc.api", "sdc.passes.base")
