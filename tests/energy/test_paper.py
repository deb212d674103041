"""The published table of SDLLM, as the reconstruction gives it."""

from __future__ import annotations

import pytest

from sdc.energy import find_shape, implied_spikes, llama_work, paper_rows, sdc_format, spikellm_format


def test_the_shapes_have_the_parameters_of_llama2_7b():
    work = llama_work(find_shape("llama2-7b"), 0)
    weights = sum(p.weights for p in work.products)
    embedding, norms = 32000 * 4096, 65 * 4096
    assert weights + embedding + norms == 6_738_415_616  # Llama-2-7b-hf, model.safetensors.index.json


def test_published_figures_come_out_to_all_printed_digits():
    fp16, w4a4, sdllm = paper_rows()
    for row in (fp16, w4a4, sdllm):
        assert round(row.convention, 2) == row.published


def test_what_the_spiking_row_implies():
    assert implied_spikes(0.9 / 8) == pytest.approx(0.862, abs=1e-3)
    assert implied_spikes(0.1) == pytest.approx(0.970, abs=1e-3)


def test_the_claimed_factor_of_seven_is_within_what_a_zero_point_costs():
    *_, sdllm, binary = paper_rows((spikellm_format(7),))
    assert 6 < binary.convention / sdllm.convention < 9


def test_everything_is_more_than_compute_only():
    for row in paper_rows((sdc_format("bitwise", 7, weight_bits=4, keys=512),)):
        assert all(e > c > 0 for e, c in zip(row.everything, row.compute_only, strict=True))
