"""fold-norm-gamma: RMSNorm, LayerNorm with biases, tied heads, norms that must keep their gain."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.sketch import Sketch, assert_same_model
from helpers.tiny_llama import decoder_inputs, tiny_llama
from tvm import relax

from sdc.errors import PostconditionError
from sdc.ir.evaluate import Evaluator
from sdc.ir.model import Model
from sdc.ir.ops import linear
from sdc.passes.base import PassContext, check_model
from sdc.passes.fold_norm_gamma import FoldNormGamma

rng = np.random.default_rng(0)
CTX = PassContext()
GAIN, SHIFT = (rng.uniform(0.5, 2, 4).astype(np.float32) for _ in range(2))
W, V = (rng.normal(size=(6, 4)).astype(np.float32) for _ in range(2))
BIAS = rng.normal(size=6).astype(np.float32)
ONES, ZEROS = np.ones(4, np.float32), np.zeros(4, np.float32)


def fold(model: Model) -> Model:
    after = FoldNormGamma().run(model, CTX)
    check_model(after, "fold-norm-gamma")
    FoldNormGamma().check(after, CTX)
    return after


def rms(s: Sketch, name: str, gain: np.ndarray) -> relax.Var:
    return s(relax.op.nn.rms_norm(s["x"], s.weight(name, gain), -1, 1e-5))


def layer(s: Sketch, gain: tuple[str, np.ndarray], shift: tuple[str, np.ndarray]) -> relax.Var:
    return s(relax.op.nn.layer_norm(s["x"], s.weight(*gain), s.weight(*shift), -1, 1e-5))


def test_the_gain_of_an_rms_norm_goes_into_all_its_linears() -> None:
    s = Sketch(x=[3, 4])
    h = rms(s, "g", GAIN)
    before = s.model(s(linear(h, s.weight("w", W), name="a")), s(linear(h, s.weight("v", V), name="b")))

    e = Sketch(x=[3, 4])
    h = rms(e, "ones.4", ONES)
    want = e.model(
        e(linear(h, e.weight("w", W * GAIN), name="a")), e(linear(h, e.weight("v", V * GAIN), name="b"))
    )
    assert_same_model(fold(before), want)


@pytest.mark.parametrize("bias", [False, True])
def test_the_shift_of_a_layer_norm_becomes_a_bias(bias: bool) -> None:
    s = Sketch(x=[3, 4])
    h = layer(s, ("g", GAIN), ("s", SHIFT))
    before = s.model(
        s(linear(h, s.weight("fc.weight", W), s.weight("fc.bias", BIAS) if bias else None, name="fc"))
    )

    e = Sketch(x=[3, 4])
    h = layer(e, ("ones.4", ONES), ("zeros.4", ZEROS))
    shifted = e.weight("fc.weight", W * GAIN), e.weight("fc.bias", W @ SHIFT + (BIAS if bias else 0))
    assert_same_model(fold(before), e.model(e(linear(h, *shifted, name="fc"))))


def test_a_tied_head_gets_a_weight_of_its_own() -> None:
    before = tiny_llama(layers=1)
    after = fold(before)
    embedding, gain = (before.params[n].value() for n in ("embed.weight", "norm.weight"))
    np.testing.assert_array_equal(after.params["embed.weight"].value(), embedding)
    np.testing.assert_array_equal(after.params["head.weight"].value(), embedding * gain)
    assert after.params["head.weight"].source is before.params["embed.weight"].source
    assert [n for n in after.params if "norm" in n or "ones" in n] == ["ones.32"]


@pytest.mark.parametrize("bias", [False, True])
def test_a_decoder_keeps_its_results(bias: bool) -> None:
    before = tiny_llama(bias=bias)
    inputs = decoder_inputs(before, rng.integers(0, 64, (2, 7)))
    want, got = (Evaluator(m).run("forward", *inputs)[0] for m in (before, fold(before)))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_a_norm_that_feeds_more_than_linears_keeps_its_gain() -> None:
    s = Sketch(x=[3, 4])
    h = rms(s, "g", GAIN)
    before = s.model(s(linear(h, s.weight("w", W), name="a")), s(relax.op.add(h, s["x"])))
    after = fold(before)
    assert_same_model(after, before)
    assert after.notes == (
        "fold-norm-gamma: 1 norms keep their gain, since their output feeds more than linears "
        "(g: linears, a sum (post-norm, or a norm after the layer))",
    )


def test_a_norm_that_is_an_output_keeps_its_gain() -> None:
    s = Sketch(x=[3, 4])
    h = rms(s, "g", GAIN)
    before = s.model(h, s(linear(h, s.weight("w", W), name="a")))
    assert_same_model(fold(before), before)


def test_the_postcondition_finds_a_gain_that_is_left() -> None:
    with pytest.raises(PostconditionError, match=r"layers\.0\.attn_norm\.weight could be folded and was not"):
        FoldNormGamma().check(tiny_llama(), CTX)
