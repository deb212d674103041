"""How one operation is cut: the grid of its tiles, and what each needs and does.

A weight matrix [N, K] is cut into R x C tiles. Cutting K costs a reduction: the tiles of one row block form a
chain in ascending order of input groups, and pass float32 partial sums along it. Since every tile adds its
own groups in ascending order too, the result has the very rounding of the undivided sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc.errors import TargetError
from sdc.targets.neuro.machine import Core
from sdc.targets.neuro.mapping.graph import Accumulate, Attention, Encode, Op, Vector

__all__ = ["Cut", "DoesNotFit", "cut_accumulate", "cut_attention", "cut_encode", "cut_vector"]

WORD = 4
"""Bytes of an int32 accumulator or a float32 value."""
ENCODE_BYTES = 16
"""Of one channel in an encoder: residual, summand (double-buffered), normalised value."""
CHUNK = 64
"""Channels whose spikes are sent under one credit where one threshold covers a whole row."""


class DoesNotFit(TargetError):
    """The model needs more than the machine has; the message says how much of what."""


@dataclass(frozen=True)
class Cut:
    """The tiles of one operation, as arrays with one entry per tile; fields as in :class:`Tiles`.

    Attributes:
        row_edges, col_edges: Where rows and columns are cut, [R + 1] and [C + 1]. Tile (r, c) is number r *
            C + c.
    """

    row_edges: NDArray[np.int64]
    col_edges: NDArray[np.int64]
    synapse_bytes: NDArray[np.int64]
    neuron_bytes: NDArray[np.int64]
    buffer_packets: NDArray[np.int64]
    synops: NDArray[np.float64]
    spike_cycles: NDArray[np.float64]
    vector_ops: NDArray[np.float64]
    neuron_updates: NDArray[np.float64]
    sram_bytes: NDArray[np.float64]

    @property
    def rows(self) -> int:
        """Row blocks R."""
        return len(self.row_edges) - 1

    @property
    def cols(self) -> int:
        """Column blocks C."""
        return len(self.col_edges) - 1

    @property
    def tiles(self) -> int:
        """R * C."""
        return self.rows * self.cols


def edges(length: int, parts: int, quantum: int = 1) -> NDArray[np.int64]:
    """[parts + 1] cuts of ``length`` into nearly equal pieces at multiples of ``quantum``."""
    units = length // quantum
    return np.minimum(np.arange(parts + 1) * units // parts * quantum, length).astype(np.int64)


def cut_accumulate(op: Accumulate, encode: Encode, core: Core, stored_bits: int, synapse_bytes: int) -> Cut:
    """The grid of tiles that takes the fewest cores; of several, the one with the least traffic.

    Args:
        encode: Where the spikes come from.
        synapse_bytes: Memory for weights (half of the core's where weights are streamed).

    Raises:
        DoesNotFit: Not even one neuron with one group fits.
    """
    groups = op.width // op.group
    found: list[tuple[int, float, int, int]] = []
    for cols in range(1, groups + 1):
        per_tile = -(-groups // cols)
        fitting = min(
            synapse_bytes * 8 // (per_tile * op.group * stored_bits),
            (core.neuron_memory_bytes - per_tile * WORD) // _row_bytes(per_tile),
        )
        if fitting < 1:
            continue
        rows = -(-op.rows // min(fitting, op.rows))
        traffic = op.width * encode.spikes_per_neuron * rows + op.rows * (cols - 1)
        found.append((rows * cols, traffic, rows, cols))
    if not found:
        raise DoesNotFit(
            f"{op.name}: one neuron with one group of {op.group} inputs needs "
            f"{op.group * stored_bits // 8} bytes of weights and {_row_bytes(1) + WORD} bytes of state; a "
            "core has "
            f"{synapse_bytes} and {core.neuron_memory_bytes}. Use smaller groups or a larger core."
        )
    _, _, rows, cols = min(found)
    return _accumulate(op, encode, core, stored_bits, rows, cols)


def _row_bytes(groups: int) -> int:
    """Neuron memory of one row: accumulators (double-buffered), weight scale, partial sum."""
    return (2 * groups + 2) * WORD


def _accumulate(op: Accumulate, encode: Encode, core: Core, bits: int, rows: int, cols: int) -> Cut:
    row_edges, col_edges = edges(op.rows, rows), edges(op.width, cols, op.group)
    height, width = np.meshgrid(np.diff(row_edges), np.diff(col_edges), indexing="ij")
    h, w = height.ravel(), width.ravel()
    spikes = w * encode.spikes_per_neuron
    groups = w // op.group
    return Cut(
        row_edges=row_edges,
        col_edges=col_edges,
        synapse_bytes=-(-h * w * bits // 8),
        neuron_bytes=h * (2 * groups + 2) * WORD + groups * WORD,
        buffer_packets=np.full(rows * cols, credit(encode)),
        synops=spikes * h,
        spike_cycles=spikes * (core.cycles_per_spike + -(-h // core.synaptic_lanes)),
        vector_ops=2.0 * h * groups,
        neuron_updates=1.0 * h * groups,
        sram_bytes=2.0 * WORD * h * groups,
    )


def credit(encode: Encode) -> int:
    """Packets that may arrive under two credits: all spikes that two chunks of channels can have at most."""
    chunk = min(encode.group, CHUNK) if encode.group != encode.width else min(encode.width, CHUNK)
    worst = encode.levels.bit_length() if encode.coding == "bitwise" else encode.levels
    return 2 * (chunk * worst + 1)


def cut_encode(op: Encode, core: Core, cycles: float) -> Cut:
    """Pieces of whole threshold groups and Hadamard blocks, none busier than ``cycles`` if that can be.

    Raises:
        DoesNotFit: One such block needs more than the neuron memory.
    """
    quantum = op.block if op.whole_row and op.group == op.width else math.lcm(op.group, op.block)
    if quantum * ENCODE_BYTES > core.neuron_memory_bytes:
        raise DoesNotFit(
            f"{op.name}: one block of {quantum} channels needs {quantum * ENCODE_BYTES} bytes of neuron "
            "memory, "
            f"a core has {core.neuron_memory_bytes}. Use smaller groups."
        )
    by_memory = -(-op.width * ENCODE_BYTES // core.neuron_memory_bytes)
    by_time = math.ceil(op.width * op.ops_per_channel / core.vector_lanes / max(cycles, 1.0))
    parts = min(max(by_memory, by_time), op.width // quantum)
    row_edges = edges(op.width, parts, quantum)
    while int(np.diff(row_edges).max()) * ENCODE_BYTES > core.neuron_memory_bytes:
        parts += 1
        row_edges = edges(op.width, parts, quantum)
    return _vector(row_edges, op.ops_per_channel, ENCODE_BYTES, updates=1.0)


def cut_vector(op: Vector, core: Core) -> Cut:
    """Pieces that fit into the neuron memory."""
    parts = -(-op.width // max(1, core.neuron_memory_bytes // ENCODE_BYTES))
    return _vector(edges(op.width, parts), op.ops_per_channel, ENCODE_BYTES, updates=0.0)


def _vector(
    row_edges: NDArray[np.int64], ops_per_channel: float, bytes_per_channel: int, updates: float
) -> Cut:
    width = np.diff(row_edges)
    none, zeros = np.zeros(len(width), np.int64), np.zeros(len(width))
    return Cut(
        row_edges=row_edges,
        col_edges=np.array([0, 1], np.int64),
        synapse_bytes=none,
        neuron_bytes=width * bytes_per_channel,
        buffer_packets=none,
        synops=zeros,
        spike_cycles=zeros,
        vector_ops=width * ops_per_channel,
        neuron_updates=width * updates,
        sram_bytes=2.0 * WORD * width,
    )


def cut_attention(op: Attention, core: Core, synapse_bytes: int) -> Cut:
    """One tile per KV head, cut along positions where its cache is larger than the memory.

    A head's tiles hold interleaved positions, so each has the same share of any context; the partial
    results are merged along a chain.

    Raises:
        DoesNotFit: Not even one position fits.
    """
    repeat = op.heads // op.kv_heads
    state = repeat * (4 * op.head_dim + 2) * WORD
    tokens = min(
        synapse_bytes // op.cache_bytes_per_token, (core.neuron_memory_bytes - state) // (repeat * WORD)
    )
    if tokens < 1:
        raise DoesNotFit(
            f"{op.name}: {repeat} query heads need {state + repeat * WORD} bytes of neuron memory and one "
            "position "
            f"{op.cache_bytes_per_token} of cache; a core has {core.neuron_memory_bytes} and {synapse_bytes}"
        )
    cols = -(-op.max_seq // tokens)
    col_edges = edges(op.max_seq, cols)
    held = np.tile(np.diff(col_edges), op.kv_heads)
    share = op.context / cols
    synops = repeat * share * op.head_dim * (op.query_spikes + op.probability_spikes)
    spikes = repeat * (op.head_dim * op.query_spikes + share * op.probability_spikes)
    count = op.kv_heads * cols
    return Cut(
        row_edges=np.arange(op.kv_heads + 1, dtype=np.int64),
        col_edges=col_edges,
        synapse_bytes=held * op.cache_bytes_per_token,
        neuron_bytes=state + held * repeat * WORD,
        buffer_packets=np.zeros(count, np.int64),
        synops=np.full(count, synops),
        spike_cycles=np.full(count, synops / core.synaptic_lanes + spikes * core.cycles_per_spike),
        vector_ops=np.full(count, repeat * (10.0 * share + 8.0 * op.head_dim) + 16.0 * op.head_dim),
        neuron_updates=np.full(count, repeat * (share + 2.0 * op.head_dim)),
        sram_bytes=np.full(count, 2.0 * WORD * repeat * share + op.cache_bytes_per_token),
    )


def cut_op(op: Op, encode: Encode | None, core: Core, bits: int, synapse_bytes: int, cycles: float) -> Cut:
    """Cuts any operation that has tiles of its own.

    Args:
        encode: The encoder of an Accumulate.
        cycles: How busy an encoder's tile may be before it is cut further.
    """
    if isinstance(op, Accumulate):
        assert encode is not None
        return cut_accumulate(op, encode, core, bits, synapse_bytes)
    if isinstance(op, Encode):
        return cut_encode(op, core, cycles)
    if isinstance(op, Attention):
        return cut_attention(op, core, synapse_bytes)
    assert isinstance(op, Vector)
    return cut_vector(op, core)
