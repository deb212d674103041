"""What spikes cost on every shipped machine: sparse against dense; bitwise, ternary and binary trains.

    python benchmarks/neuro_codings.py SMOLLM2.sdc [--windows 1] [--window 1023] [-o docs/neuro-results.md]

SMOLLM2.sdc is SmolLM2 compiled for the CPU; it runs a text to measure how often each layer fires. Counts do
not depend on coding or target, so its spikes are those of the neuromorphic program. A query of a window of
1023 tokens meets 512 keys on average, the context that is simulated. Times and energies are simulated on the
machine descriptions. Prints Markdown, or writes it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import sdc
from sdc.data import demo_text
from sdc.ir.model import Coding
from sdc.runtime.program import score_with_firing
from sdc.targets.firing import Firing
from sdc.targets.neuro.machine import load_machine, shipped_machines
from sdc.targets.neuro.mapping.statistics import SpikeStatistics, measured_statistics
from sdc.targets.neuro.partition import DoesNotFit
from sdc.targets.neuro.simulate.timing_tables import (
    PUBLISHED,
    CodingRow,
    ScalingRow,
    coding_table,
    markdown,
    scaling_table,
)

CODINGS: tuple[Coding, ...] = ("bitwise", "ternary", "binary")
ROUNDS = 400  # of annealing


def main() -> None:
    """Measures, simulates, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=Path, help="SmolLM2 compiled for the CPU")
    parser.add_argument("--windows", type=int, default=1)
    parser.add_argument("--window", type=int, default=1023)
    parser.add_argument("--tokens", type=int, default=8, help="tokens of a stream")
    parser.add_argument("-o", "--out", type=Path, help="file to write instead of printing")
    options = parser.parse_args()
    program = sdc.load(options.program)
    firing = measure(program, options.windows, options.window)
    config = program.manifest["config"]
    heads = next(op["heads"] for op in program.manifest["ops"] if op["kind"] == "attention")
    statistics = {c: of_firing(firing, config, heads, c) for c in CODINGS}
    pages = [INTRODUCTION, spikes_table(statistics, config, firing.tokens)]
    pages += ["## SmolLM2-135M: event-driven against dense, coding against coding\n", CODINGS_TEXT]
    machines = [load_machine(name) for name in shipped_machines()]
    pages += list(
        coding_tables(coding_table(machines, statistics=statistics, tokens=options.tokens, rounds=ROUNDS))
    )
    pages += ["## LLaMA-2-7B: energy per token\n", LARGE_TEXT]
    pages.append(large_table(statistics["bitwise"], options.tokens))
    pages += ["Published figures, and what they count:\n", markdown(PUBLISHED)]
    text = "\n".join(pages)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    else:
        print(text)


def measure(program: sdc.Program, windows: int, window: int) -> Firing:
    """Firing of a program on the held-out text that comes with sdc."""
    assert program.tokenizer is not None
    ids = program.tokenizer.encode(demo_text()[1])
    total = Firing()
    for start in range(0, min(len(ids), windows * window), window):
        program.decoder.reset()
        total.merge(score_with_firing(program.decoder, ids[start : start + window])[1])
    return total


def of_firing(firing: Firing, config: dict[str, Any], heads: int, coding: Coding) -> SpikeStatistics:
    """The statistics for one coding."""
    return measured_statistics(
        firing.linears,
        firing.attentions,
        config["levels"],
        coding,
        config["group"],
        probabilities=firing.probabilities,
        keys=round(firing.probabilities[0].neurons / (firing.tokens * heads)),
    )


def spikes_table(statistics: dict[Coding, SpikeStatistics], config: dict[str, Any], tokens: int) -> str:
    """Spikes per neuron by role."""
    lines = [
        f"Measured on SmolLM2-135M-Instruct, {tokens} tokens of held-out text: {config['levels']} levels, "
        f"thresholds per {config['group']} channels, {config['weights']} weights, Hadamard blocks of "
        f"{config['block']}. Spikes per neuron and token, mean over the layers "
        f"(`attn:q`: queries; `attn:p`: attention probabilities, {statistics['bitwise'].measured_keys} a "
        f"query, {statistics['bitwise'].probability_levels} levels):\n",
        "| layer | bitwise | ternary, binary |\n| --- | --- | --- |",
    ]
    for role, ternary in statistics["ternary"].by_role.items():
        lines.append(f"| {role} | {statistics['bitwise'].by_role[role]:.2f} | {ternary:.2f} |")
    return "\n".join(lines) + "\n"


def coding_tables(rows: Iterable[CodingRow]) -> Iterator[str]:
    """One table a machine; ratios are to the dense run of the same coding and to sparse bitwise."""
    by_machine: dict[str, list[CodingRow]] = {}
    for row in rows:
        by_machine.setdefault(row.machine, []).append(row)
    for machine, found in by_machine.items():
        chosen = {(row.coding, row.activity): row for row in found}
        best = chosen["bitwise", "sparse"]
        yield f"### {machine} ({best.chips} chips)\n"
        lines = [
            "| coding | activity | synops, millions | packets, thousands | latency, ms | ms / token "
            "| mJ / token | of it events | time saved | energy saved | time to bitwise | energy to bitwise |",
            "|" + " --- |" * 12,
        ]
        lines += [_line(row, chosen[row.coding, "dense"], best) for row in found]
        yield "\n".join(lines) + "\n"


def _line(row: CodingRow, dense: CodingRow, best: CodingRow) -> str:
    cells = [
        row.coding,
        row.activity,
        f"{row.synops / 1e6:.0f}",
        f"{row.packets / 1e3:.0f}",
        f"{row.latency_ms:.3g}",
        f"{row.ms_per_token:.3g}",
        f"{row.mj_per_token:.3g}",
        f"{row.dynamic_mj:.3g}",
        f"{dense.ms_per_token / row.ms_per_token:.2f}x",
        f"{dense.mj_per_token / row.mj_per_token:.2f}x",
        f"{row.ms_per_token / best.ms_per_token:.2f}x",
        f"{row.mj_per_token / best.mj_per_token:.2f}x",
    ]
    return "| " + " | ".join(cells) + " |"


def large_table(statistics: SpikeStatistics, tokens: int) -> str:
    """LLaMA-2-7B shapes with 8-bit weights on every machine that holds them."""
    lines = [
        "| machine | chips | weights | latency, ms | ms / token | J / token | of it events | of it static |",
        "|" + " --- |" * 8,
    ]
    for name in shipped_machines():
        try:
            rows = scaling_table(load_machine(name), ("llama2-7b",), statistics=statistics, tokens=tokens)
            lines += [_large_line(row) for row in rows]
        except DoesNotFit as error:
            lines.append(f"| {name} | does not fit: {error} |" + " |" * 6)
    return "\n".join(lines) + "\n"


def _large_line(row: ScalingRow) -> str:
    weights = "streamed" if row.streamed else "in the cores"
    joules = (row.mj_per_token / 1e3, row.dynamic_mj / 1e3, row.static_mj / 1e3)
    numbers = [f"{v:.3g}" for v in (row.latency_ms, row.ms_per_token, *joules)]
    return "| " + " | ".join([row.machine, str(row.chips), weights, *numbers]) + " |"


INTRODUCTION = """# What spikes cost on the shipped machines

Made by `python benchmarks/neuro_codings.py SMOLLM2.sdc -o docs/neuro-results.md`. Times and energies are
simulated on the machine descriptions (`targets/neuro/machines`), many of whose numbers are assumed; compare
rows of one machine rather than machines. See [neuro.md](neuro.md) for what is counted.
"""

CODINGS_TEXT = """*Sparse* sends a packet and adds a row of weights only where a spike is; *dense* is the same
machine, the same T time steps, with every neuron sending in every step. Context of 512 tokens, 8-bit weights;
attention included, with measured spikes of queries and probabilities. Latency is that of the first token;
milliseconds and joules per token are those of a stream of tokens that follow each other through the layers.
`time saved` and `energy saved` compare with the dense row of the same coding.
"""

LARGE_TEXT = """Synthetic weights (only shapes matter), spikes per neuron as measured on SmolLM2 by role,
bitwise trains of 15 levels, 8-bit weights, context of 512 tokens, tokens of a stream. Counted: every synaptic
addition with the fetch of its weight, encoders, read-outs, attention, norms, activations, vectors and cache
in SRAM, packets, hops, links between chips, weights streamed from DRAM (shared by the tokens of a batch), and
static power of the chips in use over the time of one token. Not counted: the host, power conversion, cooling.
"""


if __name__ == "__main__":
    main()
