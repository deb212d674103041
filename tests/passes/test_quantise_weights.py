"""quantise-weights: values on a grid of integers and scales, computed once for both parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sdc.errors import PassError, PostconditionError
from sdc.ir.params import FunctionSource, Param, array_param
from sdc.passes.base import PassContext, PassOptions
from sdc.passes.calibrate import Calibrate
from sdc.passes.graph import Graph
from sdc.passes.quantise_weights import Quantised, QuantiseWeights, integer_params
from sdc.passes.quantisers import quantise_rtn


@settings(max_examples=60, deadline=None)
@given(
    weight=arrays(np.float32, (3, 8), elements=st.floats(-100, 100, width=32)),
    bits=st.sampled_from([2, 3, 4, 8]),
    group=st.sampled_from([0, 2, 8]),
)
def test_integers_times_scales_are_near_the_weight(weight, bits, group) -> None:
    integers, scale = quantise_rtn(weight, bits, group)
    top = 2 ** (bits - 1) - 1
    assert integers.dtype == np.int8
    assert np.abs(integers.astype(int)).max(initial=0) <= top
    width = 8 // scale.shape[1]
    error = np.abs(integers * np.repeat(scale, width, 1) - weight)
    peak = np.abs(weight).reshape(3, -1, width).max(-1).repeat(width, 1)
    assert (error <= 0.5 * peak / top + 0.26 * peak + 1e-5).all()


def test_the_module_stays_float_and_its_weights_lie_on_the_grid() -> None:
    from helpers.tiny_llama import tiny_llama

    context = PassContext(PassOptions(weights="int4", group=16))
    calibrated = Calibrate().run(tiny_llama(), context)
    with pytest.raises(PostconditionError, match="is not quantised"):
        QuantiseWeights().check(calibrated, context)
    after = QuantiseWeights().run(calibrated, context)
    QuantiseWeights().check(after, context)
    graph = Graph(after)
    for linear in graph.linears():
        param = graph.param(linear.weight)
        integers, scale = integer_params(param, linear.name)
        wide = np.repeat(scale.value(), param.shape[1] // scale.shape[1], 1)
        np.testing.assert_array_equal(integers.value() * wide, param.value())
        assert np.abs(integers.value()).max() <= 7


def test_integers_and_scales_come_from_one_computation() -> None:
    reads = []
    weight = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)

    def read() -> np.ndarray:
        reads.append(1)
        return weight

    param = Param("w", (4, 8), "float32", FunctionSource(read)).then(Quantised(8, 0))
    integers, scale = integer_params(param, "l")
    assert (integers.name, scale.name) == ("l.q", "l.scale")
    integers.value()
    scale.value()
    assert len(reads) == 1


def test_a_weight_that_is_not_quantised_has_no_parts() -> None:
    with pytest.raises(PassError, match="the weight of l is not quantised"):
        integer_params(array_param("w", np.ones((2, 2), np.float32)), "l")
