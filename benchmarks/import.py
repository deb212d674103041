"""What importing an ONNX model costs: seconds per 100 MB of weights, and memory beside the float32 weights.

    python benchmarks/import.py MODEL.onnx [MODEL.onnx ...] [--runs 3] [--write PAGE]

``tests/models/export_full_size.py`` writes such models with every exporter. Each is imported in processes of
its own; the fastest counts. "load" is ``sdc.frontends.onnx.load``, which leaves weights where they are;
"weights" computes each of them once in float32 (``check_weights``), as a compile begins. Both are beside
reading the file, over 100 MB of it. Memory: the peak of the process above what it held before, over the bytes
of all weights in float32; mapped pages of the file count. The bounds: 10 s, 1.5.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from contestants import threads
from page import machine_line, table, write_section

HEAD = ("model", "file, MB", "load, s", "load + weights, s", "s per 100 MB", "peak / float32 weights")

TEXT = """`python benchmarks/import.py MODELS --runs {runs}`

SmolLM2-135M as each exporter writes it (`tests/models/export_full_size.py`). "load" leaves weights where they
are, "weights" computes each once in float32. The bounds are 10 s per 100 MB of the file, and 1.5 times the
float32 weights.\
"""


def main() -> None:
    """Prints a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--write", type=Path, help="page that receives the table")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.models[0])))
        return
    rows = [row(path, options.runs) for path in options.models]
    text = f"{machine_line(threads())}. {TEXT.format(runs=options.runs)}\n\n{table(HEAD, rows)}"
    print(text)
    if options.write:
        write_section(options.write, "import", "Import", text)


def row(path: Path, runs: int) -> list[str]:
    """The fastest of several imports; a model in a folder of its own goes by the folder's name."""
    verb = [sys.executable, __file__, "--one", str(path)]
    found = [json.loads(subprocess.run(verb, capture_output=True, check=True).stdout) for _ in range(runs)]
    best = min(found, key=lambda run: run["weights"])
    name = path.parent.name if path.stem == "model" else path.stem
    numbers = [best["load"], best["weights"], best["weights"] * 100 / best["stored"]]
    peak = max(run["peak"] / run["float32"] for run in found)
    return [name, f"{best['stored']:.0f}", *(f"{n:.2f}" for n in (*numbers, peak))]


def measure(path: Path) -> dict[str, Any]:
    """Sizes in MB, times in seconds, of one import in this process."""
    from sdc.frontends.onnx import check_weights, load

    files = [path, *(p for p in path.parent.iterdir() if p.name.startswith(path.stem) and p != path)]
    for file in files:  # into the system's cache
        with file.open("rb") as stream:
            while stream.read(1 << 24):
                continue
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    model = load(path)
    loaded = time.perf_counter() - start
    check_weights(model)
    weights = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "stored": sum(f.stat().st_size for f in files) / 1e6,
        "load": loaded,
        "weights": weights,
        "peak": peak * 1024 / 1e6,  # Linux counts in KiB
        "float32": 4 * model.info.parameters / 1e6,
    }


if __name__ == "__main__":
    main()
