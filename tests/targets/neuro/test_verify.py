"""The verifier rejects broken mappings, each with the core and the item to blame."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from helpers.neuro import small_llama, small_machine

from sdc.targets.neuro.mapping.mapping import Mapping, map_graph
from sdc.targets.neuro.mapping.tiles import FlowKind
from sdc.targets.neuro.schedule import Loads
from sdc.targets.neuro.verify import MappingError, check_mapping, verify_mapping


@lru_cache
def good(streamed: bool = False) -> Mapping:
    board = {"routers_x": 4, "routers_y": 4} if streamed else {"routers_x": 12, "routers_y": 12}
    machine = small_machine(
        core={"synapse_memory_bytes": 6000, "neuron_memory_bytes": 9000},
        board=board,
        network={"topology": "mesh", "virtual_channels": 2},
    )
    return map_graph(small_llama(), machine, tokens=4, rounds=50)


def changed(array: np.ndarray, index: int, value: float) -> np.ndarray:
    out = array.copy()
    out[index] = value
    return out


def tile_where(mapping: Mapping, name: str) -> int:
    part = mapping.partition
    op = next(i for i, op in enumerate(part.ops) if op.name == name)
    return int(np.flatnonzero(part.tiles.op == op)[0])


def with_tiles(m: Mapping, **arrays: np.ndarray) -> Mapping:
    return replace(m, partition=replace(m.partition, tiles=replace(m.partition.tiles, **arrays)))


def with_core(m: Mapping, index: int, value: int) -> Mapping:
    return replace(m, placement=replace(m.placement, core=changed(m.core, index, value)))


def with_routes(m: Mapping, **arrays: np.ndarray) -> Mapping:
    return replace(m, routes=replace(m.routes, **arrays))


def with_plan(m: Mapping, **fields: object) -> Mapping:
    return replace(m, schedule=replace(m.schedule, **fields))


GATE = "layers.0.mlp.gate_up"


def longest(m: Mapping) -> int:
    return int(np.argmax(m.routes.length))


def core_out_of_range(m: Mapping) -> Mapping:
    return with_core(m, 3, 144)


def core_taken_twice(m: Mapping) -> Mapping:
    return with_core(m, 3, int(m.core[4]))


def missing_weights(m: Mapping) -> Mapping:
    t = tile_where(m, GATE)
    return with_tiles(m, row1=changed(m.partition.tiles.row1, t, m.partition.tiles.row1[t] - 1))


def weights_twice(m: Mapping) -> Mapping:
    t = int(np.flatnonzero(m.partition.tiles.row0 > 1)[-1])
    return with_tiles(m, row0=changed(m.partition.tiles.row0, t, m.partition.tiles.row0[t] - 1))


def outside_operation(m: Mapping) -> Mapping:
    t = tile_where(m, GATE)
    return with_tiles(m, row1=changed(m.partition.tiles.row1, t, 9999))


def missing_tile(m: Mapping) -> Mapping:
    t = tile_where(m, "sample")
    return with_tiles(m, op=changed(m.partition.tiles.op, t, 0))


def group_cut(m: Mapping) -> Mapping:
    t = tile_where(m, GATE)
    return with_tiles(m, col1=changed(m.partition.tiles.col1, t, m.partition.tiles.col1[t] - 7))


def synapse_memory(m: Mapping) -> Mapping:
    return with_tiles(m, synapse_bytes=changed(m.partition.tiles.synapse_bytes, 5, 6001))


def synapse_memory_by_shape(m: Mapping) -> Mapping:
    """The tile claims to need little, but its shape says otherwise."""
    small = small_machine(
        core={"synapse_memory_bytes": 900, "neuron_memory_bytes": 9000},
        board={"routers_x": 12, "routers_y": 12},
        network={"topology": "mesh", "virtual_channels": 2},
    )
    return replace(with_tiles(m, synapse_bytes=m.partition.tiles.synapse_bytes * 0), machine=small)


def neuron_memory(m: Mapping) -> Mapping:
    return with_tiles(m, neuron_bytes=changed(m.partition.tiles.neuron_bytes, 5, 9001))


def spike_buffer(m: Mapping) -> Mapping:
    t = tile_where(m, GATE)
    return with_tiles(m, buffer_packets=changed(m.partition.tiles.buffer_packets, t, 99999))


def wrong_route(m: Mapping) -> Mapping:
    """A tree of one segment stops one link short."""
    s = int(np.flatnonzero(np.bincount(m.routes.flow)[m.routes.flow] == 1)[0])
    return with_routes(m, length=changed(m.routes.length, s, m.routes.length[s] - 1))


def route_too_far(m: Mapping) -> Mapping:
    s = int(np.flatnonzero((m.routes.step > 0) & (m.routes.start < 4))[0])
    return with_routes(m, length=changed(m.routes.length, s, m.routes.length[s] + 1))


def route_off_board(m: Mapping) -> Mapping:
    s = int(np.flatnonzero(m.routes.step < 0)[0])
    return with_routes(m, length=changed(m.routes.length, s, 50))


def route_broken(m: Mapping) -> Mapping:
    s = longest(m)
    return with_routes(m, line=changed(m.routes.line, s, (m.routes.line[s] + 3) % 12))


def route_missing(m: Mapping) -> Mapping:
    return replace(m, routed=m.routed[:-1])


def no_such_channel(m: Mapping) -> Mapping:
    return with_routes(m, channel=changed(m.routes.channel, 0, 2))


def delivered_twice(m: Mapping) -> Mapping:
    s = longest(m)
    r = m.routes
    names = ("flow", "axis", "line", "start", "step", "length", "channel")
    return with_routes(m, **{n: np.insert(getattr(r, n), s, getattr(r, n)[s]) for n in names})


def deadlock(m: Mapping) -> Mapping:
    """Four flows around a square turn into each other on one virtual channel."""
    turns = [
        ((0, 0, 0, 1), (1, 1, 0, 1)),  # axis, line, start, step: east along row 0, then north in column 1
        ((1, 1, 0, 1), (0, 1, 1, -1)),  # north, then west
        ((0, 1, 1, -1), (1, 0, 1, -1)),  # west, then south
        ((1, 0, 1, -1), (0, 0, 0, 1)),  # south, then east
    ]
    rows = [(flow, *leg, 1, 0) for flow, legs in enumerate(turns) for leg in legs]
    names = ("flow", "axis", "line", "start", "step", "length", "channel")
    return with_routes(m, **dict(zip(names, np.array(rows).T, strict=True)))


def missing_barrier(m: Mapping) -> Mapping:
    return with_plan(m, barrier=changed(m.schedule.barrier, tile_where(m, GATE), 0))


def wrong_barrier(m: Mapping) -> Mapping:
    t = tile_where(m, GATE)
    return with_plan(m, barrier=changed(m.schedule.barrier, t, m.schedule.barrier[t] + 1))


def needless_barrier(m: Mapping) -> Mapping:
    return with_plan(m, barrier=changed(m.schedule.barrier, tile_where(m, "sample"), 1))


def starts_before_input(m: Mapping) -> Mapping:
    t = tile_where(m, GATE)
    return with_plan(m, start_ns=changed(m.schedule.start_ns, t, m.schedule.start_ns[t] - 20.0))


def never_scheduled(m: Mapping) -> Mapping:
    return with_plan(m, start_ns=changed(m.schedule.start_ns, 7, np.nan))


def too_short(m: Mapping) -> Mapping:
    return with_plan(m, work_ns=changed(m.schedule.work_ns, 7, 0.0))


def overloaded_core(m: Mapping) -> Mapping:
    return with_plan(m, period_ns=m.schedule.work_ns.max() - 1.0)


def buffer_overwritten(m: Mapping) -> Mapping:
    f = int(np.argmax(m.schedule.depth))
    return with_plan(m, depth=changed(m.schedule.depth, f, 1))


def buffers_overfull(m: Mapping) -> Mapping:
    f = int(np.flatnonzero(m.partition.flows.kind == FlowKind.VALUES)[0])
    return with_plan(m, depth=changed(m.schedule.depth, f, 9999))


BROKEN: list[tuple[Callable[[Mapping], Mapping], str]] = [
    (core_out_of_range, "core-out-of-range"),
    (core_taken_twice, "core-taken-twice"),
    (missing_weights, "missing-weights"),
    (weights_twice, "weights-twice"),
    (outside_operation, "outside-operation"),
    (missing_tile, "missing-tile"),
    (group_cut, "group-cut"),
    (synapse_memory, "synapse-memory-overfull"),
    (synapse_memory_by_shape, "synapse-memory-overfull"),
    (neuron_memory, "neuron-memory-overfull"),
    (spike_buffer, "spike-buffer-overflow"),
    (wrong_route, "wrong-route"),
    (route_too_far, "wrong-route"),
    (route_off_board, "route-off-board"),
    (route_broken, "route-broken"),
    (route_missing, "route-missing"),
    (no_such_channel, "no-such-channel"),
    (delivered_twice, "delivered-twice"),
    (missing_barrier, "missing-barrier"),
    (wrong_barrier, "wrong-barrier"),
    (needless_barrier, "wrong-barrier"),
    (starts_before_input, "starts-before-input"),
    (never_scheduled, "never-scheduled"),
    (too_short, "too-short"),
    (overloaded_core, "overloaded-core"),
    (buffer_overwritten, "buffer-overwritten"),
    (buffers_overfull, "buffers-overfull"),
]


@pytest.mark.parametrize(("corrupt", "kind"), BROKEN, ids=[c.__name__ for c, _ in BROKEN])
def test_a_broken_mapping_is_rejected(corrupt: Callable[[Mapping], Mapping], kind: str) -> None:
    assert check_mapping(good()) == []
    with pytest.raises(MappingError) as caught:
        verify_mapping(corrupt(good()))
    mine = [v for v in caught.value.violations if v.kind == kind]
    assert mine, f"found only {[str(v) for v in caught.value.violations]}"
    for violation in mine:
        assert violation.item
        if kind not in ("missing-weights", "missing-tile"):
            assert violation.where.startswith("core ")
            assert f"{violation.where}: {violation.item}: " in str(violation)
    assert str(mine[0]) in str(caught.value)


def test_a_cycle_of_channels_is_found() -> None:
    from sdc.targets.neuro.verify.routes import check_deadlock

    (violation,) = check_deadlock(deadlock(good()))
    assert violation.kind == "deadlock"
    assert "4 channels wait for each other" in violation.message
    assert violation.where.startswith("core ")


def too_early(m: Mapping) -> Mapping:
    assert m.schedule.loads is not None
    late = Loads(m.schedule.loads.start, changed(m.schedule.loads.end, 20, m.schedule.makespan_ns))
    return with_plan(m, loads=late)


def overwritten(m: Mapping) -> Mapping:
    assert m.schedule.loads is not None
    t = int(np.flatnonzero(m.partition.tiles.wave == 2)[0])
    return with_plan(m, loads=Loads(changed(m.schedule.loads.start, t, 0.0), m.schedule.loads.end))


def overlap(m: Mapping) -> Mapping:
    t = int(np.flatnonzero(m.partition.tiles.wave == 1)[0])
    return with_plan(m, start_ns=changed(m.schedule.start_ns, t, 0.0))


def too_large_for_half(m: Mapping) -> Mapping:
    return with_tiles(m, synapse_bytes=changed(m.partition.tiles.synapse_bytes, 5, 3001))


@pytest.mark.parametrize(
    ("corrupt", "kind"),
    [
        (too_early, "weights-not-loaded"),
        (overwritten, "weights-overwritten"),
        (overlap, "core-overlap"),
        (too_large_for_half, "synapse-memory-overfull"),
    ],
    ids=["too-early", "overwritten", "overlap", "half"],
)
def test_a_broken_streaming_schedule_is_rejected(corrupt: Callable[[Mapping], Mapping], kind: str) -> None:
    assert good(streamed=True).partition.waves > 2
    assert check_mapping(good(streamed=True)) == []
    found = check_mapping(corrupt(good(streamed=True)))
    assert kind in {v.kind for v in found}
    assert all(v.where.startswith("core ") for v in found)
