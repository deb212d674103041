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

_WINDOWS = {"neuro": (1, 16)}  # a simulated machine takes seconds for a token
_OTHERWISE = (2, 256)


def report(
    path: Path,
    out: Path,
    evaluation: Path | None,
    text: Path | None,
    windows: int | None,
    window: int | None,
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
        many, long = _WINDOWS.get(program.manifest["target"], _OTHERWISE)
        with Bars(quiet) as bars:
            found = measure(program, content, windows or many, window or long, bars).to_json()
    write_report(Subject(program, found), out)
    print(out)
