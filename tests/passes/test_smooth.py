"""smooth: the scales, where they go, and that float results stay."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.sketch import Sketch, assert_same_model
from helpers.tiny_llama import decoder_inputs, tiny_llama
from tvm import relax

from sdc.errors import PassError, PostconditionError
from sdc.ir.evaluate import Evaluator
from sdc.ir.model import Encoding, Model
from sdc.ir.ops import linear
from sdc.passes.base import PassContext, PassOptions, check_model
from sdc.passes.exponents import CLIPS, EXPONENTS, best_exponent
from sdc.passes.fold_norm_gamma import FoldNormGamma
from sdc.passes.merge_parallel_linears import MergeParallelLinears
from sdc.passes.smooth import Smooth, smoothing_scales
from sdc.passes.spikes import dequantised
from sdc.passes.statistics import collect_statistics

rng = np.random.default_rng(0)
X = (rng.normal(size=(9, 4)) * [1, 20, 1, 0.1]).astype(np.float32)
W, V = (rng.normal(size=(4, 4)).astype(np.float32) for _ in range(2))
UP, BIAS = rng.normal(size=(4, 4)).astype(np.float32), rng.normal(size=4).astype(np.float32)
HALF = PassOptions(smoothing=0.5)
CTX = PassContext(HALF, (X,))


def smooth(model: Model, ctx: PassContext = CTX, tolerance: float = 1e-5) -> Model:
    after = Smooth().run(model, ctx)
    check_model(after, "smooth")
    Smooth().check(after, ctx)
    if model.entry == "main":
        for got, want in zip(Evaluator(after).run("main", X), Evaluator(model).run("main", X), strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())
    return after


def expected_scales(x: np.ndarray, *weights: np.ndarray) -> np.ndarray:
    s = np.abs(x).max(0) ** 0.5 / np.abs(np.concatenate(weights)).max(0) ** 0.5
    return (s / s.mean()).astype(np.float32)


def test_scales() -> None:
    x, w = np.array([4.0, 1, 0], np.float32), np.array([1.0, 4, 1], np.float32)
    np.testing.assert_allclose(smoothing_scales(x, w, 1.0) * (5 + 4e-5) / 3, [4, 1, 4e-5], rtol=1e-4)
    s = smoothing_scales(x[:2], w[:2], 0.5)
    np.testing.assert_allclose(s, np.array([2, 0.5]) / 1.25, rtol=1e-6)
    shared = smoothing_scales(np.array([4.0, 1, 1, 9]), np.array([1.0, 1, 4, 1]), 0.5, (1, 2, 2))
    np.testing.assert_allclose(shared, np.array([1, 3, 1, 3]) / 2, rtol=1e-6)


def test_a_norm_takes_the_scales_of_all_its_linears() -> None:
    s = Sketch(x=[9, 4])
    h = s(relax.op.nn.layer_norm(s["x"], s.weight("g", BIAS), s.weight("b", X[0]), -1, 1e-5))
    before = s.model(s(linear(h, s.weight("w", W), name="one")), s(linear(h, s.weight("v", V), name="two")))

    normed = Evaluator(Model(before.module, before.params)).run("main", X)
    assert len(normed) == 2
    absmax = collect_statistics(before, CTX)["one"].absmax
    scales = expected_scales(absmax[None], W, V)
    e = Sketch(x=[9, 4])
    gain, shift = e.weight("one.norm_gain", BIAS / scales), e.weight("one.norm_shift", X[0] / scales)
    h = e(relax.op.nn.layer_norm(e["x"], gain, shift, -1, 1e-5))
    want = e.model(
        e(linear(h, e.weight("w", W * scales), name="one")),
        e(linear(h, e.weight("v", V * scales), name="two")),
    )
    assert_same_model(smooth(before), want)


def gated(s: Sketch, up: np.ndarray, bias: np.ndarray) -> relax.Var:
    rows = linear(s["x"], s.weight("fc.weight", up), s.weight("fc.bias", bias), name="fc")
    split = s(relax.op.split(s(rows), [4], axis=-1))
    gate = s(relax.op.nn.silu(s(relax.TupleGetItem(split, 0))))
    return s(relax.op.multiply(gate, s(relax.TupleGetItem(split, 1))))


def test_the_rows_of_up_take_the_scales_of_down() -> None:
    both, bias = np.concatenate([V, UP]), np.concatenate([BIAS, BIAS])
    s = Sketch(x=[9, 4])
    before = s.model(s(linear(gated(s, both, bias), s.weight("down", W), name="down")))
    seen = collect_statistics(before, CTX)
    down, first = expected_scales(seen["down"].absmax[None], W), expected_scales(X, both)

    e = Sketch(x=[9, 4])
    x = e(relax.op.multiply(e["x"], e.weight("fc.smooth_inverse", 1 / first)))
    e.inputs["x"] = x
    rows = np.concatenate([np.ones(4), 1 / down])
    h = gated(e, both * rows[:, None] * first, bias * rows)
    e.inputs["x"] = s["x"]
    want = e.model(e(linear(h, e.weight("down", W * down), name="down")))
    after = smooth(before)
    assert list(after.params) == list(want.params)
    for name, param in want.params.items():
        np.testing.assert_allclose(after.params[name].value(), param.value(), rtol=1e-5)


@pytest.mark.parametrize(
    ("activation", "explicit"),
    [(relax.op.nn.relu, False), (relax.op.nn.gelu, True), (relax.op.nn.silu, True)],
)
def test_scales_pass_a_relu_but_no_curve(activation, explicit: bool) -> None:
    s = Sketch(x=[9, 4])
    h = s(linear(s["x"], s.weight("up", UP), s.weight("up.bias", BIAS), name="up"))
    before = s.model(s(linear(s(activation(h)), s.weight("down", W), name="down")))
    after = smooth(before)
    assert ("down.smooth_inverse" in after.params) is explicit


def test_rows_that_something_else_reads_are_left_alone() -> None:
    s = Sketch(x=[9, 4])
    h = s(linear(s["x"], s.weight("up", UP), name="up"))
    down = s(linear(s(relax.op.nn.relu(h)), s.weight("down", W), name="down"))
    after = smooth(s.model(down, h))
    assert "down.smooth_inverse" in after.params


def test_a_factor_that_is_broadcast_is_left_alone() -> None:
    s = Sketch(x=[9, 4])
    h = s(linear(s["x"], s.weight("one", UP[:1]), name="one"))
    product = s(relax.op.multiply(s["x"], h))
    after = smooth(s.model(s(linear(product, s.weight("down", W), name="down"))))
    assert "down.smooth_inverse" in after.params


@pytest.mark.parametrize("options", [{}, {"bias": True, "tied": False}, {"heads": 6, "kv_heads": 2}])
def test_a_decoder_keeps_its_results_and_multiplies_nowhere(options) -> None:
    before = tiny_llama(**options)
    ctx = PassContext(HALF, tuple(rng.integers(0, 64, 16) for _ in range(2)))
    for each in (MergeParallelLinears(), FoldNormGamma()):
        before = each.run(before, ctx)
    after = smooth(before, ctx)
    assert not [name for name in after.params if "inverse" in name]
    inputs = decoder_inputs(before, rng.integers(0, 64, (2, 7)))
    want, got = (Evaluator(m).run("forward", *inputs)[0] for m in (before, after))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
    for name, seen in collect_statistics(after, ctx).items():
        if name.endswith(("down", "head")):  # at a = 0.5 both sides are equally large, up to one factor
            ratio = seen.absmax / seen.weight_absmax
            np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3, err_msg=name)


def test_an_exponent_of_nought_changes_nothing() -> None:
    model = tiny_llama()
    assert Smooth().run(model, PassContext(PassOptions(smoothing=0))) is model


def test_calibration_is_needed() -> None:
    with pytest.raises(PassError, match="no calibration input"):
        Smooth().run(tiny_llama(), PassContext())


def test_the_postcondition_finds_what_is_not_smoothed() -> None:
    with pytest.raises(PostconditionError, match=r"layers\.0\.attn\.q is not smoothed"):
        Smooth().check(tiny_llama(), CTX)


def test_the_searched_exponent_has_the_least_output_error() -> None:
    random = np.random.default_rng(5)
    x = random.normal(size=(96, 16)).astype(np.float32)
    x[:, 3] *= 30
    weight = random.normal(size=(24, 16)).astype(np.float32)
    options = PassOptions(levels=7, group=16, block=0)

    def scales(exponent: float) -> np.ndarray:
        return smoothing_scales(np.abs(x).max(0), np.abs(weight).max(0), exponent)

    def loss(exponent: float) -> float:
        s = scales(exponent)
        losses = []
        for clip in CLIPS:
            spikes = dequantised(x / s, Encoding(levels=7, group=16, clip_ratio=clip))
            losses.append(np.square((spikes * s - x) @ weight.T).sum())
        return min(losses)

    found = best_exponent(x, [weight], scales, options)
    assert found == min(EXPONENTS, key=loss)
    assert best_exponent(x, [weight[:12], weight[12:]], scales, options) == found


@pytest.mark.parametrize("block", [0, 8])
def test_searching_keeps_results(block) -> None:
    model = tiny_llama()
    ctx = PassContext(PassOptions(smoothing="search", block=block, spikes=1.5), (np.arange(20),))
    after = smooth(model, ctx)
    inputs = decoder_inputs(model, np.arange(6)[None])
    want, got = (Evaluator(m).run("forward", *inputs)[0] for m in (model, after))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
