"""Timing and energy: a closed form, conservation, stalls where they must be, and what sparsity buys."""

import json

import numpy as np
import pytest
from helpers.neuro import SHIPPED, one_layer, small_llama, small_machine
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.ir.model import Coding
from sdc.targets.neuro.machine import load_machine
from sdc.targets.neuro.mapping.graph import Accumulate
from sdc.targets.neuro.mapping.llama import llama_graph
from sdc.targets.neuro.mapping.mapping import Mapping, map_graph
from sdc.targets.neuro.mapping.statistics import SpikeStatistics
from sdc.targets.neuro.mapping.tiles import FlowKind
from sdc.targets.neuro.simulate.timing import Timing, simulate_timing
from sdc.targets.neuro.simulate.timing_energy import COMPONENTS, dense, energy_per_token
from sdc.targets.neuro.simulate.timing_trace import trace_events, write_trace


def test_one_layer_takes_and_costs_what_the_hand_says() -> None:
    machine = small_machine()
    mapping = map_graph(one_layer(rows=64, width=64, spikes_per_neuron=1.0), machine, tokens=1)
    timing = simulate_timing(mapping)
    cycle, packet, hop, cluster = 2.0, 2.0, 4.0, 2.0  # ns
    work = (64 * 4 + 64) / 4 + 64 * (2 + 64 // 16) + (2 * 64 + 64) / 4 + 64 / 4
    expected = work * cycle + (64 + 1 + 1 + 64) * packet + 2 * (hop + cluster)
    assert timing.makespan == pytest.approx(expected)
    assert timing.latency_ns == timing.period_ns == timing.makespan
    energy = energy_per_token(mapping, timing.makespan)
    unit = machine.energy
    assert energy.counts["synops"] == 64 * 64
    assert energy.counts["hops"] == energy.counts["packets"] == energy.counts["delivered"] == 66 + 64
    parts = energy.by_component()
    assert parts["synaptic"] == pytest.approx(64 * 64 * 1.35)
    assert parts["neuron"] == pytest.approx((64 + 64) * unit.neuron_update_pj)
    assert parts["network"] == pytest.approx(130 * (4.8 + 1.2))
    assert parts["static"] == pytest.approx(500.0 * expected)
    assert energy.total_pj == pytest.approx(sum(parts.values()))
    assert sum(energy.by_layer().values()) == pytest.approx(energy.dynamic_pj)


def check_physics(mapping: Mapping, timing: Timing) -> None:
    flows, costs = mapping.partition.flows, mapping.costs
    moving = flows.kind != FlowKind.STATISTIC
    tokens = timing.start.shape[1]
    # Conservation: every message of every token left once and reached every receiver.
    assert len(timing.flow) == tokens * moving.sum()
    assert len(np.unique(timing.flow * tokens + timing.token)) == len(timing.flow)
    np.testing.assert_allclose(timing.sent, costs.packets * tokens * moving)
    np.testing.assert_allclose(timing.delivered, timing.sent * flows.fan_out)
    assert np.isfinite(timing.end).all()
    # Nobody starts before the inputs are there.
    for m, f in enumerate(timing.flow.tolist()):
        for t in flows.targets(f).tolist():
            if flows.kind[f] != FlowKind.REDUCTION:
                assert timing.arrived[m] <= timing.start[t, timing.token[m]] + 1e-6
            assert timing.arrived[m] <= timing.end[t, timing.token[m]] + 1e-6
    # A core does one thing at a time.
    for core in np.unique(mapping.core):
        mine = mapping.core == core
        order = np.argsort(timing.start[mine].ravel(), kind="stable")
        ends, starts = timing.end[mine].ravel()[order], timing.start[mine].ravel()[order]
        assert (starts[1:] >= ends[:-1] - 1e-6).all()
    assert (timing.end - timing.start >= mapping.costs.work_ns[:, None] - 1e-6).all()
    assert (timing.link_busy <= timing.makespan + 1e-6).all()


@settings(max_examples=8)
@given(
    synapse=st.integers(3000, 30000),
    tokens=st.integers(1, 6),
    routers=st.integers(2, 12),
    coding=st.sampled_from(["ternary", "bitwise", "binary"]),
    topology=st.sampled_from(["mesh", "torus"]),
)
def test_no_message_is_lost_and_causes_come_before_effects(
    synapse, tokens, routers, coding, topology
) -> None:
    machine = small_machine(
        core={"synapse_memory_bytes": synapse, "neuron_memory_bytes": 5000},
        board={"routers_x": routers, "routers_y": routers},
        network={"topology": topology},
    )
    mapping = map_graph(small_llama(coding=coding), machine, tokens=tokens, rounds=10)
    timing = simulate_timing(mapping)
    check_physics(mapping, timing)
    assert timing.makespan >= mapping.schedule.bound_ns * (1 - 1e-9)


def test_slow_links_stall_and_shallow_buffers_stall() -> None:
    quick = map_graph(small_llama(), small_machine(core={"synapse_memory_bytes": 4096}), tokens=6)
    slow_machine = small_machine(core={"synapse_memory_bytes": 4096}, network={"link_clock_mhz": 5.0})
    slow = map_graph(small_llama(), slow_machine, tokens=6)
    assert simulate_timing(slow).link_stall.max() > simulate_timing(quick).link_stall.max()
    assert simulate_timing(slow).makespan > 3 * simulate_timing(quick).makespan
    stalls = simulate_timing(quick).buffer_stall
    assert stalls.max() > 0


@pytest.mark.parametrize("name", SHIPPED)
def test_the_simulator_confirms_the_schedule_of_smollm2(name: str) -> None:
    mapping = map_graph(llama_graph("smollm2-135m"), load_machine(name), tokens=8, rounds=300)
    timing = simulate_timing(mapping)
    assert mapping.schedule.bound_ns * (1 - 1e-9) <= timing.makespan <= 1.3 * mapping.schedule.bound_ns


@pytest.mark.parametrize("name", SHIPPED)
def test_skipping_zeros_and_bitwise_codes_pay(name: str) -> None:
    machine = load_machine(name)
    found = {}
    for coding in ("bitwise", "ternary", "binary"):
        statistics = SpikeStatistics(levels=15, coding=coding)
        graph = llama_graph("smollm2-135m", statistics)
        for label, program in (("sparse", graph), ("dense", dense(graph))):
            mapping = map_graph(program, machine, tokens=2, rounds=0)
            timing = simulate_timing(mapping)
            energy = energy_per_token(mapping, timing.period_ns)
            found[coding, label] = (energy.total_pj, timing.makespan)
    for coding in ("bitwise", "ternary", "binary"):
        assert found[coding, "sparse"][0] < found[coding, "dense"][0]
        assert found[coding, "sparse"][1] < found[coding, "dense"][1]
    assert found["bitwise", "sparse"][0] < found["ternary", "sparse"][0]
    assert found["ternary", "dense"][0] < found["binary", "dense"][0]


@pytest.mark.parametrize("coding", ["ternary", "bitwise", "binary"])
def test_additions_are_spikes_times_fan_out(coding: Coding) -> None:
    graph = small_llama(coding=coding)
    mapping = map_graph(graph, small_machine(core={"synapse_memory_bytes": 3000}), tokens=1, rounds=0)
    tiles, ops = mapping.partition.tiles, mapping.partition.ops
    for i, op in enumerate(ops):
        if isinstance(op, Accumulate):
            encode = graph.op(f"{op.name}.encode")
            expected = op.rows * op.width * encode.spikes_per_neuron
            assert tiles.synops[tiles.op == i].sum() == pytest.approx(expected)


def test_streamed_weights_are_paid_for_once_a_batch() -> None:
    machine = small_machine(core={"synapse_memory_bytes": 8192}, board={"routers_x": 3, "routers_y": 3})
    one, many = (map_graph(small_llama(), machine, tokens=n) for n in (1, 8))
    column = COMPONENTS.index("external_memory")
    a, b = (energy_per_token(m, 0.0).by_op[:, column].sum() for m in (one, many))
    weights = one.partition.tiles.synapse_bytes.sum() * machine.energy.dram_access_pj_per_byte
    assert a - b == pytest.approx(weights * (1 - 1 / 8))


def test_the_trace_is_chrome_json_and_the_same_every_time(tmp_path) -> None:
    mapping = map_graph(small_llama(layers=1), small_machine(), tokens=2, rounds=0)
    for name in ("a.json", "b.json"):
        write_trace(mapping, simulate_timing(mapping), tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    events = json.loads((tmp_path / "a.json").read_text())["traceEvents"]
    assert events == json.loads(json.dumps(trace_events(mapping, simulate_timing(mapping))))
    work = [e for e in events if e["ph"] == "X" and e["cat"] == "core"]
    assert len(work) == 2 * len(mapping.partition.tiles)
    assert {"name", "pid", "tid", "ts", "dur", "args"} <= set(work[0])
    assert all(e["dur"] >= 0 for e in events if e["ph"] == "X")
    named = {(e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    assert {(e["pid"], e["tid"]) for e in events if e["ph"] == "X"} <= named
