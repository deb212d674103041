"""The pieces that operations are cut into, and what these send each other.

Both are structures of arrays: a 7-billion model has tens of thousands of tiles, and everything after the
partition works on all of them at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.mapping.graph import Op

__all__ = ["FlowKind", "Flows", "Partition", "Tiles"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class FlowKind(IntEnum):
    """What a flow carries. How many spikes there are depends on the data; the other counts do not."""

    SPIKES = 0
    VALUES = 1
    REDUCTION = 2
    STATISTIC = 3


@dataclass(frozen=True)
class Tiles:
    """One entry per tile; a tile is the part of one operation that one core holds.

    Attributes:
        op: [T] index into ``Partition.ops``.
        row0, row1: [T] outputs: neurons, channels, or KV heads.
        col0, col1: [T] inputs: channels of a weight matrix, positions of a KV cache; 0..1 elsewhere.
        synapse_bytes: [T] weights or KV cache, in core memory.
        neuron_bytes: [T] accumulators, thresholds, scales, vectors (both halves of double buffers).
        buffer_packets: [T] spikes that may wait at the core, both halves of the double buffer.
        synops: [T] expected synaptic additions for one token.
        spike_cycles: [T] cycles that these and taking spikes out of the buffer need.
        vector_ops: [T] float or fixed-point operations for one token.
        neuron_updates: [T] read-outs and encoded channels for one token.
        sram_bytes: [T] bytes of vectors and cache moved for one token.
        wave: [T] which of the successive fillings of the cores the tile belongs to; 0 unless weights are
            streamed.
    """

    op: Ints
    row0: Ints
    row1: Ints
    col0: Ints
    col1: Ints
    synapse_bytes: Ints
    neuron_bytes: Ints
    buffer_packets: Ints
    synops: Floats
    spike_cycles: Floats
    vector_ops: Floats
    neuron_updates: Floats
    sram_bytes: Floats
    wave: Ints

    def __len__(self) -> int:
        return len(self.op)


@dataclass(frozen=True)
class Flows:
    """Multicasts: each goes from one tile to one or several others.

    Attributes:
        source: [F] sending tile.
        first: [F + 1] the targets of flow f are ``target[first[f]:first[f + 1]]``.
        target: [E] receiving tiles.
        packets: [F] expected packets for one token (markers not included).
        kind: [F] a :class:`FlowKind`.
        external: [F] whether the data cross to a later filling of the cores, and so go through external
            memory.
    """

    source: Ints
    first: Ints
    target: Ints
    packets: Floats
    kind: Ints
    external: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.source)

    @property
    def fan_out(self) -> Ints:
        """[F] number of targets."""
        return np.diff(self.first)

    @property
    def flow_of_target(self) -> Ints:
        """[E] the flow that each entry of ``target`` belongs to."""
        return np.repeat(np.arange(len(self)), self.fan_out)

    def targets(self, flow: int) -> Ints:
        """Receiving tiles of one flow."""
        return self.target[self.first[flow] : self.first[flow + 1]]


@dataclass(frozen=True)
class Partition:
    """A graph cut to the size of a machine's cores.

    Attributes:
        ops: Operations in execution order.
        owner: [O] the operation whose tiles do the work of each operation (a readout's is its accumulate).
        streamed: Whether weights come from external memory for every pass over the model.
        waves: Number of successive fillings of the cores.
        stored_bits: Bits of one weight in synapse memory.
    """

    ops: tuple[Op, ...]
    owner: Ints
    tiles: Tiles
    flows: Flows
    streamed: bool
    waves: int
    stored_bits: int

    def tile_name(self, tile: int) -> str:
        """``layers.3.mlp.down[128:256, 0:512]``."""
        t, op = self.tiles, self.ops[int(self.tiles.op[tile])]
        rows = f"{t.row0[tile]}:{t.row1[tile]}"
        whole = t.col1[tile] - t.col0[tile] <= 1
        return f"{op.name}[{rows}]" if whole else f"{op.name}[{rows}, {t.col0[tile]}:{t.col1[tile]}]"
