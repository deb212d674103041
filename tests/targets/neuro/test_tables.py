"""Tables of codings and of scaling."""

import numpy as np
import pytest

from sdc.targets.firing import OpFiring
from sdc.targets.neuro.machine import load_machine
from sdc.targets.neuro.mapping.llama import SHAPES, LlamaShape, llama_graph
from sdc.targets.neuro.mapping.statistics import measured_statistics, softmax_spikes
from sdc.targets.neuro.simulate.timing_tables import PUBLISHED, coding_table, markdown, scaling_table

SMALL = LlamaShape("small", hidden=128, layers=2, heads=4, kv_heads=2, ffn=256, vocab=512)


def test_the_coding_table_has_every_combination_and_orders_them() -> None:
    rows = list(coding_table([load_machine("generic")], SMALL, tokens=2, rounds=0))
    assert len(rows) == 6
    by = {(row.coding, row.activity): row for row in rows}
    for coding in ("bitwise", "ternary", "binary"):
        assert by[coding, "sparse"].mj_per_token < by[coding, "dense"].mj_per_token
        assert by[coding, "sparse"].latency_ms < by[coding, "dense"].latency_ms
        assert by[coding, "sparse"].packets < by[coding, "dense"].packets
    assert by["bitwise", "sparse"].synops < by["ternary", "sparse"].synops == by["binary", "sparse"].synops
    table = markdown(rows)
    assert table.count("\n") == 2 + len(rows)
    assert "| generic | bitwise | sparse |" in table


def test_scaling_rows_grow_with_the_model() -> None:
    shapes = [SMALL, LlamaShape("double", hidden=128, layers=4, heads=4, kv_heads=2, ffn=256, vocab=512)]
    small, double = scaling_table(load_machine("loihi2-like"), shapes, tokens=2)
    assert (small.parameters, double.parameters) == (shapes[0].parameters, shapes[1].parameters)
    assert 1.4 < double.mj_per_token / small.mj_per_token < 2.6
    assert double.tiles > small.tiles
    assert "| double |" in markdown([small, double])


def test_published_figures_are_those_of_their_sources() -> None:
    joules = [p.joules_per_token for p in PUBLISHED]
    np.testing.assert_allclose(joules, [0.67, 0.654e-3, 0.405, 0.0237, 1.0], rtol=2e-3)
    assert all(p.source and p.counted for p in PUBLISHED)
    assert markdown([]) == ""


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["northpole-like", "loihi2-like"])
def test_mapping_time_is_near_linear_up_to_seven_billion(machine: str) -> None:
    rows = list(scaling_table(load_machine(machine), tuple(SHAPES), tokens=2))
    assert rows[2].mapping_s < 60.0
    assert rows[2].us_per_tile < 1.5 * rows[1].us_per_tile


def test_measured_firing_goes_before_the_estimate_and_serves_other_sizes() -> None:
    fired = [OpFiring(neurons=10, rate_spikes=10 * (i + 1), bit_spikes=5 * (i + 1)) for i in range(9)]
    queries = [OpFiring(neurons=10, rate_spikes=40, bit_spikes=20)] * 2
    ternary, bitwise = (measured_statistics(fired, queries, 15, c, 64) for c in ("ternary", "bitwise"))
    assert ternary.spikes("layers.0.attn.qkv") == 1.0
    assert ternary.spikes("layers.1.attn.qkv") == 5.0
    assert ternary.spikes("layers.7.attn.qkv") == 3.0  # the mean of both layers
    assert ternary.spikes("head") == 9.0
    assert ternary.query_spikes(64) == 4.0
    assert bitwise.spikes("layers.7.mlp.down") == 3.0
    graph = llama_graph(SMALL, ternary)
    assert graph.op("layers.1.mlp.down.encode").spikes_per_neuron == 8.0
    mixed = [OpFiring(neurons=200, rate_spikes=60, bit_spikes=20)] * 2
    counted = measured_statistics(fired, queries, 15, "bitwise", 64, probabilities=mixed, keys=100)
    assert counted.probability_spikes(100) == pytest.approx(0.1)
    model = [softmax_spikes(255, "bitwise", keys) for keys in (100, 400)]
    assert counted.probability_spikes(400) == pytest.approx(0.1 * model[1] / model[0])
    assert bitwise.probability_spikes(400) == model[1]
    with pytest.raises(ValueError, match="9 linear layers and 1 attentions"):
        measured_statistics(fired, queries[:1], 15, "ternary", 64)
