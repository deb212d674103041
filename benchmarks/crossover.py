"""Collapsed against event-driven accumulation, over the share of counts that are 0: which one is faster.

    python benchmarks/crossover.py [--rounds 5] [--write docs/benchmarks.md]

Every linear of SmolLM2 decodes one token in both forms, on weights that fit no cache (as
``benchmarks/kernels.py`` does). A model of both forms' time is fitted to all measurements; the compiler
chooses by it (``sdc compile --lowering auto``), with the constants of ``sdc/targets/cpu/lower/choice.py``.
``--write`` also draws the measurements into ``crossover.svg`` beside the page.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
from contestants import command, threads
from kernels import BITS, SHAPES, Kernel, linear, region
from numpy.typing import NDArray
from page import machine_line, table, write_section
from plot import Line, line_chart
from scipy.optimize import nnls
from tvm import tirx

from sdc.targets.cpu.isa import Isa, best_level
from sdc.targets.cpu.kernels.event import LINE_BYTES, EventSpec, event_linear, lines
from sdc.targets.cpu.kernels.linear import LinearSpec
from sdc.targets.cpu.lower.choice import Costs, choose, collapsed_cost, event_cost, event_terms, weights_read

ZEROS = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)
LEVELS = 7
DASHES = {2: "2 3", 4: "", 8: "6 4"}

Seconds = dict[float | None, float]  # by share of zeros; None: collapsed


def main() -> None:
    """Parses the command line; prints measurements and fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="page that receives the tables")
    options = parser.parse_args()
    pairs = {
        (name, bits): Pair(linear(*SHAPES[name], bits), best_level()) for name in SHAPES for bits in BITS
    }
    rounds = [{key: pair.measure() for key, pair in pairs.items()} for _ in range(options.rounds)]
    found = {key: _medians([r[key] for r in rounds]) for key in pairs}
    costs = {bits: fit([(pairs[k].spec, found[k]) for k in pairs if k[1] == bits]) for bits in BITS}
    parts = [
        f"{machine_line(threads())}, {best_level().name}. {command()}",
        "Time of the event-driven form over the collapsed one's (below 1 it is faster), by the share of "
        "counts that are 0; one decoded token, accumulator groups of 32 (2 and 4 bits) and 64 (8 bits).",
        table(["linear", "weights", "crossover", *(f"{z:.0%}" for z in ZEROS)], _rows(found)),
        "Nanoseconds fitted to these measurements, and how far the model is from them; the compiler's own "
        "constants are in `sdc/targets/cpu/lower/choice.py`.",
        table(
            ["weights", "a weight", "a channel", "a group", "a quad", "a jump", "median error", "choices"],
            [
                [f"{b} bits", *_fitted(costs[b], [(pairs[k].spec, found[k]) for k in pairs if k[1] == b])]
                for b in BITS
            ],
        ),
        "![Time against zeros](crossover.svg)",
    ]
    print("\n\n".join(parts))
    print({bits: [float(f"{c:.3g}") for c in astuple(each)] for bits, each in costs.items()})
    if options.write:
        write_section(options.write, "crossover", "Event-driven against collapsed", "\n\n".join(parts))
        options.write.with_name("crossover.svg").write_text(picture(found), encoding="utf-8")


class Pair:
    """One linear in both forms."""

    def __init__(self, spec: LinearSpec, isa: Isa) -> None:
        self.spec = replace(spec, tokens=1)
        copies, passes = Kernel.layout(self.spec)
        self.each = copies * passes
        self.collapsed = region(self.spec, isa, copies, passes)
        columns = (lines(spec), spec.width, LINE_BYTES // 4)
        self.event = region(self.spec, isa, copies, passes, _event, columns)

    def measure(self) -> Seconds:
        """Seconds of one call."""
        seconds: Seconds = {None: self.collapsed(_counts(self.spec.width, 0.5)) / self.each}
        for zeros in ZEROS:
            seconds[zeros] = self.event(_counts(self.spec.width, zeros)) / self.each
        return seconds


def _event(spec: LinearSpec, isa: Isa) -> tirx.PrimFunc:
    return event_linear(EventSpec(spec), isa)


def _counts(width: int, zeros: float) -> NDArray:
    """One token's counts, of which the share ``zeros`` is 0, at random places."""
    random = np.random.default_rng(width)
    counts = random.integers(1, LEVELS + 1, (1, width)) * random.choice((-1, 1), (1, width))
    counts[0, random.permutation(width)[: round(zeros * width)]] = 0
    return counts.astype(np.int8)


def _medians(rounds: list[Seconds]) -> Seconds:
    return {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}


Points = list[tuple[LinearSpec, Seconds]]


def fit(points: Points) -> Costs:
    """Least squares of relative errors, no constant below 0."""
    dense = [([weights_read(spec)], found[None]) for spec, found in points]
    sparse = [(event_terms(spec, zeros), found[zeros]) for spec, found in points for zeros in ZEROS]
    return Costs(*_least_squares(dense), *_least_squares(sparse))


def _least_squares(rows: Sequence[tuple[Sequence[float], float]]) -> list[float]:
    """Nanoseconds a unit of every column."""
    matrix = np.array([[size * 1e-9 / seconds for size in sizes] for sizes, seconds in rows])
    found, _ = nnls(matrix, np.ones(len(matrix)))
    return [float(each) for each in found]


def _fitted(costs: Costs, points: Points) -> list[str]:
    """The constants, the median relative error, and how often the compiler's choice was the faster form."""
    errors, right, all_ = [], 0, 0
    for spec, found in points:
        errors.append(abs(collapsed_cost(spec, costs) * 1e-9 / found[None] - 1))
        for zeros in ZEROS:
            errors.append(abs(event_cost(spec, costs, zeros) * 1e-9 / found[zeros] - 1))
            faster = "event" if found[zeros] < found[None] else "collapsed"
            right, all_ = right + (choose(spec, zeros, "auto") == faster), all_ + 1
    cells = [f"{each:.3g}" for each in astuple(costs)]
    return [*cells, f"{statistics.median(errors):.0%}", f"{right} of {all_} right"]


def _rows(found: dict[tuple[str, int], Seconds]) -> list[list[str]]:
    rows = []
    for (name, bits), seconds in found.items():
        ratios = [seconds[z] / seconds[None] for z in ZEROS]
        rows.append([name, f"{bits} bits", _crossover(ratios), *(f"{r:.2f}" for r in ratios)])
    return rows


def _crossover(ratios: list[float]) -> str:
    """The share of zeros from which the event-driven form is faster, between measurements."""
    for at in range(len(ZEROS) - 1, -1, -1):
        if ratios[at] >= 1:
            if at + 1 == len(ZEROS):
                return "never"
            share = (ratios[at] - 1) / (ratios[at] - ratios[at + 1])
            return f"{ZEROS[at] + share * (ZEROS[at + 1] - ZEROS[at]):.0%}"
    return "always"


def picture(found: dict[tuple[str, int], Seconds]) -> str:
    """Ratios over zeros, a line for every linear."""
    drawn = [
        Line(f"{name}, {bits} bits", [(z, s[z] / s[None]) for z in ZEROS], DASHES[bits])
        for (name, bits), s in found.items()
    ]
    return line_chart(drawn, "share of counts that are 0", "event-driven over collapsed time", level=1.0)


if __name__ == "__main__":
    main()
