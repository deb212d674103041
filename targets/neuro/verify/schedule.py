"""Rules of the schedule: nobody starts before the data are there, nobody works on two things at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sdc.targets.neuro.mapping.mapping import Mapping
from sdc.targets.neuro.mapping.tiles import FlowKind
from sdc.targets.neuro.verify.violation import Violation, at

__all__ = ["check_barriers", "check_buffers", "check_loads", "check_times"]

EPSILON = 1e-6
"""Relative error of sums of times."""


def check_barriers(mapping: Mapping) -> Iterator[Violation]:
    """Each receiver of spikes waits for exactly one marker of each of its senders."""
    flows = mapping.partition.flows
    senders: dict[int, set[int]] = {}
    for f in np.flatnonzero(flows.kind == FlowKind.SPIKES).tolist():
        for t in flows.targets(f).tolist():
            senders.setdefault(t, set()).add(f)
    for tile, waits in enumerate(mapping.schedule.barrier.tolist()):
        needed = len(senders.get(tile, ()))
        if needed and not waits:
            message = f"receives spikes on {needed} flows, but waits for no marker"
            yield at(mapping, "missing-barrier", tile, message)
        elif needed != waits:
            message = f"waits for {waits} markers, but {needed} flows of spikes enter: it would " + (
                "wait forever" if waits > needed else "start too early"
            )
            yield at(mapping, "wrong-barrier", tile, message)


def check_times(mapping: Mapping) -> Iterator[Violation]:
    """Inputs before work, one piece of work at a time on each core, and no overload of the period."""
    plan, tiles = mapping.schedule, mapping.partition.tiles
    slack = EPSILON * max(plan.makespan_ns, 1.0)
    if not np.isfinite(plan.start_ns).all() or (plan.start_ns < 0).any():
        tile = int(np.flatnonzero(~np.isfinite(plan.start_ns) | (plan.start_ns < 0))[0])
        yield at(mapping, "never-scheduled", tile, f"starts at {plan.start_ns[tile]} ns")
        return
    yield from _inputs_first(mapping, slack)
    for tile in np.flatnonzero(plan.end_ns < plan.start_ns + plan.tokens * plan.work_ns - slack).tolist():
        message = f"ends after {plan.end_ns[tile] - plan.start_ns[tile]:,.0f} ns, its work takes "
        yield at(mapping, "too-short", tile, message + f"{plan.tokens * plan.work_ns[tile]:,.0f} ns")
    for tile in np.flatnonzero(plan.work_ns < mapping.costs.work_ns - slack).tolist():
        message = f"is given {plan.work_ns[tile]:,.0f} ns a token, needs {mapping.costs.work_ns[tile]:,.0f}"
        yield at(mapping, "too-short", tile, message)
    if plan.loads is None:
        for tile in np.flatnonzero(plan.work_ns > plan.period_ns + slack).tolist():
            message = f"works {plan.work_ns[tile]:,.0f} ns a token, the period is {plan.period_ns:,.0f}"
            yield at(mapping, "overloaded-core", tile, message)
    order = np.lexsort((plan.start_ns, mapping.core))
    for a, b in zip(order[:-1].tolist(), order[1:].tolist(), strict=True):
        same = mapping.core[a] == mapping.core[b] and tiles.wave[a] != tiles.wave[b]
        if same and plan.start_ns[b] < plan.end_ns[a] - slack:
            other = mapping.partition.tile_name(a)
            yield at(
                mapping,
                "core-overlap",
                b,
                f"starts {plan.end_ns[a] - plan.start_ns[b]:,.0f} ns before {other} ends",
            )


def _inputs_first(mapping: Mapping, slack: float) -> Iterator[Violation]:
    plan, flows = mapping.schedule, mapping.partition.flows
    costs = mapping.costs
    flow = flows.flow_of_target
    arrive = (plan.start_ns + plan.work_ns)[flows.source[flow]] + (costs.head_ns + costs.serial_ns)[flow]
    arrive -= np.where(flows.kind[flow] == FlowKind.REDUCTION, costs.lead_ns[flows.target], 0.0)
    late = (plan.start_ns[flows.target] < arrive - slack) & (flows.kind[flow] != FlowKind.STATISTIC)
    for e in np.flatnonzero(late):
        source = mapping.partition.tile_name(int(flows.source[flow[e]]))
        early = arrive[e] - plan.start_ns[flows.target[e]]
        message = f"starts {early:,.0f} ns before the data of {source} arrive"
        yield at(mapping, "starts-before-input", int(flows.target[e]), message)


def check_buffers(mapping: Mapping) -> Iterator[Violation]:
    """Every message has as many copies as tokens are under way, and the copies fit into the receivers."""
    plan, part = mapping.schedule, mapping.partition
    flows = part.flows
    if plan.loads is not None:
        return  # a batch passes a core completely before its memory is used for something else
    end = plan.start_ns + plan.work_ns
    held: dict[int, float] = {}
    for f in range(len(flows)):
        if flows.kind[f] == FlowKind.STATISTIC:
            continue
        targets = flows.targets(f)
        life = float(end[targets].max() - end[flows.source[f]])
        depth = int(plan.depth[f])
        if life > depth * plan.period_ns * (1 + EPSILON):
            message = f"data of {part.tile_name(int(flows.source[f]))} are in use for "
            message += f"{life / plan.period_ns:.2f} periods, but there are {depth} buffers"
            yield at(mapping, "buffer-overwritten", int(targets[0]), message)
        if flows.kind[f] != FlowKind.SPIKES and depth > 2:
            for t in targets.tolist():
                held[t] = held.get(t, 0.0) + 4 * (depth - 2) * float(flows.packets[f])
    room = mapping.machine.core.neuron_memory_bytes
    for tile, extra in sorted(held.items()):
        if part.tiles.neuron_bytes[tile] + extra > room + 1:
            message = f"deep buffers need {extra:,.0f} bytes beside {part.tiles.neuron_bytes[tile]:,}, "
            yield at(mapping, "buffers-overfull", tile, message + f"room for {room:,}")


def check_loads(mapping: Mapping) -> Iterator[Violation]:
    """Streamed weights are there before they are used, and do not overwrite those in use."""
    plan = mapping.schedule
    if plan.loads is None:
        return
    slack = EPSILON * max(plan.makespan_ns, 1.0)
    for tile in np.flatnonzero(plan.start_ns < plan.loads.end - slack).tolist():
        message = (
            f"starts at {plan.start_ns[tile]:,.0f} ns, its weights arrive at {plan.loads.end[tile]:,.0f}"
        )
        yield at(mapping, "weights-not-loaded", tile, message)
    by_core: dict[int, list[int]] = {}
    for tile in np.argsort(mapping.partition.tiles.wave, kind="stable").tolist():
        by_core.setdefault(int(mapping.core[tile]), []).append(tile)
    for tiles in by_core.values():
        for a, b in zip(tiles[:-2], tiles[2:], strict=True):
            if plan.loads.start[b] < plan.end_ns[a] - slack:
                message = f"is loaded over {mapping.partition.tile_name(a)}, which still works"
                yield at(mapping, "weights-overwritten", b, message)
