"""What of a token's time is not the compiled program's: Python and what it calls.

    python benchmarks/overhead.py PROGRAM [--context 128] [--tokens 32] [--rounds 7]
        [--write docs/benchmarks.md]

The time inside the compiled function, which runs some tokens and chooses each next one, is taken out of the
time of ``Program.tokens``, greedy and drawing, in the same run. On CPUs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from contestants import command, threads
from page import machine_line, spread, table, write_section

import sdc
from sdc.runtime.sampling import Sampler

SAMPLERS = {"greedy": (0.0, 1.0), "temperature 0.7, top-p 0.95": (0.7, 0.95), "temperature 1": (1.0, 1.0)}


class Clock:
    """Sums the time of the function that it stands in for."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def before(self, holder: Any) -> None:
        """Stands in for a holder's function."""
        holder._function = partial(self.run, holder._function)

    def run(self, function: Any, *arguments: Any) -> Any:
        """Calls it."""
        start = time.perf_counter()
        result = function(*arguments)
        self.seconds += time.perf_counter() - start
        return result


def main() -> None:
    """Parses the command line and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=Path, help="artefact directory")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", type=Path, help="page that receives the table")
    options = parser.parse_args()
    program = sdc.load(options.program)
    prompt = np.random.default_rng(0).integers(0, 1000, options.context).tolist()
    runner: Any = program.decoder
    clock = Clock()
    clock.before(runner._following)  # where Python ends
    rows = []
    for name, (temperature, top_p) in SAMPLERS.items():
        runs = [
            _run(program, clock, prompt, options.tokens, Sampler(temperature, top_p))
            for _ in range(options.rounds + 1)
        ][1:]
        outside = [1e6 * (whole - inside) for whole, inside in runs]
        shares = [100 * (1 - inside / whole) for whole, inside in runs]
        whole = statistics.median(1e3 * each for each, _ in runs)
        rows.append([name, f"{whole:.2f}", spread(outside, 0), spread(shares, 1)])
    head = ["choice of the token", "ms a token", "outside, microseconds", "outside, %"]
    text = f"{machine_line(threads())}, context {options.context}. {command()}\n\n{table(head, rows)}"
    print(text)
    if options.write:
        write_section(options.write, "overhead", "A token's time outside the compiled program", text)


def _run(
    program: sdc.Program, clock: Clock, prompt: list[int], tokens: int, sampler: Sampler
) -> tuple[float, float]:
    """Seconds of a token, whole and inside."""
    made = program.tokens(prompt, tokens + 1, sampler)
    next(made)
    clock.seconds, start, count = 0.0, time.perf_counter(), 0
    for _ in made:
        count += 1
    return (time.perf_counter() - start) / max(1, count), clock.seconds / max(1, count)


if __name__ == "__main__":
    main()
