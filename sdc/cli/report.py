"""``sdc report``: one HTML file about a compiled program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdc.cli.evaluations import read_evaluation
from sdc.cli.progress import Bars
from sdc.cli.verbs import measure, read_text
from sdc.data import demo_text
from sdc.report import Subject, write_report
from sdc.runtime import Program

__all__ = ["report"]


def report(
    path: Path,
    out: Path,
    evaluation: Path | None,
    text: Path | None,
    windows: int,
    window: int,
    *,
    quiet: bool,
) -> None:
    """Measures the program, or takes what ``sdc eval --json`` printed, and writes the page."""
    program = Program.load(path)
    found: dict[str, Any] | None = None
    if evaluation is not None:
        found = read_evaluation(evaluation)
    elif program.manifest["model"]["kind"] == "decoder" and program.tokenizer is not None:
        content = demo_text()[1] if text is None else read_text(text)
        with Bars(quiet) as bars:
            found = measure(program, content, windows, window, bars).to_json()
    write_report(Subject(program, found), out)
    print(out)
