"""Rules of partition and placement: everything once, nothing overfull."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sdc.targets.neuro.mapping.graph import Accumulate, Attention, Op, Readout
from sdc.targets.neuro.mapping.mapping import Mapping
from sdc.targets.neuro.verify.violation import Violation, at

__all__ = ["check_cover", "check_memory", "check_placement"]


def check_placement(mapping: Mapping) -> Iterator[Violation]:
    """Every tile is on a core of the board, and no core has two at once."""
    core, wave = mapping.core, mapping.partition.tiles.wave
    board = mapping.machine.board
    holder: dict[tuple[int, int], int] = {}
    for tile in range(len(core)):
        number = int(core[tile])
        if not 0 <= number < board.cores:
            yield at(
                mapping, "core-out-of-range", tile, f"core {number} does not exist; there are {board.cores:,}"
            )
            continue
        other = holder.setdefault((number, int(wave[tile])), tile)
        if other != tile:
            name = mapping.partition.tile_name(other)
            yield at(mapping, "core-taken-twice", tile, f"the core holds {name} at the same time")


def check_cover(mapping: Mapping) -> Iterator[Violation]:
    """Every part of every operation is in exactly one tile, and cuts respect threshold groups."""
    tiles = mapping.partition.tiles
    by_op: dict[int, list[int]] = {}
    for tile, op in enumerate(tiles.op.tolist()):
        by_op.setdefault(op, []).append(tile)
    for i, op in enumerate(mapping.partition.ops):
        if isinstance(op, Readout):
            continue
        mine = by_op.get(i, [])
        if not mine:
            yield Violation("missing-tile", -1, "no core", op.name, "no tile holds the operation")
            continue
        if isinstance(op, Accumulate):
            for tile in mine:
                if tiles.col0[tile] % op.group or tiles.col1[tile] % op.group:
                    columns = f"{tiles.col0[tile]}:{tiles.col1[tile]}"
                    message = f"inputs {columns} cut through a threshold group of {op.group}"
                    yield at(mapping, "group-cut", tile, message)
        yield from _area(mapping, op, mine)


def _extent(op: Op) -> tuple[int, int]:
    if isinstance(op, Accumulate):
        return op.rows, op.width
    if isinstance(op, Attention):
        return op.kv_heads, op.max_seq
    return op.units, 1


def _area(mapping: Mapping, op: Op, mine: list[int]) -> Iterator[Violation]:
    """Tiles cover the rectangle of the operation: a difference array over the cells between all cuts."""
    t = mapping.partition.tiles
    height, width = _extent(op)
    rows = np.unique(np.concatenate([[0, height], t.row0[mine], t.row1[mine]]))
    cols = np.unique(np.concatenate([[0, width], t.col0[mine], t.col1[mine]]))
    for tile in mine:
        if t.row0[tile] < 0 or t.row1[tile] > height or t.col0[tile] < 0 or t.col1[tile] > width:
            yield at(mapping, "outside-operation", tile, f"the operation has only {height} x {width}")
            return
    count = np.zeros((len(rows), len(cols)), np.int64)
    r0, r1 = np.searchsorted(rows, t.row0[mine]), np.searchsorted(rows, t.row1[mine])
    c0, c1 = np.searchsorted(cols, t.col0[mine]), np.searchsorted(cols, t.col1[mine])
    np.add.at(count, (r0, c0), 1)
    np.add.at(count, (r1, c1), 1)
    np.add.at(count, (r0, c1), -1)
    np.add.at(count, (r1, c0), -1)
    times = count.cumsum(0).cumsum(1)[:-1, :-1]
    for r, c in np.argwhere(times == 0)[:1]:
        item = f"{op.name}[{rows[r]}:{rows[r + 1]}, {cols[c]}:{cols[c + 1]}]"
        yield Violation("missing-weights", -1, "no core", item, "is on no core")
    for r, c in np.argwhere(times > 1)[:1]:
        guilty = [k for k in mine if t.row0[k] <= rows[r] < t.row1[k] and t.col0[k] <= cols[c] < t.col1[k]]
        other = mapping.partition.tile_name(guilty[0])
        yield at(mapping, "weights-twice", guilty[-1], f"is also part of {other}")


def check_memory(mapping: Mapping) -> Iterator[Violation]:
    """No memory of any core is overfull; streamed weights leave half of it for the next ones.

    What a tile of weights needs is counted here again, from its shape.
    """
    tiles, core, part = mapping.partition.tiles, mapping.machine.core, mapping.partition
    room = core.synapse_memory_bytes // 2 if part.streamed else core.synapse_memory_bytes
    needed = tiles.synapse_bytes.copy()
    for i, op in enumerate(part.ops):
        if isinstance(op, Accumulate):
            mine = tiles.op == i
            cells = (tiles.row1 - tiles.row0) * (tiles.col1 - tiles.col0)
            needed[mine] = np.maximum(needed[mine], -(-cells[mine] * op.weight_bits // 8))
    for tile in np.flatnonzero(needed > room):
        half = " (half of the memory: weights are streamed)" if part.streamed else ""
        message = f"{needed[tile]:,} bytes of weights, room for {room:,}{half}"
        yield at(mapping, "synapse-memory-overfull", int(tile), message)
    for tile in np.flatnonzero(tiles.neuron_bytes > core.neuron_memory_bytes):
        message = f"{tiles.neuron_bytes[tile]:,} bytes of state, room for {core.neuron_memory_bytes:,}"
        yield at(mapping, "neuron-memory-overfull", int(tile), message)
    for tile in np.flatnonzero(tiles.buffer_packets > core.spike_buffer_packets):
        message = f"{tiles.buffer_packets[tile]:,} spikes may wait, room for {core.spike_buffer_packets:,}"
        yield at(mapping, "spike-buffer-overflow", int(tile), message)
