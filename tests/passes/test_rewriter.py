"""The rewriter: copies, dead weights, order and names; the graph's view of producers and readers."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from helpers.sketch import Sketch, assert_same_model
from helpers.tiny_llama import tiny_llama
from tvm import relax, tirx

from sdc.errors import PassError, PostconditionError
from sdc.ir.evaluate import Evaluator
from sdc.ir.ops import is_op, linear
from sdc.ir.params import array_param
from sdc.passes.base import check_model
from sdc.passes.graph import Graph
from sdc.passes.rewriter import rewrite

EYE = np.eye(4, dtype=np.float32)


def test_a_rewrite_that_changes_nothing_is_a_copy() -> None:
    model = tiny_llama(bias=True)
    copy = rewrite(model, lambda *_: None)
    assert_same_model(copy, model)
    assert copy.module["forward"].params[0].name == "tokens"
    check_model(copy, "copy")


def test_what_nothing_reads_goes_and_weights_stand_in_order_of_use() -> None:
    s = Sketch(x=[2, 4])
    dead = s(linear(s["x"], s.weight("dead", EYE), name="dead"))
    first = s(linear(s["x"], s.weight("a", EYE), name="a"))
    s(relax.op.add(dead, first))
    before = s.model(s(linear(first, s.weight("b", 2 * EYE), name="b")))

    e = Sketch(x=[2, 4])
    first = e(linear(e["x"], e.weight("b", 2 * EYE), name="a"))
    want = e.model(e(linear(first, e.weight("a", EYE), name="b")))

    def swap(rewriter, var, value):
        if not is_op(value, "sdc.linear"):
            return None
        weight = {"a": "b", "b": "a"}.get(value.args[1].name, "dead")
        new = rewriter.weight(before.params[weight])
        return relax.Call(value.op, [rewriter.new(value.args[0]), new], value.attrs)

    assert_same_model(rewrite(before, swap), want)


def test_another_tensor_of_the_same_name_gets_a_number() -> None:
    s = Sketch(x=[2, 4])
    model = s.model(s(linear(s["x"], s.weight("w", EYE), name="l")))

    def double(rewriter, var, value):
        x, weight = (rewriter.new(a) for a in value.args)
        other = rewriter.weight(array_param("w", 3 * EYE))
        return linear(rewriter.emit(linear(x, weight, name="one")), other, name="two")

    got = rewrite(model, double)
    assert list(got.params) == ["w", "w.2"]
    np.testing.assert_array_equal(got.params["w.2"].value(), 3 * EYE)


def test_returning_a_value_is_not_reading_it() -> None:
    graph = Graph(tiny_llama(layers=1))
    ((key, _), (value, _)) = graph.calls("sdc.kv_append")
    assert [str(u.op.name) for u in graph.users(key)] == ["relax.sdc.attention"]
    assert graph.sole_user(value) is None
    assert graph.returned.issuperset({key, value})


def test_control_flow_is_refused() -> None:
    x, flag = relax.Var("x", relax.TensorType([2], "float32")), relax.Var("c", relax.TensorType([], "bool"))
    branch = relax.If(flag, relax.SeqExpr([], x), relax.SeqExpr([], x))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, flag], attrs={"num_input": 2}):
        builder.emit_func_output(builder.emit(branch))
    s = Sketch(x=[2])
    model = s.model(s(relax.op.add(s["x"], s["x"])))
    with pytest.raises(PassError, match="control flow is not supported"):
        Graph(type(model)(builder.get(), {}, model.info))


def test_check_model_names_the_weight_that_is_wrong() -> None:
    s = Sketch(x=[2, 4])
    model = s.model(s(linear(s["x"], s.weight("w", EYE), name="l")))
    made = type(model)
    check_model(model, "p")
    with pytest.raises(PostconditionError, match='pass p: weight "w" is declared, but'):
        check_model(made(model.module, {}, model.info), "p")
    wrong = {"w": array_param("w", EYE.astype(np.float16))}
    with pytest.raises(PostconditionError, match=r'"w" is float32 \[4, 4\] in the module, but float16'):
        check_model(made(model.module, wrong, model.info), "p")
    extra = {**model.params, "unread": array_param("unread", EYE)}
    with pytest.raises(PostconditionError, match="nothing reads the weights \\['unread'\\]"):
        check_model(made(model.module, extra, model.info), "p")
    foreign = relax.Var("foreign", relax.TensorType([2, 4], "float32"))
    body = relax.SeqExpr([relax.BindingBlock([])], foreign)
    broken = relax.Function([], body, relax.TensorType([2, 4], "float32")).with_attr("num_input", 0)
    with pytest.raises(PostconditionError, match="not well formed"):
        check_model(made(tvm.IRModule({"main": broken}), {}, model.info), "p")


def test_a_match_cast_keeps_its_symbols() -> None:
    n = tirx.Var("n", "int64")
    s = Sketch(x=[2, 4])
    cast = s.builder.match_cast(s["x"], relax.TensorType([n, 4], "float32"))
    h = s(relax.op.exp(cast))
    before = s.model(s(linear(h, s.weight("w", EYE), name="l")))
    copy = rewrite(before, lambda *_: None)
    assert_same_model(copy, before)
    check_model(copy, "copy")
    x = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(Evaluator(copy).run("main", x)[0], np.exp(x), rtol=1e-6)
