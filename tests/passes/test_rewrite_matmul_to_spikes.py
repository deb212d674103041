"""The spike rewrite: the module in full on a small graph, caches as integers, decode equal to recomputing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.sketch import Sketch, assert_same_model
from helpers.tiny_llama import decoder_inputs, tiny_llama
from tvm import relax

from sdc.errors import NumericsError, PassError, PostconditionError
from sdc.ir.evaluate import Evaluator
from sdc.ir.model import Encoding
from sdc.ir.ops import linear, readout, spike_accumulate, spike_encode
from sdc.passes.base import PassContext, PassOptions, check_model
from sdc.passes.certificate import certify
from sdc.passes.pipeline import compile_passes, run_passes
from sdc.passes.quantisers import quantise_rtn
from sdc.passes.registry import find_pass

rng = np.random.default_rng(0)
IDS = rng.integers(0, 64, (2, 12))
CALIBRATION = tuple(rng.integers(0, 64, (3, 16)))


def spiking(levels: int = 15, weights: str = "int8", **options):
    context = PassContext(PassOptions(levels=levels, group=16, weights=weights, **options), CALIBRATION)
    return run_passes(tiny_llama(), compile_passes(), context, verify=True)


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    model = tiny_llama()
    return Evaluator(model).run("forward", *decoder_inputs(model, IDS))[0]


@pytest.mark.parametrize(
    ("levels", "weights", "cosine"), [(127, "int8", 0.998), (15, "int8", 0.93), (127, "int4", 0.8)]
)
def test_logits_approach_the_float_models(reference, levels, weights, cosine) -> None:
    model = spiking(levels, weights, q_levels=levels, smoothing=0.5)
    logits, *_ = Evaluator(model).run("forward", *decoder_inputs(model, IDS))
    assert (logits * reference).sum() / np.linalg.norm(logits) / np.linalg.norm(reference) > cosine


def test_caches_hold_integers_and_decode_equals_recomputing() -> None:
    model = spiking()
    inputs = list(model.module["forward"].params)[2:10]
    kinds = [(str(v.name), str(v.ty.dtype)) for v in inputs[:4]]
    assert kinds == [
        ("k_cache_0", "int8"),
        ("k_theta_0", "float32"),
        ("v_cache_0", "int8"),
        ("v_theta_0", "float32"),
    ]
    evaluator = Evaluator(model, keep_params=True)
    whole, *_ = evaluator.run("forward", *decoder_inputs(model, IDS))
    _, *caches = evaluator.run("forward", *decoder_inputs(model, IDS[:, :5]))
    for t in range(5, IDS.shape[1]):
        logits, *caches = evaluator.run("forward", IDS[:, t : t + 1], np.array(t, np.int64), *caches)
        np.testing.assert_allclose(logits[:, 0], whole[:, t], atol=1e-5)


def test_no_dense_float_product_is_left_and_the_rest_is_counted() -> None:
    certificate = certify(spiking())
    assert certificate.dense_float_products == 0
    assert certify(tiny_llama()).dense_float_products == 2 * 8 + 1
    weights = sum(op.synapses for op in certificate.ops if op.kind == "sdc.spike_accumulate")
    assert weights == 2 * (32 * 64 + 32 * 32 + 32 * 96 + 48 * 32) + 64 * 32
    assert certificate.total("multiplications") > 0


W = rng.normal(size=(5, 8)).astype(np.float32)


def test_a_linear_becomes_encode_accumulate_and_readout() -> None:
    s = Sketch(x=[3, 8])
    model = s.model(s(linear(s["x"], s.weight("w", W), name="l")))
    encoding = Encoding(levels=7, group=4, clip_ratio=0.9, weight_bits=4, weight_group=4)
    model = replace(model, encodings={"l": encoding})
    model = find_pass("quantise-weights").run(model, PassContext())
    after = find_pass("rewrite-matmul-to-spikes").run(model, PassContext())
    check_model(after, "rewrite-matmul-to-spikes")

    integers, scale = quantise_rtn(W, 4, 4)
    e = Sketch(x=[3, 8])
    both = e(spike_encode(e["x"], levels=7, group=4, clip_ratio=0.9, name="l"))
    counts, theta = e(relax.TupleGetItem(both, 0)), e(relax.TupleGetItem(both, 1))
    acc = e(spike_accumulate(counts, e.weight("l.q", integers), group=4, weight_bits=4, name="l"))
    want = e.model(e(readout(acc, theta, e.weight("l.scale", scale))))
    assert_same_model(after, want)


def test_a_product_of_activations_encodes_both_along_the_summed_axis() -> None:
    s = Sketch(a=[2, 3, 4], b=[2, 4, 5])
    model = s.model(s(relax.op.matmul(s["a"], s["b"])))
    after = find_pass("rewrite-matmul-to-spikes").run(model, PassContext())
    check_model(after, "rewrite-matmul-to-spikes")
    a, b = (rng.normal(size=x).astype(np.float32) for x in ((2, 3, 4), (2, 4, 5)))
    (got,) = Evaluator(after).run("main", a, b)
    np.testing.assert_allclose(got, a @ b, atol=0.05)


def test_a_product_that_is_left_fails_the_compile() -> None:
    with pytest.raises(PassError, match=r"dense products of floats are left: .*sdc\.linear"):
        find_pass("verify-spike-driven").run(tiny_llama(), PassContext())
    with pytest.raises(PostconditionError, match=r"a sdc\.linear is left"):
        find_pass("rewrite-matmul-to-spikes").check(tiny_llama(), PassContext())


def test_an_operation_without_an_encoding_is_named() -> None:
    with pytest.raises(PassError, match="has no encoding; run calibrate first"):
        find_pass("rewrite-matmul-to-spikes").run(tiny_llama(), PassContext())


def test_accumulators_that_could_overflow_are_refused() -> None:
    from sdc.passes.rewrite_matmul_to_spikes import _prove_exact

    _prove_exact("l", Encoding(levels=127, weight_bits=8), 64)
    with pytest.raises(NumericsError, match=r"l: sums of up to .* do not fit an int32 accumulator"):
        _prove_exact("l", Encoding(levels=127, weight_bits=8), 1 << 20)
