"""project: before and after, per-head rotations, odd widths, and that float results stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
from helpers.sketch import Sketch, assert_same_model
from helpers.tiny_llama import decoder_inputs, tiny_llama
from tvm import relax

from sdc.errors import PassError, PostconditionError
from sdc.ir.evaluate import Evaluator
from sdc.ir.ops import attention, attributes, hadamard, is_op, linear
from sdc.ir.params import array_param
from sdc.passes.base import PassContext, PassOptions, check_model
from sdc.passes.graph import Graph
from sdc.passes.merge_parallel_linears import MergeParallelLinears
from sdc.passes.project import Project, block_for
from sdc.passes.signs import CLIP, projected_error, samples_of, start_encoding
from sdc.passes.trace import value_path
from sdc.passes.weights import HadamardRows

rng = np.random.default_rng(0)
W, V = (rng.normal(size=(6, 8)).astype(np.float32) for _ in range(2))


def context(block: int) -> PassContext:
    return PassContext(PassOptions(block=block))


def project(model, block: int):
    after = Project().run(model, context(block))
    check_model(after, "project")
    Project().check(after, context(block))
    return after


@pytest.mark.parametrize(
    ("width", "largest", "block"),
    [(576, 64, 64), (1536, 256, 256), (96, 64, 32), (64, 24, 16), (12, 64, 4), (6, 64, 0), (7, 64, 0)],
)
def test_block(width: int, largest: int, block: int) -> None:
    assert block_for(width, largest) == block


def test_an_input_is_rotated_once_and_every_weight_takes_the_inverse() -> None:
    s = Sketch(x=[3, 8])
    before = s.model(
        s(linear(s["x"], s.weight("w", W), name="a")), s(linear(s["x"], s.weight("v", V), name="b"))
    )
    after = project(before, 4)
    signs = after.params["signs.8"].value()
    assert set(signs) <= {-1, 1}
    inverse = np.diag(signs) @ np.kron(np.eye(2), scipy.linalg.hadamard(4)) / 4

    e = Sketch(x=[3, 8])
    h = e(hadamard(e["x"], e.weight("signs.8", signs), block=4))
    want = e.model(
        e(linear(h, e.weight("w", (W @ inverse).astype(np.float32)), name="a")),
        e(linear(h, e.weight("v", (V @ inverse).astype(np.float32)), name="b")),
    )
    assert_same_model(after, want)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": True, "tied": False},
        {"heads": 6, "kv_heads": 3, "head_dim": 12},
        {"hidden": 36, "ffn": 44, "heads": 2, "kv_heads": 1, "head_dim": 6},
        {"hidden": 31, "ffn": 33},
    ],
)
@pytest.mark.parametrize("merge", [False, True])
def test_a_decoder_keeps_its_results(options, merge: bool) -> None:
    before = tiny_llama(**options)
    if merge:
        before = MergeParallelLinears().run(before, context(16))
    after = project(before, 16)
    tokens = rng.integers(0, 64, (2, 7))
    want, got = (Evaluator(m).run("forward", *decoder_inputs(m, tokens))[0] for m in (before, after))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_decoding_on_a_rotated_cache_is_consistent() -> None:
    model = project(MergeParallelLinears().run(tiny_llama(), context(8)), 8)
    tokens = rng.integers(0, 64, (1, 6))
    whole = Evaluator(model).run("forward", *decoder_inputs(model, tokens))
    first = Evaluator(model).run("forward", *decoder_inputs(model, tokens[:, :5]))
    last = Evaluator(model).run("forward", *decoder_inputs(model, tokens[:, 5:], 5, first[1:]))
    np.testing.assert_allclose(last[0][:, 0], whole[0][:, 5], rtol=0, atol=1e-5 * np.abs(whole[0]).max())


def test_queries_and_keys_are_rotated_after_the_rotary_embedding() -> None:
    graph = Graph(project(tiny_llama(layers=1), 8))
    ((_, call),) = graph.calls("sdc.attention")
    append = graph.producer_of(call.args[1])
    for rotated in (graph.producer_of(call.args[0]), graph.producer_of(append.args[1])):
        assert is_op(rotated, "sdc.hadamard")
        assert is_op(graph.producer_of(rotated.args[0]), "sdc.rotary")
        assert rotated.args[1].name == "signs.8"
    assert attributes(call)["scale"] == pytest.approx(8**-0.5 / 8)


def test_values_are_rotated_by_their_rows_and_the_output_projection_undoes_it() -> None:
    before = MergeParallelLinears().run(tiny_llama(layers=1, bias=True), context(8))
    after = project(before, 8)
    graph = Graph(after)
    (o,) = [n for n in graph.linears() if n.name.endswith("attn.o")]
    assert not is_op(graph.producer_of(o.x), "sdc.hadamard")
    path = value_path(graph, o)
    assert path is not None
    assert (path.rows.linear.name, path.rows.start, path.rows.stop) == ("layers.0.attn.qkv", 48, 64)
    qkv = after.params["layers.0.attn.qkv.bias"].value()
    old = before.params["layers.0.attn.qkv.bias"].value()
    np.testing.assert_array_equal(qkv[:48], old[:48])
    signs = after.params["signs.8"].value()
    heads = (old[48:].reshape(2, 8) * signs) @ scipy.linalg.hadamard(8)
    np.testing.assert_allclose(qkv[48:], heads.reshape(-1), atol=1e-5)


def test_rows_of_a_weight() -> None:
    step = HadamardRows(array_param("s", np.array([1, -1, 1, 1], np.float32)), 2, 1, 5)
    rows = np.eye(6, dtype=np.float32)
    want = rows.copy()
    want[1:3] = scipy.linalg.hadamard(2) @ (rows[1:3] * [[1], [-1]])
    want[3:5] = scipy.linalg.hadamard(2) @ rows[3:5]
    np.testing.assert_array_equal(step(rows), want)
    np.testing.assert_array_equal(step(rows[:, 1]), want[:, 1])


def stateless_attention(s: Sketch, values: relax.Var) -> relax.Var:
    def heads(x: relax.Var) -> relax.Var:
        return s(relax.op.reshape(x, [2, 3, 2, 4]))

    keys = s(relax.op.permute_dims(heads(s["x"]), [0, 2, 1, 3]))
    values = s(relax.op.permute_dims(heads(values), [0, 2, 1, 3]))
    call = attention(heads(s["x"]), keys, values, s["p"], scale=0.5, causal=False, name="attn")
    return s(relax.op.reshape(s(call), [2, 3, 8]))


@pytest.mark.parametrize("traceable", [False, True])
def test_attention_without_a_cache(traceable: bool) -> None:
    s = Sketch(x=[2, 3, 8], p=([], "int64"))
    values = s(linear(s["x"], s.weight("v", rng.normal(size=(8, 8)).astype(np.float32)), name="v"))
    if not traceable:
        values = s(relax.op.tanh(values))
    out = stateless_attention(s, values)
    before = s.model(s(linear(out, s.weight("o", W), name="o")))
    after = project(before, 8)
    inputs = rng.normal(size=(2, 3, 8)).astype(np.float32), np.asarray(0)
    want, got = (Evaluator(m).run("main", *inputs)[0] for m in (before, after))
    np.testing.assert_allclose(got, want, atol=1e-4)
    graph = Graph(after)
    (o,) = [n for n in graph.linears() if n.name == "o"]
    assert is_op(graph.producer_of(o.x), "sdc.hadamard") is not traceable


def test_widths_without_a_block_are_noted() -> None:
    after = project(tiny_llama(layers=1, hidden=30, heads=5, kv_heads=5, head_dim=6, ffn=32), 16)
    assert after.notes == (
        "project: not rotated, since no block of 4 or more divides their 30 channels: "
        "layers.0.attn.q, layers.0.attn.k, layers.0.attn.v, layers.0.attn.o, layers.0.mlp.gate, "
        "layers.0.mlp.up, head",
        "project: not rotated, since no block of 4 or more divides their 6 channels: layers.0.attn",
    )


def test_signs_follow_the_seed_alone() -> None:
    model = tiny_llama(layers=1)
    first, again = (project(model, 16).params["signs.32"].value() for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = Project().run(model, PassContext(PassOptions(block=16, seed=1))).params["signs.32"].value()
    assert (first != other).any()


def test_the_best_of_several_signs_has_the_least_error() -> None:
    model = tiny_llama(layers=1, hidden=64, ffn=96)
    windows = tuple(rng.integers(0, 64, 24) for _ in range(2))

    def signs(tries: int) -> tuple[np.ndarray, list[float]]:
        ctx = PassContext(PassOptions(block=16, levels=3, group=16, sign_tries=tries), windows)
        found = Project().run(model, ctx).params["signs.64"].value()
        graph = Graph(model)
        linears = [n for n in graph.linears() if n.x.ty.shape.values[-1] == 64]
        encoding = replace(start_encoding(ctx.options, 64), clip_ratio=CLIP)
        errors = []
        for each in samples_of(graph, ctx, linears).values():
            gap = projected_error(each.x, found, 16, encoding, 0.0)
            errors.append(np.einsum("rk,rk->", gap @ each.gram, gap))
        return found, errors

    first, start = signs(1)
    best, least = signs(12)
    assert (first != best).any()
    assert np.mean(np.divide(least, start)) < 0.995


def test_the_best_of_several_signs_needs_inputs() -> None:
    with pytest.raises(PassError, match="needs calibration inputs; or set sign_tries 1"):
        Project().run(tiny_llama(layers=1), PassContext(PassOptions(sign_tries=2)))


def test_a_block_of_nought_changes_nothing() -> None:
    model = tiny_llama(layers=1)
    assert Project().run(model, context(0)) is model
    Project().check(model, context(0))


def test_the_postcondition_finds_what_is_not_rotated() -> None:
    with pytest.raises(PostconditionError, match=r"the input of layers\.0\.attn\.q is not rotated"):
        Project().check(tiny_llama(), context(16))
    s = Sketch(x=[2, 3, 8], p=([], "int64"))
    with pytest.raises(PostconditionError, match="Q and K of attn are not rotated"):
        Project().check(s.model(stateless_attention(s, s["x"])), context(16))
