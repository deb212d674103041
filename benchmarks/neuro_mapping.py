"""How good mapping is, and how it scales: placement, schedule, freedom from deadlock, wall-clock time.

    python benchmarks/neuro_mapping.py [PROGRAM.sdc ...] [--tokens 16] [-o docs/neuro-mapping.md]

Programs, compiled with ``--target=neuro``, are run for one token and timed, each on its machine. Prints
Markdown tables, or writes them. Times of the machine are simulated; mapping times are this computer's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

from sdc.runtime import Program
from sdc.targets.neuro.machine import Machine, load_machine, shipped_machines
from sdc.targets.neuro.mapping import Partition, llama_graph
from sdc.targets.neuro.mapping.mapping import Mapping, map_graph
from sdc.targets.neuro.partition import partition
from sdc.targets.neuro.place import place, place_by_bisection, place_randomly
from sdc.targets.neuro.route import channel_dependencies, find_cycle
from sdc.targets.neuro.runner import DecoderRunner
from sdc.targets.neuro.simulate.timing import simulate_timing
from sdc.targets.neuro.simulate.timing_tables import ScalingRow, scaling_table
from sdc.targets.neuro.simulation import simulate_decoder

MODEL = "smollm2-135m"
SCALES = ("northpole-like", "loihi2-like")
FIRST_TOKEN = 504  # "The"
ROUNDS = 300  # of annealing, where not the placement itself is measured
HEADS = {
    "placement": "machine | tiles | weights | ours / bound | ours / random | METIS / bound | METIS / random",
    "schedule": "machine | tokens | bound, us | schedule, us | ratio | simulated with contention, us | ratio",
    "programs": "machine | cores | instructions | bound, us | makespan, us | ratio",
    "deadlock": "machine | trees | channel dependencies | cycles",
    "scaling": "machine | model | weights, millions | tiles | chips | weights | mapping, s | us / tile "
    "| simulated latency, ms",
}


def main() -> None:
    """Maps and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", type=Path, nargs="*", help="compiled programs of SmolLM2")
    parser.add_argument("--tokens", type=int, default=16, help="tokens of a batch")
    parser.add_argument("-o", "--out", type=Path, help="file to write instead of printing")
    options = parser.parse_args()
    graph = llama_graph(MODEL)
    machines = [load_machine(name) for name in shipped_machines()]
    mappings = [map_graph(graph, m, tokens=options.tokens, rounds=ROUNDS) for m in machines]
    pages = [
        INTRODUCTION,
        table("placement", (placement_row(m, partition(graph, m)) for m in machines)),
        SCHEDULE,
        table("schedule", (schedule_row(mapping) for mapping in mappings)),
        *([PROGRAMS, table("programs", map(program_row, options.programs))] if options.programs else []),
        DEADLOCK,
        table("deadlock", (deadlock_row(mapping) for mapping in mappings)),
        SCALING,
        table("scaling", scaling_rows()),
    ]
    text = "\n".join(pages)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    else:
        print(text)


def table(name: str, rows: Iterable[list[object]]) -> str:
    """Markdown."""
    head = HEADS[name]
    lines = [f"| {head} |", "|" + " --- |" * (head.count("|") + 1)]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def cell(value: object) -> str:
    """Numbers with three significant digits, thousands apart."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e3 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def placement_row(machine: Machine, part: Partition) -> list[object]:
    """Spike-hops of one token."""
    ours, random = place(part, machine), place_randomly(part, machine)
    metis = None if part.streamed else place_by_bisection(part, machine)
    others = (metis.ratio, metis.spike_hops / random.spike_hops) if metis else ("-", "-")
    weights = "streamed" if part.streamed else "in the cores"
    return [
        machine.name,
        len(part.tiles),
        weights,
        ours.ratio,
        ours.spike_hops / random.spike_hops,
        *others,
    ]


def schedule_row(mapping: Mapping) -> list[object]:
    """Static schedule and simulation against the bound."""
    plan, timing = mapping.schedule, simulate_timing(mapping)
    return [
        mapping.machine.name,
        plan.tokens,
        plan.bound_ns / 1e3,
        plan.makespan_ns / 1e3,
        plan.makespan_ns / plan.bound_ns,
        timing.makespan / 1e3,
        timing.makespan / plan.bound_ns,
    ]


def program_row(path: Path) -> list[object]:
    """A compiled program's first token, instruction by instruction, against its own bound."""
    program = Program.load(path)
    files, runner = program.manifest["program"], program.decoder
    assert isinstance(runner, DecoderRunner)  # the target's only runner of language models
    machine = load_machine(path / files["machine"])
    run = simulate_decoder(runner, machine, [FIRST_TOKEN], 1).run
    used = files["summary"]
    times = [run.bound_ns / 1e3, run.makespan_ns / 1e3, run.makespan_ns / run.bound_ns]
    return [machine.name, used["cores"], used["instructions"], *times]


def deadlock_row(mapping: Mapping) -> list[object]:
    """The channel dependency graph of all trees."""
    dependencies = channel_dependencies(mapping.routes, mapping.grid)
    cycle = find_cycle(dependencies)
    return [mapping.machine.name, len(mapping.routed), len(dependencies), "none" if not len(cycle) else "YES"]


def scaling_rows() -> Iterator[list[object]]:
    """0.1, 1 and 7 billion parameters, two tokens."""
    for name in SCALES:
        for row in scaling_table(load_machine(name), tokens=2):
            yield scaling_cells(row)


def scaling_cells(row: ScalingRow) -> list[object]:
    """One size of model."""
    weights = "streamed" if row.streamed else "in the cores"
    sizes: list[object] = [row.machine, row.model, round(row.parameters / 1e6), row.tiles, row.chips, weights]
    return [*sizes, row.mapping_s, row.us_per_tile, row.latency_ms]


INTRODUCTION = """# How good mapping is, and how it scales

Made by `python benchmarks/neuro_mapping.py PROGRAM.sdc ... -o docs/neuro-mapping.md`; see
[neuro.md](neuro.md) for the terms.

## Placement of SmolLM2-135M

Spike-hops: packets times links, for one token. *Bound*: what no placement can go below
(`targets/neuro/place/bound.py`). *Random*: the same tiles shuffled over the same compact region. *METIS*:
recursive bisection with METIS on that region (resident models only). Where weights are streamed, this is the
mapping of shapes; a compiled program deals its cores out by duty (`targets/neuro/codegen/streamed.py`).
"""
SCHEDULE = """## Schedule of SmolLM2-135M

Bound: the longest chain of dependent work and messages, the busiest core, the busiest external memory. The
simulation adds contention for links and waiting for buffers.
"""
PROGRAMS = """## Programs of SmolLM2-135M

The compiled binaries, timed instruction by instruction over their first token; the bound is the same run
without contention, or the busiest core, link or external memory.
"""
DEADLOCK = """## Freedom from deadlock

A cycle in the channel dependency graph would let packets wait for each other (Dally and Seitz 1987).
"""
SCALING = """## From 0.1 to 7 billion parameters

Mapping: partition, placement, routing and schedule. Placement anneals for a fixed effort, so the time per
tile falls until partition and routing dominate; linear would be a constant time per tile. The latency is that
of one token from embedding to choice, with contention.
"""


if __name__ == "__main__":
    main()
