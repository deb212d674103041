"""Schedules: closed forms for tiny programs, nearness to the bound, batches, buffers and streaming."""

import numpy as np
import pytest
from helpers.neuro import SHIPPED, one_layer, small_llama, small_machine
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.targets.neuro.machine import load_machine
from sdc.targets.neuro.mapping.graph import Accumulate
from sdc.targets.neuro.mapping.llama import llama_graph
from sdc.targets.neuro.mapping.mapping import Mapping, map_graph
from sdc.targets.neuro.mapping.tiles import FlowKind
from sdc.targets.neuro.verify import check_mapping


def test_one_layer_takes_what_the_hand_says() -> None:
    """encode -> accumulate -> y on three neighbouring cores, worked out from the machine's numbers."""
    machine = small_machine()
    mapping = map_graph(one_layer(rows=64, width=64, spikes_per_neuron=1.0), machine, tokens=1)
    cycle = 1e3 / 500.0  # ns, at 500 MHz
    encode = (64 * 4.0 + 64) / 4 * cycle  # vector operations and 64 decisions on 4 lanes
    accumulate = (
        64 * (2 + 64 // 16) + (2 * 64 + 64) / 4
    ) * cycle  # 64 spikes x 64 rows on 16 lanes; read-out
    output = 64 / 4 * cycle
    packet, hop, cluster = 2.0, 4.0, 2.0  # ns: 48 bits on 48 wires at 500 MHz; 2 cycles a hop; into the core
    spikes = (64 + 1 + 1) * packet  # spikes, one threshold, one marker
    values = 64 * packet
    expected = encode + accumulate + output + spikes + values + 2 * (hop + cluster)
    assert mapping.schedule.makespan_ns == pytest.approx(expected)
    assert mapping.schedule.bound_ns == pytest.approx(expected)


def test_further_tokens_cost_one_period_each() -> None:
    machine = small_machine()
    one, many = (map_graph(small_llama(), machine, tokens=n, rounds=0) for n in (1, 33))
    period = one.schedule.period_ns
    assert many.schedule.period_ns == period
    assert many.schedule.makespan_ns == pytest.approx(one.schedule.makespan_ns + 32 * period)
    assert period >= one.schedule.work_ns.max()


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("tokens", [1, 16, 256])
def test_smollm2_is_scheduled_near_the_bound(name: str, tokens: int) -> None:
    mapping = map_graph(llama_graph("smollm2-135m"), load_machine(name), tokens=tokens, rounds=300)
    plan = mapping.schedule

    assert plan.bound_ns * (1 - 1e-9) <= plan.makespan_ns <= 1.3 * plan.bound_ns
    assert check_mapping(mapping) == []


@settings(max_examples=12)
@given(
    synapse=st.integers(1500, 30000),
    neuron=st.integers(3000, 20000),
    tokens=st.integers(1, 20),
    routers=st.integers(2, 16),
)
def test_every_mapping_passes_the_verifier(synapse: int, neuron: int, tokens: int, routers: int) -> None:
    machine = small_machine(
        core={"synapse_memory_bytes": synapse, "neuron_memory_bytes": neuron},
        board={"routers_x": routers, "routers_y": routers},
    )
    mapping = map_graph(small_llama(), machine, tokens=tokens, rounds=20)
    assert [str(v) for v in check_mapping(mapping)] == []
    assert mapping.schedule.bound_ns <= mapping.schedule.makespan_ns * (1 + 1e-9)


def streamed() -> Mapping:
    machine = small_machine(core={"synapse_memory_bytes": 8192}, board={"routers_x": 3, "routers_y": 3})
    return map_graph(small_llama(), machine, tokens=8)


def test_streamed_weights_arrive_while_others_are_used() -> None:
    mapping = streamed()
    plan, tiles = mapping.schedule, mapping.partition.tiles
    assert plan.loads is not None
    assert mapping.partition.waves > 3
    overlapping = (plan.loads.start < plan.makespan_ns / 2) & (plan.loads.end > 0) & (tiles.wave > 0)
    assert overlapping.any()
    total = (tiles.synapse_bytes / 25.6).sum()
    assert (plan.loads.end - plan.loads.start).sum() >= total
    assert plan.makespan_ns >= total


def test_a_slower_external_memory_makes_a_longer_schedule() -> None:
    core, board = {"synapse_memory_bytes": 8192}, {"routers_x": 3, "routers_y": 3}
    slow = small_machine(core=core, board=board, external_memory={"bandwidth_gb_per_s_per_chip": 0.1})
    mapping = map_graph(small_llama(), slow, tokens=1)
    weights = mapping.partition.tiles.synapse_bytes.sum()
    assert mapping.schedule.makespan_ns >= weights / 0.1
    assert mapping.schedule.makespan_ns <= 1.3 * mapping.schedule.bound_ns


def test_barriers_stand_only_before_receivers_of_spikes() -> None:
    mapping = map_graph(small_llama(), small_machine(core={"synapse_memory_bytes": 4096}), rounds=0)
    part = mapping.partition
    for tile, markers in enumerate(mapping.schedule.barrier):
        assert (markers > 0) == isinstance(part.ops[part.tiles.op[tile]], Accumulate)
    spikes = part.flows.kind == FlowKind.SPIKES
    assert mapping.schedule.barrier.sum() == part.flows.fan_out[spikes].sum()
    np.testing.assert_array_equal(mapping.costs.packets - part.flows.packets, spikes)


def test_scarce_memory_lengthens_the_period_instead_of_overflowing() -> None:
    roomy, tight = (
        map_graph(small_llama(layers=1), small_machine(core={"neuron_memory_bytes": n}), rounds=0)
        for n in (3000, 2100)
    )
    assert roomy.schedule.depth.max() > 2
    assert roomy.schedule.period_ns == pytest.approx(roomy.schedule.work_ns.max())
    assert tight.schedule.depth.max() == 2
    assert tight.schedule.period_ns > 1.04 * tight.schedule.work_ns.max()
    assert check_mapping(tight) == []
