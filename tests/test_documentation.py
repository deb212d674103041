"""Every command and every Python block in the documentation runs, in the order in which a page shows them.

``model.onnx`` is a tiny real export with a tokenizer, ``text.txt`` a short text. Set-up lines (pip, pytest)
are what ``.ci/run`` does, ``sdc demo`` is a slow test, and a benchmark has to know the options it is shown
with.
"""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.tiny_source import tiny_source
from typer.testing import CliRunner

from sdc.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SETUP = ("pip", "pytest")
OUTPUT = re.compile(r"^````text\n.*?^````$", re.MULTILINE | re.DOTALL)  # may hold fences of its own
ONE_LEVEL = """
import runpy, sys
from sdc.targets import TARGETS
from sdc.targets.cpu import CpuTarget
from sdc.targets.cpu.isa import best_level
TARGETS["cpu"] = CpuTarget((best_level().name,))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, content) of a page's blocks that can run."""
    return BLOCK.findall(OUTPUT.sub("", page.read_text(encoding="utf-8")))


def commands(text: str) -> list[list[str]]:
    """Words of each command of a shell block; ``a && b`` are two."""
    lines = text.replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def run(words: list[str]) -> None:
    if words[:2] == ["sdc", "demo"] or words[0] in SETUP:
        return
    if words[0] == "sdc":
        done = CliRunner().invoke(app, words[1:])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, f"{shlex.join(words)}: {done.output}"
        return
    assert words[0] == "python", f"the documentation shows a command that no test runs: {shlex.join(words)}"
    script = ROOT / words[1]
    if script.parent.name in ("benchmarks", "tools"):
        check_options(script, words[2:])
        return
    done = script_run(script, *words[2:])
    assert done.returncode == 0, done.stderr


def script_run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own, which compiles for this machine only, as :func:`one_level` does."""
    command = [sys.executable, "-c", ONE_LEVEL, script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check_options(script: Path, arguments: list[str]) -> None:
    """A benchmark takes too long for a test: it exists and knows the options."""
    text = script.read_text(encoding="utf-8")
    for option in (a.partition("=")[0] for a in arguments if a.startswith("--")):
        assert f'"{option}"' in text, f"{script.name} has no option {option}"


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.stem)
def test_a_page_runs(page, one_level, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_source(tmp_path).rename("model.onnx")
    Path("text.txt").write_text("The quick brown fox jumps over the lazy dog, and back again.\n" * 20)
    for language, text in blocks(page):
        if language == "sh":
            for words in commands(text):
                run(words)
        else:
            Path("block.py").write_text(text)
            runpy.run_path("block.py", run_name="__main__")


def test_ci_does_what_the_readme_says():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    setup = [words for _, text in blocks(ROOT / "README.md") for words in commands(text) if words[0] in SETUP]
    assert [w for w in setup if ".[demo]" not in w] == [["pip", "install", "-e", ".[test]"], ["pytest"]]
    assert "-e '.[test]'" in script
    assert re.search(r"^pytest$", script, re.MULTILINE)


def test_links_lead_somewhere():
    for page in [*PAGES, *sorted((ROOT / "docs" / "decisions").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


EXAMPLES = {
    "generate.py": ("model.onnx", "Hello"),
    "spikes_per_layer.py": ("model.sdc", "Hello"),
    "own_pass.py": ("model.onnx",),
}


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "examples").glob("*.py")))
def test_an_example_runs(script, tiny_program, tmp_path, monkeypatch):
    tiny_source(tmp_path).rename(tmp_path / "model.onnx")
    (tmp_path / "model.sdc").symlink_to(tiny_program)
    monkeypatch.chdir(tmp_path)
    done = script_run(ROOT / "examples" / script, *EXAMPLES[script])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
