"""Partition: every weight on exactly one core, nothing overfull, every value delivered once."""

import numpy as np
import pytest
from helpers.neuro import one_layer, small_llama, small_machine
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.targets.neuro.machine import load_machine
from sdc.targets.neuro.mapping.graph import Accumulate, Attention, Encode, Readout
from sdc.targets.neuro.mapping.llama import SHAPES, llama_graph
from sdc.targets.neuro.mapping.statistics import SpikeStatistics, gaussian_spikes
from sdc.targets.neuro.mapping.tiles import FlowKind, Partition
from sdc.targets.neuro.partition import DoesNotFit, partition

TINY = {"synapse_memory_bytes": 4096, "neuron_memory_bytes": 4096}


def covered(part: Partition, op: int) -> np.ndarray:
    rows = int(part.tiles.row1[part.tiles.op == op].max())
    cols = int(part.tiles.col1[part.tiles.op == op].max())
    count = np.zeros((rows, cols), np.int64)
    for t in np.flatnonzero(part.tiles.op == op):
        tile = part.tiles
        count[tile.row0[t] : tile.row1[t], tile.col0[t] : tile.col1[t]] += 1
    return count


@settings(max_examples=30)
@given(
    rows=st.integers(1, 300),
    groups=st.integers(1, 6),
    synapse=st.integers(128, 20000),
    neuron=st.integers(1100, 9000),
)
def test_every_synapse_is_on_exactly_one_core_that_holds_it(rows, groups, synapse, neuron) -> None:
    machine = small_machine(core={"synapse_memory_bytes": synapse, "neuron_memory_bytes": neuron})
    part = partition(one_layer(rows, 64 * groups), machine)
    op = next(i for i, op in enumerate(part.ops) if isinstance(op, Accumulate))
    np.testing.assert_array_equal(covered(part, op), 1)
    assert covered(part, op).shape == (rows, 64 * groups)
    limit = synapse // 2 if part.streamed else synapse
    assert part.tiles.synapse_bytes.max() <= limit
    assert part.tiles.neuron_bytes.max() <= neuron
    assert not np.any(part.tiles.col0[part.tiles.op == op] % 64)


@settings(max_examples=20)
@given(synapse=st.integers(600, 20000), neuron=st.integers(2100, 9000))
def test_what_is_sent_is_what_is_needed(synapse, neuron) -> None:
    machine = small_machine(core={"synapse_memory_bytes": synapse, "neuron_memory_bytes": neuron})
    graph = small_llama()
    part = partition(graph, machine)
    tiles, flows = part.tiles, part.flows
    for i, op in enumerate(part.ops):
        if not isinstance(op, Accumulate):
            continue
        encode = graph.op(next(iter(graph.net.predecessors(op.name))))
        assert isinstance(encode, Encode)
        for t in np.flatnonzero(tiles.op == i):
            arriving = (flows.target == t) & (flows.kind[flows.flow_of_target] == FlowKind.SPIKES)
            got = flows.packets[flows.flow_of_target[arriving]].sum()
            width = tiles.col1[t] - tiles.col0[t]
            words = width * encode.spikes_per_neuron
            assert words < got <= words + width // op.group + arriving.sum()


def test_values_reach_the_channels_they_belong_to() -> None:
    machine = small_machine(core=TINY)
    graph = small_llama(layers=1)
    part = partition(graph, machine)
    index = {op.name: i for i, op in enumerate(part.ops)}
    gate_up, down = index["layers.0.mlp.gate_up"], index["layers.0.mlp.down.encode"]
    tiles, flows = part.tiles, part.flows
    received: dict[int, float] = {}
    for f in range(len(flows)):
        (t,) = flows.targets(f) if flows.fan_out[f] == 1 else (-1,)
        if tiles.op[flows.source[f]] == gate_up and t >= 0 and tiles.op[t] == down:
            received[t] = received.get(t, 0.0) + flows.packets[f]
    for t in np.flatnonzero(tiles.op == down):
        assert received[t] == 2 * (tiles.row1[t] - tiles.row0[t])


def test_cut_inputs_are_summed_along_a_chain_in_ascending_order() -> None:
    machine = small_machine(core={"synapse_memory_bytes": 70})
    part = partition(one_layer(3, 64 * 5), machine)
    flows, tiles = part.flows, part.tiles
    chain = np.flatnonzero(flows.kind == FlowKind.REDUCTION)
    assert len(chain) == 3 * 4
    source, target = flows.source[chain], flows.target[flows.first[chain]]
    np.testing.assert_array_equal(tiles.col1[source], tiles.col0[target])
    np.testing.assert_array_equal(tiles.row0[source], tiles.row0[target])
    final = np.flatnonzero(flows.kind == FlowKind.VALUES)
    assert set(tiles.col1[flows.source[final]]) == {320}


def test_a_model_that_does_not_fit_is_told_with_numbers() -> None:
    machine = small_machine(core=TINY, board={"routers_x": 2, "routers_y": 2}, external_memory=None)
    with pytest.raises(DoesNotFit, match=r"needs \d+ cores with 4,096 bytes.*4 are available.*360,448 bytes"):
        partition(small_llama(), machine)


def test_external_memory_makes_it_fit_in_waves() -> None:
    machine = small_machine(core=TINY, board={"routers_x": 2, "routers_y": 2})
    part = partition(small_llama(), machine)
    assert part.streamed
    assert part.waves == -(-len(part.tiles) // 4)
    assert part.tiles.synapse_bytes.max() <= 2048
    wave, flow = part.tiles.wave, part.flows.flow_of_target
    crossing = wave[part.flows.source[flow]] != wave[part.flows.target]
    np.testing.assert_array_equal(crossing, part.flows.external[flow])
    small = small_machine(
        core=TINY, board={"routers_x": 2, "routers_y": 2}, external_memory={"capacity_bytes_per_chip": 1000}
    )
    with pytest.raises(DoesNotFit, match=r"360,448 bytes of weights exceed the 1,000 bytes"):
        partition(small_llama(), small)


def test_buffers_and_single_rows_that_do_not_fit_are_told() -> None:
    with pytest.raises(DoesNotFit, match=r"room for 386 packets.*buffers 100"):
        partition(small_llama(), small_machine(core={"spike_buffer_packets": 100}))
    with pytest.raises(DoesNotFit, match=r"one group of 64 inputs needs 64 bytes"):
        partition(one_layer(), small_machine(core={"synapse_memory_bytes": 10}))
    with pytest.raises(DoesNotFit, match=r"weights of 8 bits do not fit"):
        partition(one_layer(), small_machine(core={"weight_bits": (2, 4)}))


def test_a_long_cache_is_cut_along_positions() -> None:
    part = partition(small_llama(layers=1), small_machine(core={"synapse_memory_bytes": 2048}))
    op = next(i for i, op in enumerate(part.ops) if isinstance(op, Attention))
    mine = part.tiles.op == op
    assert mine.sum() > 2
    np.testing.assert_array_equal(covered(part, op), 1)
    assert part.tiles.synapse_bytes[mine].sum() == 2 * 64 * part.ops[op].cache_bytes_per_token


def test_readouts_happen_where_the_sums_are() -> None:
    part = partition(small_llama(), small_machine())
    for i, op in enumerate(part.ops):
        owner = part.ops[part.owner[i]]
        assert isinstance(owner, Accumulate) if isinstance(op, Readout) else owner is op


@pytest.mark.parametrize(("name", "parameters"), [("smollm2-135m", 134.5e6), ("llama2-7b", 6.607e9)])
def test_shapes_have_the_parameters_of_the_models(name: str, parameters: float) -> None:
    graph = llama_graph(name)
    assert graph.synapses == SHAPES[name].parameters
    assert abs(graph.synapses / parameters - 1) < 1e-3
    assert graph.layers == SHAPES[name].layers


@pytest.mark.parametrize("levels", [7, 10, 15])
def test_the_gaussian_model_is_near_what_was_measured(levels: int) -> None:
    for coding in ("ternary", "bitwise"):
        measured = SpikeStatistics(levels, coding).spikes("x")
        assert 0.85 < gaussian_spikes(levels, coding, 64) / measured < 1.05


def test_measured_rates_of_single_operations_go_first() -> None:
    statistics = SpikeStatistics(by_op={"layers.0.mlp.down": 0.25})
    graph = llama_graph("smollm2-135m", statistics)
    assert graph.op("layers.0.mlp.down.encode").spikes_per_neuron == 0.25
    assert graph.op("layers.1.mlp.down.encode").spikes_per_neuron == 1.67


@pytest.mark.parametrize("machine", ["loihi2-like", "darwin3-like", "northpole-like", "spinnaker2-like"])
def test_smollm2_fits_into_the_cores_of_the_large_machines(machine: str) -> None:
    part = partition(llama_graph("smollm2-135m"), load_machine(machine))
    assert not part.streamed
    weights = part.tiles.synapse_bytes[[isinstance(part.ops[o], Accumulate) for o in part.tiles.op]].sum()
    assert weights == SHAPES["smollm2-135m"].parameters
