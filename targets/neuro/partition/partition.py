"""A graph cut to a machine: resident if all of it fits into the cores, else streamed in waves."""

from __future__ import annotations

import numpy as np

from sdc.targets.neuro.machine import Machine
from sdc.targets.neuro.mapping.graph import Accumulate, Encode, Op, Readout, SpikeGraph
from sdc.targets.neuro.mapping.tiles import Partition, Tiles
from sdc.targets.neuro.partition.cut import Cut, DoesNotFit, cut_op
from sdc.targets.neuro.partition.flows import connect

__all__ = ["DoesNotFit", "partition"]

_FIELDS = (
    "synapse_bytes",
    "neuron_bytes",
    "buffer_packets",
    "synops",
    "spike_cycles",
    "vector_ops",
    "neuron_updates",
    "sram_bytes",
)


def partition(graph: SpikeGraph, machine: Machine) -> Partition:
    """Cuts every operation into tiles, one core each, and finds what the tiles send each other.

    Weights stay in the cores if there are enough of them. Otherwise they are streamed from external memory:
    half of each core's synapse memory holds the weights in use, the other half receives the next ones.

    Raises:
        DoesNotFit: Neither is possible; needed and available are named.
    """
    ops = tuple(graph.ops)
    bits = _stored_bits(ops, machine)
    core = machine.core
    cuts = _cut_all(graph, ops, machine, bits, core.synapse_memory_bytes)
    needed = sum(cut.tiles for cut in cuts if cut)
    streamed = needed > machine.board.cores
    if streamed:
        _check_external(graph, machine, needed, bits)
        cuts = _cut_all(graph, ops, machine, bits, core.synapse_memory_bytes // 2)
    _check_buffers(ops, cuts, machine)
    tiles, first = _tiles(cuts, machine.board.cores if streamed else 0)
    owner = _owners(graph, ops)
    flows = connect(graph, ops, owner, cuts, first, tiles.wave, machine.network.payload_bits)
    waves = int(tiles.wave.max()) + 1 if len(tiles) else 0
    return Partition(ops, owner, tiles, flows, streamed, waves, bits)


def _stored_bits(ops: tuple[Op, ...], machine: Machine) -> int:
    bits = max((op.weight_bits for op in ops if isinstance(op, Accumulate)), default=8)
    try:
        return machine.core.stored_bits(bits)
    except ValueError as error:
        raise DoesNotFit(f"{machine.name}: {error}") from None


def _cut_all(
    graph: SpikeGraph, ops: tuple[Op, ...], machine: Machine, bits: int, synapse_bytes: int
) -> list[Cut | None]:
    """Cuts of all operations; None for read-outs, which happen on the cores of their accumulators.

    Encoders are cut last: none needs to be faster than the busiest weight tile.
    """
    encoders = {op.name: _encoder(graph, op) for op in ops if isinstance(op, Accumulate)}
    out: dict[str, Cut] = {}
    busiest = 0.0
    for late in (False, True):
        for op in ops:
            if isinstance(op, Readout) or isinstance(op, Encode) != late:
                continue
            cut = cut_op(op, encoders.get(op.name), machine.core, bits, synapse_bytes, busiest)
            out[op.name] = cut
            if not late:
                busiest = max(busiest, float(cut.spike_cycles.max()))
    return [out.get(op.name) for op in ops]


def _encoder(graph: SpikeGraph, op: Accumulate) -> Encode:
    sources = [graph.op(name) for name in graph.net.predecessors(op.name)]
    if len(sources) != 1 or not isinstance(sources[0], Encode):
        raise DoesNotFit(
            f"{op.name}: an accumulate takes its spikes from exactly one encoder, not {len(sources)}"
        )
    return sources[0]


def _owners(graph: SpikeGraph, ops: tuple[Op, ...]) -> np.ndarray:
    index = {op.name: i for i, op in enumerate(ops)}
    return np.array(
        [
            index[next(iter(graph.net.predecessors(op.name)))] if isinstance(op, Readout) else i
            for i, op in enumerate(ops)
        ],
        np.int64,
    )


def _check_external(graph: SpikeGraph, machine: Machine, needed: int, bits: int) -> None:
    board, memory = machine.board, machine.external_memory
    weights = graph.synapses * bits // 8
    cores = f"{needed:,} cores with {machine.core.synapse_memory_bytes:,} bytes of weights each"
    if memory is None:
        raise DoesNotFit(
            f"{graph.name} does not fit on {machine.name}: it needs {cores}, {board.cores:,} are available "
            f"({board.chips:,} chips of {board.cores_per_chip:,}); {weights:,} bytes of weights at {bits} "
            "bits, "
            "and there is no external memory to stream them from. Use narrower weights, a shorter max_seq, "
            "or a larger board."
        )
    available = memory.capacity_bytes_per_chip * board.chips
    if weights > available:
        raise DoesNotFit(
            f"{graph.name} does not fit on {machine.name}: it needs {cores}, {board.cores:,} are "
            "available, and its "
            f"{weights:,} bytes of weights exceed the {available:,} bytes of external memory"
        )


def _check_buffers(ops: tuple[Op, ...], cuts: list[Cut | None], machine: Machine) -> None:
    for op, cut in zip(ops, cuts, strict=True):
        if cut and int(cut.buffer_packets.max()) > machine.core.spike_buffer_packets:
            raise DoesNotFit(
                f"{op.name}: two groups of spikes need room for {int(cut.buffer_packets.max()):,} "
                "packets, a core of "
                f"{machine.name} buffers {machine.core.spike_buffer_packets:,}. Use smaller groups, fewer "
                "levels, or "
                "the bitwise coding."
            )


def _tiles(cuts: list[Cut | None], cores: int) -> tuple[Tiles, list[int]]:
    """All tiles in execution order; ``first[o]`` is the number of operation o's first tile."""
    op, corners, first = [], [], []
    columns: dict[str, list[np.ndarray]] = {name: [] for name in _FIELDS}
    count = 0
    for i, cut in enumerate(cuts):
        first.append(count)
        if cut is None:
            continue
        r, c = (m.ravel() for m in np.meshgrid(np.arange(cut.rows), np.arange(cut.cols), indexing="ij"))
        corners.append([cut.row_edges[r], cut.row_edges[r + 1], cut.col_edges[c], cut.col_edges[c + 1]])
        op.append(np.full(cut.tiles, i))
        for name in _FIELDS:
            columns[name].append(np.broadcast_to(getattr(cut, name), (cut.tiles,)))
        count += cut.tiles
    row0, row1, col0, col1 = (np.concatenate([corner[k] for corner in corners]) for k in range(4))
    wave = np.arange(count) // cores if cores else np.zeros(count, np.int64)
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Tiles(np.concatenate(op), row0, row1, col0, col1, **joined, wave=wave), first
