"""canonicalise: before and after, rule by rule, and that results stay."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.sketch import Sketch, assert_same_model
from tvm import relax, tirx

from sdc.errors import PostconditionError
from sdc.ir.evaluate import Evaluator
from sdc.ir.model import Model
from sdc.ir.ops import linear
from sdc.ir.params import array_param
from sdc.passes.base import PassContext, check_model
from sdc.passes.canonicalise import Canonicalise

rng = np.random.default_rng(0)
B = tirx.Var("batch", "int64")
W = rng.normal(size=(4, 6)).astype(np.float32)
BIAS = rng.normal(size=6).astype(np.float32)


def canonicalise(model: Model) -> Model:
    after = Canonicalise().run(model, PassContext())
    check_model(after, "canonicalise")
    Canonicalise().check(after, PassContext())
    x = rng.normal(size=(3, 2, 4)).astype(np.float32)
    for got, want in zip(Evaluator(after).run("main", x), Evaluator(model).run("main", x), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)
    return after


def test_a_product_with_a_weight_becomes_a_linear_with_its_bias() -> None:
    s = Sketch(x=[B, 2, 4])
    y = s(relax.op.matmul(s["x"], s.weight("fc.weight", W)))
    before = s.model(s(relax.op.add(s.weight("fc.bias", BIAS.reshape(1, 1, 6)), y)))

    e = Sketch(x=[B, 2, 4])
    want = e.model(
        e(linear(e["x"], e.weight("fc.weight", W.T), e.weight("fc.bias", BIAS), name="fc")),
    )
    after = canonicalise(before)
    assert_same_model(after, want)
    assert after.params["fc.weight"].describe() == "fc.weight [6, 4] float32: transpose"


def test_two_transpositions_cancel() -> None:
    s = Sketch(x=[B, 2, 4])
    w = s(relax.op.permute_dims(s.weight("fc.weight", W.T.copy())))
    after = canonicalise(s.model(s(relax.op.matmul(s["x"], w))))
    assert after.params["fc.weight"].transforms == ()


def test_steps_of_a_weight_become_lazy() -> None:
    s = Sketch(x=[B, 2, 4])
    w = s(relax.op.reshape(s.weight("fc.weight", W.astype(np.float16).reshape(1, 2, 12)), [4, 6]))
    w = s(relax.op.astype(w, "float32"))
    w = s(relax.op.squeeze(s(relax.op.expand_dims(w, 0)), [0]))
    after = canonicalise(s.model(s(relax.op.matmul(s["x"], w))))
    steps = "reshape to [4, 6], cast to float32, reshape to [1, 4, 6], reshape to [4, 6], transpose"
    assert after.params["fc.weight"].describe() == f"fc.weight [6, 4] float32: {steps}"
    assert len(after.module["main"].body.blocks[0].bindings) == 1


def test_identities_fold_away() -> None:
    s = Sketch(x=[B, 2, 4])
    x = s(relax.op.reshape(s["x"], [B, 2, 4]))
    x = s(relax.op.astype(x, "float32"))
    x = s(relax.op.add(x, relax.const(0.0, "float32")))
    x = s(relax.op.multiply(relax.const(1.0, "float32"), x))
    x = s(relax.op.divide(s(relax.op.subtract(x, relax.const(0.0))), relax.const(1.0)))
    x = s(relax.op.permute_dims(s(relax.op.permute_dims(x, [2, 0, 1])), [1, 2, 0]))
    x = s(relax.op.broadcast_to(x, [B, 2, 4]))
    x = s(relax.op.reshape(s(relax.op.reshape(x, [B, 8])), [B, 4, 2]))
    before = s.model(s(relax.op.permute_dims(s(relax.op.permute_dims(x, [1, 0, 2])), [2, 1, 0])))

    e = Sketch(x=[B, 2, 4])
    x = e(relax.op.reshape(e["x"], [B, 4, 2]))
    assert_same_model(canonicalise(before), e.model(e(relax.op.permute_dims(x, [2, 0, 1]))))


def test_what_only_looks_neutral_stays() -> None:
    s = Sketch(x=[B, 2, 4])
    x = s(relax.op.subtract(relax.const(0.0), s["x"]))
    x = s(relax.op.divide(relax.const(1.0), x))
    before = s.model(s(relax.op.add(x, relax.const(np.zeros((1, 1, 2, 4), np.float32)))))
    after = canonicalise(before)
    assert len(after.module["main"].body.blocks[0].bindings) == 3
    assert list(after.params) == ["constant.0"]


def test_a_reshape_that_keeps_channels_goes_behind_the_linear() -> None:
    s = Sketch(x=[B, 2, 4])
    flat = s(relax.op.reshape(s["x"], [B * 2, 4]))
    y = s(relax.op.matmul(flat, s.weight("fc.weight", W)))
    y = s(relax.op.reshape(y, [B, 2, 6]))
    before = s.model(y)

    e = Sketch(x=[B, 2, 4])
    want = e.model(e(linear(e["x"], e.weight("fc.weight", W.T), name="fc")))
    assert_same_model(canonicalise(before), want)


def test_constants_become_weights_and_duplicates_merge() -> None:
    table = rng.normal(size=(2, 4)).astype(np.float32)
    s = Sketch(x=[B, 2, 4])
    x = s(relax.op.add(s["x"], relax.const(table)))
    x = s(relax.op.multiply(x, relax.const(table.copy())))
    shared = array_param("a", table)
    x = s(relax.op.add(x, s.weight("a", shared)))
    before = s.model(s(relax.op.add(x, s.weight("b", shared))))

    e = Sketch(x=[B, 2, 4])
    x = e(relax.op.add(e["x"], e.weight("constant.0", table)))
    x = e(relax.op.multiply(x, e.weight("constant.0", table)))
    x = e(relax.op.add(x, e.weight("a", table)))
    assert_same_model(canonicalise(before), e.model(e(relax.op.add(x, e.weight("a", table)))))


def test_every_operation_gets_a_name_of_its_own() -> None:
    s = Sketch(x=[B, 2, 4])
    w = s.weight("w", np.eye(4, dtype=np.float32))
    x = s(linear(s(linear(s(linear(s["x"], w, name="")), w, name="fc")), w, name="fc"))
    after = canonicalise(s.model(s(relax.op.matmul(x, w))))
    bindings = after.module["main"].body.blocks[0].bindings
    assert [b.value.attrs["name"] for b in bindings] == ["linear", "fc", "fc.2", "w"]


def test_a_bias_is_not_folded_where_the_plain_product_is_read_too() -> None:
    s = Sketch(x=[B, 2, 4])
    y = s(linear(s["x"], s.weight("w", W.T.copy()), name="fc"))
    before = s.model(s(relax.op.multiply(s(relax.op.add(y, s.weight("b", BIAS))), y)))
    assert_same_model(canonicalise(before), before)


def test_the_postcondition_finds_a_product_that_is_left() -> None:
    s = Sketch(x=[B, 2, 4])
    before = s.model(s(relax.op.matmul(s["x"], s.weight("fc.weight", W))))
    with pytest.raises(PostconditionError, match=r"a product with fc\.weight is left"):
        Canonicalise().check(before, PassContext())
