"""The static schedule: start times, buffer depths, barriers.

*Resident* weights: every core has one tile, and tokens follow each other through the tiles at a fixed
period. A tile starts on token k at ``start + k * period``; the period is the time of the busiest core or
link, so cores and links are never asked for more than one token's work per period, and each message has its
own buffer copy for as long as it is needed.

*Streamed* weights: the cores are filled again and again, in waves. A core works off all tokens of the batch
with one tile, and goes on to the next as soon as its weights are there: they arrive in the other half of
its memory while it works. There is no barrier between waves; a core waits only for its own inputs.

A barrier is needed only where the number of arriving packets depends on the data: in front of a tile that
receives spikes. It waits for one marker of each flow of spikes that enters the tile. Values are counted
instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdc.targets.neuro.machine import Machine
from sdc.targets.neuro.mapping.tiles import FlowKind, Flows, Partition
from sdc.targets.neuro.schedule.costs import Costs
from sdc.targets.neuro.schedule.stream import Loads, loading_time, stream

__all__ = ["Loads", "Schedule", "schedule"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
DOUBLE = 2
"""Copies of every buffer that the partition has reserved already."""


@dataclass(frozen=True)
class Schedule:
    """Times of one batch of tokens.

    Attributes:
        tokens: Tokens of the batch.
        start_ns: [T] when the tile starts on the first token.
        end_ns: [T] when it has finished the last one.
        work_ns: [T] how long it works on one token.
        period_ns: Time between two tokens; 0 if weights are streamed, where tiles follow their inputs.
        depth: [F] tokens whose message is under way or in use at once: copies of the receivers' buffers.
        barrier: [T] markers the tile waits for; 0 where it does not.
        loads: Arrival of the weights; None if they are resident.
        makespan_ns: End of the last tile on the last token.
        bound_ns: No schedule of this mapping can be shorter.
    """

    tokens: int
    start_ns: Floats
    end_ns: Floats
    work_ns: Floats
    period_ns: float
    depth: Ints
    barrier: Ints
    loads: Loads | None
    makespan_ns: float
    bound_ns: float


def schedule(partition: Partition, core: Ints, costs: Costs, machine: Machine, tokens: int = 16) -> Schedule:
    """The schedule of a batch.

    Args:
        core: [T] core of each tile.
        tokens: Tokens of the batch: of a prompt, or of as many streams.
    """
    start, tail = _longest_paths(partition, costs)
    work, barrier = costs.work_ns, _barriers(partition.flows, len(start))
    bound = float((start + tokens * work + tail).max())
    if not partition.streamed:
        period, depth = _fit_buffers(partition, costs, machine, start, _period(partition, costs))
        end = start + work + (tokens - 1) * period
        return Schedule(tokens, start, end, work, period, depth, barrier, None, float(end.max()), bound)
    first, end, loads = stream(partition, core, costs, machine, tokens)
    busy = float(np.bincount(core, work).max()) * tokens
    memory = float(loading_time(partition, core, costs, machine).max())
    depth = np.full(len(partition.flows), DOUBLE, np.int64)
    bound = max(bound, busy, memory)
    return Schedule(tokens, first, end, work, 0.0, depth, barrier, loads, float(end.max()), bound)


def _longest_paths(partition: Partition, costs: Costs) -> tuple[Floats, Floats]:
    """[T] earliest start, and the longest path from a tile's end to the end of everything.

    Tiles are numbered in an order in which every flow goes upwards, so one sweep each way is enough.
    """
    count = len(partition.tiles)
    source, target, wait = costs.waits(partition.flows)
    work = costs.work_ns.tolist()
    start, tail = [0.0] * count, [0.0] * count
    up = np.argsort(source, kind="stable")
    for s, t, w in zip(source[up].tolist(), target[up].tolist(), wait[up].tolist(), strict=True):
        start[t] = max(start[t], start[s] + work[s] + w)
    down = np.argsort(-target, kind="stable")
    for s, t, w in zip(source[down].tolist(), target[down].tolist(), wait[down].tolist(), strict=True):
        tail[s] = max(tail[s], w + work[t] + tail[t])
    return np.array(start), np.array(tail)


def _period(partition: Partition, costs: Costs) -> float:
    """What the busiest core, the busiest sender's way into the network, and the busiest link need for "
    "one token."""
    flows = partition.flows
    sending = np.bincount(flows.source, costs.serial_ns, len(partition.tiles))
    return float(max(costs.work_ns.max(), sending.max(), costs.busiest_link_ns))


def _barriers(flows: Flows, tiles: int) -> Ints:
    entry = flows.kind[flows.flow_of_target] == FlowKind.SPIKES
    return np.bincount(flows.target[entry], minlength=tiles).astype(np.int64)


def _fit_buffers(
    partition: Partition, costs: Costs, machine: Machine, start: Floats, period: float
) -> tuple[float, Ints]:
    """The shortest period at which all buffers fit, and their depths.

    A message that waits long (the residual stream beside a whole block) needs a copy for each token that is
    under way meanwhile. A longer period needs fewer copies; at the length of the whole pass, one is enough.
    """
    while True:
        depth = _depths(partition, costs, start, period)
        extra = _extra_bytes(partition, depth)
        over = partition.tiles.neuron_bytes + extra > machine.core.neuron_memory_bytes
        spikes = partition.flows.kind == FlowKind.SPIKES
        if not over.any() and int(depth[spikes].max(initial=0)) <= DOUBLE:
            return period, depth
        if int(depth.max()) <= DOUBLE:
            return period, depth
        period = period * 1.05


def _depths(partition: Partition, costs: Costs, start: Floats, period: float) -> Ints:
    """[F] periods from the first packet's leaving to the end of the last receiver's work on it."""
    flows = partition.flows
    end = start + costs.work_ns
    last = np.zeros(len(flows))
    np.maximum.at(last, flows.flow_of_target, end[flows.target])
    life = last - end[flows.source]
    depth = np.maximum(np.ceil(life / period - 1e-9), 1).astype(np.int64)
    return np.where(flows.kind == FlowKind.STATISTIC, 1, depth)


def _extra_bytes(partition: Partition, depth: Ints) -> Ints:
    """[T] neuron memory of the copies beyond the two that the partition has reserved."""
    flows = partition.flows
    held = (depth - DOUBLE).clip(min=0) * flows.packets * 4 * (flows.kind != FlowKind.SPIKES)
    entry = held[flows.flow_of_target]
    return np.ceil(np.bincount(flows.target, entry, len(partition.tiles))).astype(np.int64)
