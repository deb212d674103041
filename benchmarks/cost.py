"""What a decoded token costs, against context, weights and threads: measurements, and a model fitted to them.

    python benchmarks/cost.py PROGRAM [PROGRAM ...] [--contexts 64 512 1024 1900] [--write docs/benchmarks.md]

The model, for each number of threads: seconds = a + b * weight bytes + c * cache bytes (context times the
bytes of a cached token). 1 / b and 1 / c are the rates at which weights and cache are worked through; a is
what a token costs apart from them: barriers, encoders, Python. a and b fall together where all programs have
equal weights.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from contestants import Ours, command, threads
from page import machine_line, table, write_section

_TOKENS = 16
_ROUNDS = 9


def main() -> None:
    """Measures in one process per number of threads, and prints measurements and fits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", type=Path, nargs="+", help="artefact directories")
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 512, 1024, 1900])
    parser.add_argument("--write", type=Path, help="page that receives the tables")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps([row for path in options.programs for row in measure(path, options.contexts)]))
        return
    parts = [f"{machine_line(threads())}. {command()}"]
    rows, fits = [], []
    for count in sorted({1, threads()}):
        found = _in_process(count)
        rows += [_row(count, *point) for point in found]
        fits.append([count, *_fit(found)])
    head = ["threads", "program", "context", "ms a token", "weights, MB", "cache, MB", "GB/s"]
    parts.append(table(head, rows))
    head = ["threads", "a, ms", "weights: 1/b, GB/s", "cache: 1/c, GB/s", "largest error of the fit"]
    parts.append(table(head, fits))
    print("\n\n".join(parts))
    if options.write:
        write_section(options.write, "cost", "Cost of a token", "\n\n".join(parts))


Point = tuple[str, int, float, int, int]


def measure(path: Path, contexts: list[int]) -> list[Point]:
    """(program, context, seconds a token, weight bytes, cache bytes) at every context."""
    program = Ours(path)
    weights = program.bytes_per_token(0)
    best = dict.fromkeys(contexts, float("inf"))
    for _ in range(_ROUNDS):  # contexts in turn: the machine's speed moves from one minute to the next
        for context in contexts:
            program.prefill(np.random.default_rng(0).integers(0, 1000, context))
            best[context] = min(best[context], program.decode(_TOKENS) / _TOKENS)
    return [(program.name, c, best[c], weights, program.bytes_per_token(c) - weights) for c in contexts]


def _in_process(count: int) -> list[Point]:
    environment = {**os.environ, "TVM_NUM_THREADS": str(count)}
    done = subprocess.run(
        [sys.executable, *sys.argv, "--measure"], env=environment, capture_output=True, text=True, check=True
    )
    return [tuple(point) for point in json.loads(done.stdout.splitlines()[-1])]


def _row(count: int, name: str, context: int, seconds: float, weights: int, cache: int) -> list[object]:
    rate = (weights + cache) / seconds / 1e9
    sizes = [f"{weights / 1e6:.0f}", f"{cache / 1e6:.1f}"]
    return [count, name, context, f"{seconds * 1e3:.2f}", *sizes, f"{rate:.1f}"]


def _fit(points: list[Point]) -> list[str]:
    """Least squares of relative errors; a is 0 where the programs' weights do not tell it from b."""
    seconds = np.array([p[2] for p in points])
    weights, cache = (np.array([float(p[i]) for p in points]) for i in (3, 4))
    several = len(set(weights)) > 1
    columns = [np.ones_like(seconds), weights, cache] if several else [weights, cache]
    matrix = np.stack(columns, 1)
    found, *_ = np.linalg.lstsq(matrix / seconds[:, None], np.ones_like(seconds), rcond=None)
    error = np.abs(matrix @ found / seconds - 1).max()
    a, b, c = found if several else (0.0, *found)
    return [
        f"{a * 1e3:.2f}" if several else "in b",
        f"{1e-9 / b:.1f}",
        f"{1e-9 / c:.1f}",
        f"{100 * error:.0f} %",
    ]


if __name__ == "__main__":
    main()
