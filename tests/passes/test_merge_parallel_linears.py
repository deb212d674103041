"""merge-parallel-linears: q, k, v and gate, up; biases; names."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.sketch import Sketch, assert_same_model
from helpers.tiny_llama import decoder_inputs, tiny_llama
from tvm import relax

from sdc.errors import PostconditionError
from sdc.ir.evaluate import Evaluator
from sdc.ir.ops import linear
from sdc.passes.base import PassContext, check_model
from sdc.passes.graph import Graph
from sdc.passes.merge_parallel_linears import MergeParallelLinears, merged_name

rng = np.random.default_rng(0)
Q, K = (rng.normal(size=(n, 4)).astype(np.float32) for n in (6, 2))
BIAS = rng.normal(size=2).astype(np.float32)
CTX = PassContext()


def test_linears_of_one_input_become_one() -> None:
    s = Sketch(x=[3, 4])
    q = s(linear(s["x"], s.weight("q", Q), name="attn.q_proj"))
    k = s(linear(s["x"], s.weight("k", K), s.weight("k.bias", BIAS), name="attn.k_proj"))
    other = s(linear(k, s.weight("o", K.T.copy()), name="other"))
    before = s.model(q, k, other)

    e = Sketch(x=[3, 4])
    weight = e.weight("attn.qk.weight", np.concatenate([Q, K]))
    bias = e.weight("attn.qk.bias", np.concatenate([np.zeros(6, np.float32), BIAS]))
    split = e(relax.op.split(e(linear(e["x"], weight, bias, name="attn.qk")), [6], axis=-1))
    q, k = e(relax.TupleGetItem(split, 0)), e(relax.TupleGetItem(split, 1))
    want = e.model(q, k, e(linear(k, e.weight("o", K.T), name="other")))

    after = MergeParallelLinears().run(before, CTX)
    check_model(after, "merge-parallel-linears")
    MergeParallelLinears().check(after, CTX)
    assert_same_model(after, want)


@pytest.mark.parametrize("bias", [False, True])
def test_a_decoder_keeps_its_results(bias: bool) -> None:
    before = tiny_llama(bias=bias)
    after = MergeParallelLinears().run(before, CTX)
    names = [node.name for node in Graph(after).linears()]
    assert names[:4] == ["layers.0.attn.qkv", "layers.0.attn.o", "layers.0.mlp.gate_up", "layers.0.mlp.down"]
    assert names[-1] == "head"
    inputs = decoder_inputs(before, rng.integers(0, 64, (2, 5)))
    want, got = (Evaluator(m).run("forward", *inputs) for m in (before, after))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "whole"),
    [
        (["layers.0.attn.q", "layers.0.attn.k", "layers.0.attn.v"], "layers.0.attn.qkv"),
        (["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "self_attn.qkv"),
        (["mlp.gate_proj", "mlp.up_proj"], "mlp.gate_up"),
        (["h.query.dense", "h.key.dense"], "h.query_key.dense"),
        (["MatMul_3", "MatMul_5"], "MatMul_3_MatMul_5"),
        (["a.one", "b.two"], "a_one_b_two"),
    ],
)
def test_names(names: list[str], whole: str) -> None:
    assert merged_name(names) == whole


def test_the_postcondition_finds_what_is_left() -> None:
    with pytest.raises(PostconditionError, match=r"layers\.0\.attn\.q, .* still read the same input"):
        MergeParallelLinears().check(tiny_llama(), CTX)
