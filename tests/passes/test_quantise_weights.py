"""quantise-weights: values on a grid of integers and scales, computed once for both parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.sketch import Sketch
from helpers.tiny_llama import decoder_inputs, tiny_llama
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tvm import relax

from sdc.errors import PassError, PostconditionError
from sdc.ir.evaluate import Evaluator
from sdc.ir.ops import linear
from sdc.ir.params import FunctionSource, Param, array_param
from sdc.passes.base import PassContext, PassOptions
from sdc.passes.calibrate import Calibrate, best_clip_ratio
from sdc.passes.graph import Graph
from sdc.passes.pipeline import compile_passes, run_passes
from sdc.passes.quantise_weights import Quantised, QuantiseWeights, integer_params
from sdc.passes.quantisers import quantise_rtn
from sdc.passes.quantisers.rtn import integer_range

rng = np.random.default_rng(0)


@settings(max_examples=60)
@given(
    weight=arrays(np.float32, (3, 8), elements=st.floats(-100, 100, width=32)),
    bits=st.sampled_from([2, 3, 4, 8]),
    group=st.sampled_from([0, 2, 8]),
)
def test_integers_times_scales_are_near_the_weight(weight, bits, group) -> None:
    integers, scale = quantise_rtn(weight, bits, group)
    low, top = integer_range(bits)
    assert integers.dtype == np.int8
    assert low <= integers.min()
    assert integers.max() <= top
    width = 8 // scale.shape[1]
    error = np.abs(integers * np.repeat(scale, width, 1) - weight)
    peak = np.abs(weight).reshape(3, -1, width).max(-1).repeat(width, 1)
    assert (error <= 0.5 * peak / top + 0.36 * peak + 1e-5).all()


def test_the_module_stays_float_and_its_weights_lie_on_the_grid() -> None:
    context = PassContext(PassOptions(weights="int4", group=16))
    calibrated = Calibrate().run(tiny_llama(), context)
    with pytest.raises(PostconditionError, match="is not quantised"):
        QuantiseWeights().check(calibrated, context)
    after = QuantiseWeights().run(calibrated, context)
    QuantiseWeights().check(after, context)
    graph = Graph(after)
    for each in graph.linears():
        param = graph.param(each.weight)
        integers, scale = integer_params(param, each.name)
        wide = np.repeat(scale.value(), param.shape[1] // scale.shape[1], 1)
        np.testing.assert_array_equal(integers.value() * wide, param.value())
        assert -8 <= integers.value().min() <= integers.value().max() <= 7


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


def spiking_error(options: PassOptions, tmp_path: Path | None = None) -> float:
    """Mean squared error of a tiny decoder's logits through all passes."""
    model = tiny_llama(layers=3)
    windows = tuple(np.random.default_rng(1).integers(0, 64, (24, 30)))
    ctx = PassContext(options, windows, scratch=tmp_path)
    after = run_passes(model, compile_passes(), ctx, verify=True)
    held_out = np.random.default_rng(2).integers(0, 64, (4, 24))
    want = Evaluator(model).run("forward", *decoder_inputs(model, held_out))[0]
    got = Evaluator(after).run("forward", *decoder_inputs(after, held_out))[0]
    return float(np.square(want - got).mean() / np.square(want).mean())


def test_layer_by_layer_loses_less_than_rounding() -> None:
    options = PassOptions(weights="int4", weight_group=16, block=8, levels=7, group=16)
    rounded = spiking_error(options)
    compensated = spiking_error(replace(options, quantiser="gptq"))
    assert compensated < 0.9 * rounded


def test_what_is_computed_once_lies_in_files_and_gives_the_same(tmp_path: Path) -> None:
    options = PassOptions(weights="int4", quantiser="gptq", weight_group=16, block=8, group=16)
    assert spiking_error(options, tmp_path) == spiking_error(options)
    linears = 3 * 4 + 1
    assert len(list(tmp_path.iterdir())) == 2 * linears


def test_a_clip_ratio_is_chosen_on_spiking_inputs() -> None:
    s, weight = Sketch(x=[64, 16]), rng.normal(size=(8, 16)).astype(np.float32)
    model = s.model(s(linear(s["x"], s.weight("a", weight), name="a")))
    x = rng.normal(size=(64, 16)).astype(np.float32)
    ctx = PassContext(PassOptions(quantiser="gptq", levels=1, group=16), ((x,),))
    calibrated = Calibrate().run(model, ctx)
    assert calibrated.encodings["a"].clip_ratio == 1.0
    after = QuantiseWeights().run(calibrated, ctx)
    QuantiseWeights().check(after, ctx)
    assert after.encodings["a"].clip_ratio == best_clip_ratio(x, weight, calibrated.encodings["a"]) < 1


def test_without_calibration_inputs_gptq_is_refused() -> None:
    ctx = PassContext(PassOptions(quantiser="gptq"))
    with pytest.raises(PassError, match="GPTQ needs calibration inputs"):
        QuantiseWeights().run(Calibrate().run(tiny_llama(), ctx), ctx)


def test_a_graph_without_a_cache_is_quantised_layer_by_layer_too() -> None:
    s = Sketch(x=[5, 16])
    h = s(linear(s["x"], s.weight("a", rng.normal(size=(24, 16)).astype(np.float32)), name="a"))
    h = s(relax.op.nn.relu(h))
    bias = s.weight("bias", rng.normal(size=8).astype(np.float32))
    model = s.model(s(linear(h, s.weight("b", rng.normal(size=(8, 24)).astype(np.float32)), bias, name="b")))
    x = rng.normal(size=(5, 16)).astype(np.float32)
    ctx = PassContext(PassOptions(quantiser="gptq", levels=127), ((x,), (x + 1,)))
    after = QuantiseWeights().run(Calibrate().run(model, ctx), ctx)
    want, got = (Evaluator(m).run("main", x)[0] for m in (model, after))
    np.testing.assert_allclose(got, want, atol=0.05 * np.abs(want).max())
