"""Tables: what sparsity and codings buy on a machine, how mapping scales, published figures beside ours."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from sdc.ir.model import Coding
from sdc.targets.neuro.machine import Machine
from sdc.targets.neuro.mapping.llama import SHAPES, LlamaShape, llama_graph
from sdc.targets.neuro.mapping.mapping import map_graph
from sdc.targets.neuro.mapping.statistics import SpikeStatistics
from sdc.targets.neuro.simulate.timing import simulate_timing
from sdc.targets.neuro.simulate.timing_energy import dense, energy_per_token

__all__ = ["PUBLISHED", "CodingRow", "Published", "ScalingRow", "coding_table", "markdown", "scaling_table"]


@dataclass(frozen=True)
class CodingRow:
    """One machine with one coding.

    Attributes:
        activity: ``sparse`` (spikes only) or ``dense`` (every neuron in every time step).
        latency_ms: One token from embedding to choice.
        ms_per_token: Time between tokens of a stream of several.
        mj_per_token: Energy of one of these, static power included.
        dynamic_mj: The same without static power.
    """

    machine: str
    coding: Coding
    activity: str
    chips: int
    packets: float
    synops: float
    latency_ms: float
    ms_per_token: float
    mj_per_token: float
    dynamic_mj: float


@dataclass(frozen=True)
class ScalingRow:
    """One size of model on one machine.

    Attributes:
        mapping_s: Wall-clock time of partition, placement, routing and schedule.
        us_per_tile: The same for one tile.
        dynamic_mj, static_mj: Parts of ``mj_per_token``: events, and static power over ``ms_per_token``.
    """

    model: str
    parameters: int
    machine: str
    tiles: int
    chips: int
    streamed: bool
    mapping_s: float
    us_per_tile: float
    latency_ms: float
    ms_per_token: float
    mj_per_token: float
    dynamic_mj: float
    static_mj: float


@dataclass(frozen=True)
class Published:
    """A figure of others.

    Attributes:
        counted: What it includes, and what not.
    """

    what: str
    joules_per_token: float
    source: str
    counted: str


PUBLISHED = (
    Published(
        "SDLLM, LLaMA-2-7B, as printed",
        0.67,
        "arXiv 2604.16475, energy table",
        "the authors' estimate: additions of the linear layers and attention at 45 nm; no memory, network or "
        "static power, and no head. Its FP16 and W4A4 rows come out digit by digit for a sequence of 1,024 "
        "tokens (sdc energy), so it is not per token",
    ),
    Published(
        "the same, per token of 1,024",
        0.67 / 1024,
        "arXiv 2604.16475, energy table, over 1,024 tokens",
        "as above",
    ),
    Published(
        "Intel Loihi 2, MatMul-free LLM of 370 million, generation",
        0.405,
        "Abreu et al., arXiv 2503.18002, table of throughput and efficiency, as several others quote it: 24 "
        "chips, 41.5 tokens/s (prefill: 3.7 mJ)",
        "another model (ternary weights, no attention), batch 1; power of the system, partly extrapolated; "
        "the authors call their results preliminary, and half the energy of a transformer on an edge GPU",
    ),
    Published(
        "IBM NorthPole, 3-billion LLM",
        672 / 28356,
        "Appuswamy et al., HPEC 2024: 672 W of 16 cards at 28,356 tokens/s",
        "measured power of the 16 cards over the throughput of all streams; the host is not counted",
    ),
    Published(
        "IBM NorthPole rack, three 8-billion LLMs",
        30e3 / (3 * 28 / 2.8e-3),
        "DeBole et al., arXiv 2511.15950: 30 kW, 3 instances of 28 users at 2.8 ms a token",
        "power of the whole rack with its servers, over the tokens of all users",
    ),
)


def coding_table(
    machines: Iterable[Machine],
    shape: LlamaShape | str = "smollm2-135m",
    *,
    levels: int = 15,
    codings: Sequence[Coding] = ("bitwise", "ternary", "binary"),
    statistics: Mapping[Coding, SpikeStatistics] | None = None,
    tokens: int = 8,
    rounds: int | None = None,
) -> Iterator[CodingRow]:
    """Every machine with every coding, sparse and dense.

    Args:
        statistics: Measured spikes by coding; by default estimates for ``levels``.
    """
    for machine in machines:
        for coding in codings:
            expected = (statistics or {}).get(coding) or SpikeStatistics(levels=levels, coding=coding)
            graph = llama_graph(shape, expected)
            for activity, program in (("sparse", graph), ("dense", dense(graph))):
                mapping = map_graph(program, machine, tokens=tokens, rounds=rounds)
                timing = simulate_timing(mapping)
                energy = energy_per_token(mapping, timing.period_ns)
                yield CodingRow(
                    machine=machine.name,
                    coding=coding,
                    activity=activity,
                    chips=mapping.chips,
                    packets=energy.counts["packets"],
                    synops=energy.counts["synops"],
                    latency_ms=timing.latency_ns / 1e6,
                    ms_per_token=timing.period_ns / 1e6,
                    mj_per_token=energy.total_pj / 1e9,
                    dynamic_mj=energy.dynamic_pj / 1e9,
                )


def scaling_table(
    machine: Machine,
    shapes: Sequence[LlamaShape | str] = tuple(SHAPES),
    *,
    statistics: SpikeStatistics | None = None,
    weight_bits: int = 8,
    tokens: int = 4,
) -> Iterator[ScalingRow]:
    """Mapping time, simulated time and energy for models of growing size."""
    for entry in shapes:
        shape = SHAPES[entry] if isinstance(entry, str) else entry
        graph = llama_graph(shape, statistics, weight_bits=weight_bits)
        begin = time.perf_counter()
        mapping = map_graph(graph, machine, tokens=tokens)
        took = time.perf_counter() - begin
        timing = simulate_timing(mapping)
        energy = energy_per_token(mapping, timing.period_ns)
        tiles = len(mapping.partition.tiles)
        yield ScalingRow(
            model=shape.name,
            parameters=shape.parameters,
            machine=machine.name,
            tiles=tiles,
            chips=mapping.chips,
            streamed=mapping.partition.streamed,
            mapping_s=took,
            us_per_tile=1e6 * took / tiles,
            latency_ms=timing.latency_ns / 1e6,
            ms_per_token=timing.period_ns / 1e6,
            mj_per_token=energy.total_pj / 1e9,
            dynamic_mj=energy.dynamic_pj / 1e9,
            static_mj=energy.static_pj / 1e9,
        )


def markdown(rows: Sequence[CodingRow] | Sequence[ScalingRow] | Sequence[Published]) -> str:
    """The rows as a table in Markdown; numbers with three significant digits."""
    if not rows:
        return ""
    dicts = [asdict(row) for row in rows]
    heads = list(dicts[0])
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(_cell(d[h]) for h in heads) + " |" for d in dicts]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
