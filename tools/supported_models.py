"""Writes docs/supported-models.md from the cells that tests/frontends/onnx/test_matrix.py runs.

python tools/supported_models.py            write the page
python tools/supported_models.py --check    exit 1 if the page is not what would be written
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import onnx

from sdc.frontends.onnx.lift import CONVERTERS

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "supported-models.md"
sys.path.insert(0, str(ROOT / "tests"))

from helpers.backend_exclusions import cases, reason  # noqa: E402
from helpers.model_cells import (  # noqa: E402
    ARCHITECTURES,
    CELLS,
    COARSE_DISTANCE,
    EXPORTERS,
    FLOAT32,
    LOOSER,
    PENDING,
    STATELESS,
    Cell,
)

OPERATIONS = """
## Operations

The {known} standard operations that the lifting knows have {count} node tests in the ONNX project's own suite
(`onnx` {version}). {run} of them run against it in `tests/frontends/onnx/test_backend_nodes.py` and pass;
these {rest} are excluded:

| tests | reason |
| --- | --- |
"""

HEAD = """# Supported models

Each entry is a file of `tests/models/`, written by the real exporter, that
`tests/frontends/onnx/test_matrix.py` runs: the lifted model has onnxruntime's logits on the original file, a
prefill and eight decode steps through our cache included (to {float32:g}; in float16 to {fp16:g}, and to
{rounded:g} where onnxruntime rounds activations to 8 bits; with quantised activations to {qdq_int16:g} for
16 bits, to {coarse:g} of the logits' deviation, root mean square, for 8), and the logits of the spiking
program (D = 127, 8-bit weights) have a cosine above 0.98 to them. {count} files in all, of {cells} pairs of
an architecture and an exporter; {decoders} of these pairs are decoders with a cache. Other architectures
that are built of the same parts usually work too: `sdc inspect model.onnx` says what was recognised and what
is missing. Versions of the exporters stand in `tests/models/README.md`. This page is written by
`tools/supported_models.py`.
"""


def render() -> str:
    """The whole page."""
    supported = [c for c in CELLS if not _reason(c)]
    pairs = {(c.architecture, c.exporter) for c in supported}
    numbers = {"count": len(supported), "cells": len(pairs)}
    numbers["decoders"] = len([p for p in pairs if p[0] not in STATELESS])
    parts = [HEAD.format(float32=FLOAT32, coarse=COARSE_DISTANCE, **numbers, **LOOSER)]
    for folder, exporter in EXPORTERS.items():
        cells = [c for c in supported if c.exporter == exporter]
        if cells:
            note = f"{NOTES[folder]}\n\n" if folder in NOTES else ""
            table = f"| architecture | files |\n| --- | --- |\n{_rows(cells)}"
            parts.append(f"\n## {exporter}\n\n{note}{table}")
    pending = [(c, why) for c in CELLS if (why := _reason(c))]
    if pending:
        parts.append("\n## Refused so far\n\n| file | because of |\n| --- | --- |\n")
        parts += [f"| `{c.name}` | {why} |\n" for c, why in pending]
    return "".join([*parts, _operations()])


def _operations() -> str:
    """How many of the ONNX project's node tests run, and why the others do not."""
    excluded = Counter(why for name in cases() if (why := reason(name)))
    count, rest = len(cases()), excluded.total()
    head = OPERATIONS.format(
        known=len(CONVERTERS), count=count, run=count - rest, rest=rest, version=onnx.__version__
    )
    return head + "".join(f"| {n} | {why} |\n" for why, n in excluded.most_common())


NOTES = {
    "quantised": (
        "The files are made by `onnxruntime.quantization`. Olive's passes `OnnxDynamicQuantization` and\n"
        "`OnnxStaticQuantization` call the same functions, so its files have these forms too."
    ),
}


def _rows(cells: Iterable[Cell]) -> str:
    by_architecture: dict[str, list[str]] = {}
    for cell in cells:
        by_architecture.setdefault(cell.architecture, []).append(cell.variant)
    return "".join(
        f"| {ARCHITECTURES[name]} | {', '.join(v or 'default' for v in by_architecture[name])} |\n"
        for name in ARCHITECTURES
        if name in by_architecture
    )


def _reason(cell: Cell) -> str:
    return next((why for pattern, why in PENDING.items() if re.fullmatch(pattern, cell.name)), "")


def main(arguments: list[str]) -> int:
    """Writes or checks the page; returns the exit status."""
    if arguments == ["--check"]:
        return 0 if TARGET.exists() and TARGET.read_text() == render() else 1
    TARGET.write_text(render())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
