"""Operations, bytes and energies against sums worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdc.energy import (
    COMPONENTS,
    DENSE,
    HOROWITZ_45NM,
    TABLES,
    Other,
    Product,
    Work,
    account,
    compare,
    dense_format,
    find_shape,
    find_table,
    llama_work,
    sdc_format,
    spikellm_format,
    spiking_format,
)
from sdc.errors import ConfigError

LINEAR = Product("fc", inputs=10, synapses=200, outputs=20, weights=200, scales=20)
WORK = Work("one", 1, (LINEAR,), (Other("encode", 0, 10, 0, spiking_only=True), Other("norm", 4, 5, 1)))
SPIKES = spiking_format("s", 7, 2.5, weight_bits=4)


def test_a_dense_layer_by_hand():
    made = account(WORK, dense_format("int8"), HOROWITZ_45NM)
    assert made.compute_only == pytest.approx(200 * (0.2 + 0.1))
    dram = 200 * 1 + 20 * 4
    weights = 200 * 10 / 8 + 2 * dram * 100 / 8 + dram * 1300 / 8
    assert made.components["weights"] == pytest.approx(weights)
    assert made.components["activations"] == pytest.approx(2 * (10 + 20) * 100 / 8)
    arithmetic = 4 * 0.9 + 5 * 3.7 + 8 * (0.9 + 3.7)
    assert made.components["arithmetic"] == pytest.approx(arithmetic)  # no encoder in a dense program
    assert made.components["packets"] == made.components["accumulators"] == 0


def test_a_spiking_layer_by_hand():
    made = account(WORK, SPIKES, HOROWITZ_45NM)
    assert made.counts["synaptic_operations"] == 500
    assert made.counts["spikes"] == 25
    assert made.counts["multiplications"] == 10 + 5
    assert made.compute_only == pytest.approx(500 * 0.1)
    assert made.components["accumulators"] == pytest.approx(500 * 8 * 10 / 8)
    assert made.components["packets"] == pytest.approx(25 * 8 * 100 / 8)
    assert account(WORK, SPIKES, HOROWITZ_45NM, accumulators="register").components["accumulators"] == 0


def test_measured_spikes_go_before_the_formats():
    measured = replace(LINEAR, spikes=7.0, synops=140.0, weight_bits=8)
    made = account(Work("one", 1, (measured,)), SPIKES, HOROWITZ_45NM)
    assert (made.counts["spikes"], made.counts["synaptic_operations"]) == (7, 140)
    assert made.counts["local_bytes"] == 140 * 1 + 140 * 8


def test_probabilities_fire_at_their_own_rate():
    form = spiking_format("s", 7, 2.0, weight_bits=4, probability_spikes=0.5)
    work = Work("p", 4, (replace(LINEAR, probabilities=True), LINEAR))
    assert account(work, form, HOROWITZ_45NM).counts["synaptic_operations"] == 200 * 0.5 + 200 * 2.0


def test_a_pass_of_many_tokens_shares_its_weights():
    one, many = (account(WORK, dense_format("int8"), HOROWITZ_45NM, batch=b) for b in (1, 64))
    assert many.counts["dram_bytes"] == pytest.approx(one.counts["dram_bytes"] / 64)
    assert many.compute_only == one.compute_only
    spiking = account(WORK, SPIKES, HOROWITZ_45NM, batch=64)
    assert spiking.counts["local_bytes"] == account(WORK, SPIKES, HOROWITZ_45NM).counts["local_bytes"]


@given(
    st.sampled_from(list(TABLES.values())),
    st.sampled_from([*DENSE, SPIKES, spikellm_format(3)]),
    st.sampled_from([1, 7, 1000]),
)
def test_everything_is_the_sum_of_the_operations(table, form, batch):
    made = account(llama_work(find_shape("smollm2-135m"), 100), form, table, batch=batch)
    assert made.everything == pytest.approx(sum(sum(op.energy.values()) for op in made.ops))
    assert 0 < made.compute_only < made.everything
    assert set(made.components) == set(COMPONENTS)
    json = made.to_json()
    assert json["everything_joules"] == pytest.approx(sum(json["components_joules"].values()))


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_factors_multiply_to_the_ratio_of_products(table):
    work = llama_work(find_shape("llama2-7b"), 512)
    forms = [sdc_format("ternary", 7, weight_bits=4, keys=512), spikellm_format(7), *DENSE]
    made = compare([(work, form) for form in forms], table)
    for ratio, other in zip(made.factors, made.accounts[1:], strict=True):
        product = ratio.time_steps * ratio.firing_rate * ratio.operation * ratio.word_width
        assert product == pytest.approx(ratio.compute_only)
        assert ratio.everything == pytest.approx(other.everything / made.accounts[0].everything)
    assert made.factors[0].time_steps == 2  # binary trains are twice as long


def test_a_wider_number_never_costs_less():
    for table in TABLES.values():
        integers = ("int4", "int8", "int16", "int32")
        assert [table.add[n] for n in integers] == sorted(table.add[n] for n in integers)
        assert table.local_word < table.global_word < table.dram_word


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="horowitz-45nm"):
        find_table("intel-3nm")
    with pytest.raises(ConfigError, match="llama2-7b"):
        find_shape("gpt-5")
