"""Times of a program whose weights are streamed from external memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.machine import Grid, Machine
from sdc.targets.neuro.mapping.tiles import Partition
from sdc.targets.neuro.schedule.costs import Costs

__all__ = ["Loads", "loading_time", "stream"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Loads:
    """When the weights of each tile arrive from external memory, in nanoseconds: [T] each."""

    start: Floats
    end: Floats


def loading_time(partition: Partition, core: Ints, costs: Costs, machine: Machine) -> Floats:
    """[chips] time that the external memory of each chip needs for all weights, in nanoseconds."""
    weights, _, chip = _transfers(partition, core, costs, machine, tokens=1)
    total: Floats = np.bincount(chip, weights).astype(np.float64)
    return total


def stream(
    partition: Partition, core: Ints, costs: Costs, machine: Machine, tokens: int
) -> tuple[Floats, Floats, Loads]:
    """Start on the first token, end of the last one, and arrival of the weights, [T] each.

    Tiles are worked off in their own order on every core. The weights of a tile arrive after those of the
    tiles before it on the same chip, and not before the tile two waves earlier has left its half of the
    memory.
    """
    weights, spilled, chip = _transfers(partition, core, costs, machine, tokens)
    inputs = _inputs(partition, costs)
    count = len(partition.tiles)
    step = np.arange(tokens, dtype=np.float64)
    done = np.zeros((count, tokens))
    start, load_start, load_end = np.zeros(count), np.zeros(count), np.zeros(count)
    memory_free = np.zeros(int(chip.max()) + 1)
    last: dict[int, tuple[int, int]] = {}
    for t in range(count):
        before, earlier = last.get(int(core[t]), (-1, -1))
        last[int(core[t])] = (t, before)
        half_free = done[earlier, -1] if earlier >= 0 else 0.0
        load_start[t] = max(memory_free[chip[t]], half_free)
        load_end[t] = load_start[t] + weights[t]
        memory_free[chip[t]] = load_end[t] + spilled[t]
        ready = max(load_end[t], done[before, -1] if before >= 0 else 0.0)
        arrive = np.full(tokens, ready)
        for source, wait in inputs[t]:
            np.maximum(arrive, done[source] + wait, out=arrive)
        work = costs.work_ns[t]
        begin = np.maximum.accumulate(arrive - work * step) + work * step
        start[t], done[t] = begin[0], begin + work
    return start, done[:, -1], Loads(load_start, load_end)


def _transfers(
    partition: Partition, core: Ints, costs: Costs, machine: Machine, tokens: int
) -> tuple[Floats, Floats, Ints]:
    """[T] time to load each tile, [T] time to write and read what it sends to later waves, [T] chip."""
    memory = machine.external_memory
    assert memory is not None
    chip = Grid.of(machine).chip(core)
    weights = partition.tiles.synapse_bytes / memory.bandwidth_gb_per_s_per_chip
    weights = np.where(weights > 0, weights + memory.latency_ns, 0.0)
    flows = partition.flows
    moved = 2 * tokens * costs.packets * machine.network.packet_bits / 8 * flows.external
    spilled = np.bincount(flows.source, moved, len(partition.tiles)) / memory.bandwidth_gb_per_s_per_chip
    return weights, spilled, chip


def _inputs(partition: Partition, costs: Costs) -> list[list[tuple[int, float]]]:
    """Of each tile: the tiles it waits for, and the time from their end to its own start."""
    found: list[list[tuple[int, float]]] = [[] for _ in range(len(partition.tiles))]
    source, target, wait = costs.waits(partition.flows)
    for s, t, w in zip(source.tolist(), target.tolist(), wait.tolist(), strict=True):
        found[t].append((s, w))
    return found
