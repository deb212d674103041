"""Tokens per second of prompts that decode together, against one alone.

    python benchmarks/batch.py PROGRAM [PROGRAM ...] [--sizes 1 2 4 8] [--context 128]
        [--write docs/benchmarks.md]

Weights are read once a step for all sequences; attention and its cache are every sequence's own. Sizes take
turns; what is printed are medians of all sequences' tokens per second, their spread, and ratios round by
round to one sequence in the function for one (``alone``).
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from contestants import command, threads
from page import machine_line, spread, table, write_section

import sdc
from sdc.runtime.sampling import Sampler
from sdc.targets.cpu.isa import best_level

ALONE = 0


def main() -> None:
    """Parses the command line and prints one table a program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", type=Path, nargs="+", help="artefact directories")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="page that receives the table")
    options = parser.parse_args()
    parts = [
        f"{machine_line(threads())}, {best_level().name}, context {options.context}. {command()}",
        "Weights are read once a step, but every sequence has its own arithmetic: the gain ends where that "
        "takes longer than reading, which is early on a processor without byte dot products (x86-64-v3).",
    ]
    for path in options.programs:
        runner: Any = sdc.load(path).decoder
        groups = {size: _group(runner, size, options.context) for size in options.sizes}
        prompt = _prompt(0, options.context)
        rounds = []
        for number in range(options.rounds + 1):
            speeds = {ALONE: alone(runner, prompt, options.tokens)}
            speeds |= {n: together(g, options.context, options.tokens) for n, g in groups.items()}
            if number:  # the first one warms up
                rounds.append(speeds)
        parts.append(_report(path.stem, rounds))
    print("\n\n".join(parts))
    if options.write:
        write_section(options.write, "batch", "Several prompts at once", "\n\n".join(parts))


def _prompt(number: int, length: int) -> Any:
    return np.random.default_rng(number).integers(0, 1000, length)


def _group(runner: Any, size: int, context: int) -> Any:
    """Sequences with different prompts in their caches."""
    group = runner.together(size)
    for number, sequence in enumerate(group.sequences):
        sequence.prefill(_prompt(number, context))
    return group


def alone(runner: Any, prompt: Any, tokens: int) -> float:
    """Tokens per second of one sequence by itself."""
    token = int(runner.resume(prompt).argmax())
    start = time.perf_counter()
    *_, _last = runner.following(token, Sampler(), most=tokens)
    return tokens / (time.perf_counter() - start)


def together(group: Any, context: int, tokens: int) -> float:
    """Tokens per second of all sequences of a group."""
    numbers = range(len(group.sequences))
    made = [
        int(s.resume(_prompt(i, context)).argmax()) for i, s in zip(numbers, group.sequences, strict=True)
    ]
    start = time.perf_counter()
    for _ in range(tokens):
        made = [int(t) for t in group.decode(numbers, made).argmax(1)]
    return tokens * len(made) / (time.perf_counter() - start)


def _report(name: str, rounds: list[dict[int, float]]) -> str:
    rows = []
    for size in rounds[0]:
        speeds = [r[size] for r in rounds]
        ratios = [r[size] / r[ALONE] for r in rounds]
        each = statistics.median(speeds) / max(1, size)
        label = f"sdc {name}, {f'{size} together' if size else 'alone'}"
        rows.append([label, spread(speeds), f"{each:.1f}", spread(ratios, 2)])
    return table(["program", "tokens/s (min - max)", "each", "ratio to one alone"], rows)


if __name__ == "__main__":
    main()
