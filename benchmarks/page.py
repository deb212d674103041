"""Tables of the page of results: every benchmark owns the section between its two marks."""

from __future__ import annotations

import platform
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["machine_line", "spread", "table", "write_section"]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median, and in brackets the least and the largest."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"


def machine_line(threads: int) -> str:
    """Processor and threads, as results need them beside them."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.*)", info.read_text()) if info.is_file() else None
    return f"{found.group(1) if found else platform.processor()}, {threads} threads"


def write_section(path: Path, name: str, title: str, text: str) -> None:
    """Replaces the section ``name`` of a Markdown page, or adds it at the end."""
    begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    section = f"{begin}\n## {title}\n\n{text.strip()}\n{end}\n"
    page = path.read_text(encoding="utf-8") if path.is_file() else "# Benchmarks\n\n"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end) + "\n", re.DOTALL)
    if pattern.search(page):
        page = pattern.sub(lambda _: section, page)
    else:
        page = page.rstrip("\n") + "\n\n" + section
    path.write_text(page, encoding="utf-8")
