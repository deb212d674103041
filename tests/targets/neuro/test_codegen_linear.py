"""A linear layer on several cores equals the references of the dialect, bit for bit."""

import numpy as np
import pytest

from sdc.errors import NumericsError, TargetError
from sdc.ir.coding import spikes_per_count
from sdc.ir.ops.readout import reference as readout
from sdc.ir.ops.spike_accumulate import reference as accumulate
from sdc.ir.ops.spike_encode import reference as spike_encode
from sdc.ir.ops.spike_encode import threshold_factor
from sdc.targets.neuro.codegen.builder import CoreBuilder, ProgramBuilder
from sdc.targets.neuro.codegen.linear import (
    Spikes,
    SynapticLayer,
    Tile,
    emit_linear,
    pack_rows,
    tiles_by_memory,
)
from sdc.targets.neuro.isa.container import read, write
from sdc.targets.neuro.isa.program import HOST
from sdc.targets.neuro.simulate.functional import FunctionalSimulator


def layer(rng, rows=24, width=32, group=8, scales=1, bits=8, bias=False) -> SynapticLayer:
    top = (1 << bits - 1) - 1
    weight = rng.integers(-top - 1, top + 1, (rows, width)).astype(np.int8)
    scale = rng.uniform(0.01, 0.02, (rows, scales)).astype(np.float32)
    return SynapticLayer(
        "up", weight, scale, rng.normal(size=rows).astype(np.float32) if bias else None, group, bits
    )


def program_of(layer, tiles, *, levels=7, coding="ternary", group=8, zone=0.0) -> FunctionalSimulator:
    """host x [K] -> core 0 -> trains -> tiles -> core 0 -> host y [N] (tag 4000), counts (tag 4001)."""
    program = ProgramBuilder()
    hub = program.core(0, "hub")
    rows, width = layer.weight.shape
    spikes = receive_and_encode(hub, width, levels, coding, group, zone)
    result = emit_linear(program, hub, spikes, layer, tiles, hub.core)
    y = hub.words(rows)
    hub.emit("recvw", y, rows, result.tag, result.sources)
    hub.emit("sendw", y, rows, hub.route(4000, HOST), 0)
    hub.emit("sendw", spikes.counts, width, hub.route(4001, HOST), 0)
    return FunctionalSimulator(read(write(program.build())))


def receive_and_encode(hub: CoreBuilder, width, levels, coding, group, zone) -> Spikes:
    x, counts, theta = hub.words(width), hub.words(width), hub.words(width // group)
    hub.emit("recvw", x, width, 4002, 1)
    hub.emit("theta", theta, x, width, group, float(threshold_factor(levels, 0.9)))
    hub.emit("mute", x, theta, width, group, zone)
    hub.emit("count", counts, x, theta, width, group, levels, "s")
    return Spikes(counts, theta, width, group, levels, coding)


def reference(x, layer, *, levels=7, coding="ternary", group=8, zone=0.0):
    counts, theta = spike_encode(x, levels=levels, group=group, clip_ratio=0.9, dead_zone=zone, coding=coding)
    acc = accumulate(counts, layer.weight, group=layer.group, weight_bits=layer.weight_bits)
    return counts, readout(acc, theta, layer.scale, layer.bias)


GRID = [Tile(1 + 2 * r + c, 8 * r, 8 * r + 8, 16 * c, 16 * c + 16) for r in range(3) for c in range(2)]


@pytest.mark.parametrize("coding", ["ternary", "bitwise", "binary"])
@pytest.mark.parametrize(
    ("options", "tiles"),
    [
        ({}, [Tile(1, 0, 24, 0, 32)]),
        ({"bits": 4, "bias": True}, GRID),
        ({"bits": 2, "scales": 4}, GRID),
        ({"scales": 2, "bias": True}, [Tile(5, 0, 5, 0, 32), Tile(2, 5, 24, 0, 32)]),
        ({"group": 16, "scales": 2}, GRID),
    ],
)
def test_tiles_equal_the_reference(coding, options, tiles) -> None:
    rng = np.random.default_rng(3)
    matrix = layer(rng, **options)
    group = matrix.group
    machine = program_of(matrix, tiles, coding=coding, group=group, zone=0.6)
    sent = 0
    for token in range(3):
        x = (rng.normal(size=32) * 3.0**token).astype(np.float32)
        counts, y = reference(x, matrix, coding=coding, group=group, zone=0.6)
        machine.put(0, 4002, x)
        assert machine.take(4000).view(np.float32).tobytes() == y.tobytes()
        assert (machine.take(4001).view(np.int32) == counts).all()
        sent += int(spikes_per_count(counts, coding).sum())
    assert machine.traffic.sent["spike"] == sent
    per_slice = len({(t.start, t.stop) for t in tiles})  # each channel's spikes go to one tile of each chain
    assert machine.traffic.delivered["spike"] == sent * per_slice
    assert machine.traffic.taken["spike"] == machine.traffic.delivered["spike"]


@pytest.mark.parametrize("x", [np.zeros(32), np.full(32, -3.0), np.arange(32) - 15.5, np.eye(32)[3] * 1e-30])
@pytest.mark.parametrize("levels", [1, 7, 127, 300])
def test_edges_of_encoding(x, levels) -> None:
    matrix = layer(np.random.default_rng(0), group=32)
    machine = program_of(matrix, [Tile(1, 0, 24, 0, 32)], levels=levels, coding="bitwise", group=32)
    x = x.astype(np.float32)
    machine.put(0, 4002, x)
    counts, y = reference(x, matrix, levels=levels, coding="bitwise", group=32)
    assert machine.take(4000).view(np.float32).tobytes() == y.tobytes()
    assert (machine.take(4001).view(np.int32) == counts).all()


def test_a_shared_threshold_serves_all_groups() -> None:
    rng = np.random.default_rng(5)
    matrix = layer(rng, group=8, scales=4)
    machine = program_of(matrix, GRID, group=32)
    x = rng.normal(size=32).astype(np.float32)
    machine.put(0, 4002, x)
    assert machine.take(4000).view(np.float32).tobytes() == reference(x, matrix, group=32)[1].tobytes()


def test_not_a_number_names_the_layer() -> None:
    matrix = layer(np.random.default_rng(0))
    machine = program_of(matrix, GRID)
    machine.put(0, 4002, np.full(32, np.nan, np.float32))
    with pytest.raises(NumericsError, match=r"hub: NaN or infinity in an activation \(core 0\)"):
        machine.run()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packing_is_refused_where_a_weight_is_too_wide(bits) -> None:
    wide = np.array([[1 << bits - 1]], np.int16)
    with pytest.raises(TargetError, match=f"do not fit into {bits} bits"):
        pack_rows(wide, bits)


@pytest.mark.parametrize(
    "tiles",
    [
        [Tile(1, 0, 20, 0, 32)],
        [Tile(1, 0, 24, 0, 16)],
        [Tile(1, 0, 24, 0, 4), Tile(2, 0, 24, 4, 32)],
        [Tile(1, 0, 12, 0, 32), Tile(1, 12, 24, 0, 32)],
        [Tile(0, 0, 24, 0, 32)],
    ],
)
def test_bad_tiles_are_refused(tiles) -> None:
    with pytest.raises(TargetError, match="up: "):
        program_of(layer(np.random.default_rng(0)), tiles)


@pytest.mark.parametrize("budget", [64, 100, 300, 10**6])
def test_the_plain_partition_keeps_to_its_budget(budget) -> None:
    matrix = layer(np.random.default_rng(0))
    tiles = tiles_by_memory(matrix, budget, 1)
    assert all((t.stop - t.start) * (t.last - t.first) <= budget for t in tiles)
    assert sum((t.stop - t.start) * (t.last - t.first) for t in tiles) == matrix.weight.size
    assert len({t.core for t in tiles}) == len(tiles)
