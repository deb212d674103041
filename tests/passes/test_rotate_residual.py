"""rotate-residual: before and after, float results, what the projection leaves out, what is refused."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from helpers.model_cells import MODELS
from helpers.sketch import Sketch, assert_same_model
from helpers.tiny_llama import decoder_inputs, tiny_llama
from tvm import relax

from sdc.errors import PostconditionError
from sdc.frontends.onnx import load
from sdc.ir.evaluate import Evaluator
from sdc.ir.model import Model
from sdc.ir.ops import is_op, linear
from sdc.ir.params import array_param
from sdc.passes.base import PassContext, PassOptions, check_model
from sdc.passes.fold_norm_gamma import FoldNormGamma
from sdc.passes.graph import Graph
from sdc.passes.orthogonal import rotated
from sdc.passes.pipeline import PHASES, run_passes
from sdc.passes.registry import find_pass
from sdc.passes.rotate_residual import RotateResidual

rng = np.random.default_rng(0)
CTX = PassContext(PassOptions(rotate_residual=True, smoothing=0.0))
ALIGNMENT = [find_pass(name) for phase in PHASES[:2] for name in phase.passes]
W, V = (rng.normal(size=s).astype(np.float32) for s in ((6, 8), (8, 6)))
TABLE, BIAS = rng.normal(size=(5, 8)).astype(np.float32), rng.normal(size=8).astype(np.float32)


def rotate(model: Model) -> Model:
    after = RotateResidual().run(model, CTX)
    check_model(after, "rotate-residual")
    RotateResidual().check(after, CTX)
    return after


def block(s: Sketch, table: np.ndarray, up: np.ndarray, down: np.ndarray, bias: np.ndarray) -> Model:
    x = s(relax.op.take(s.weight("table", table), s["ids"], axis=0))
    h = s(relax.op.nn.rms_norm(x, s.weight("ones.8", np.ones(8, np.float32)), -1, 1e-5))
    h = s(relax.op.nn.relu(s(linear(h, s.weight("up", up), name="up"))))
    y = s(linear(h, s.weight("down", down), s.weight("down.bias", bias), name="down"))
    last = s(
        relax.op.nn.rms_norm(s(relax.op.add(x, y)), s.weight("ones.8", np.ones(8, np.float32)), -1, 1e-5)
    )
    return s.model(s(linear(last, s.weight("head", up), name="head")))


def test_tables_and_both_sides_of_linears_take_the_rotation() -> None:
    s = Sketch(ids=([3], "int64"))
    before = FoldNormGamma().run(block(s, TABLE, W, V, BIAS), CTX)
    after = rotate(before)
    signs = next(t.signs for t in after.params["table"].transforms).value()
    q = rotated(np.eye(8, dtype=np.float32), signs)
    e = Sketch(ids=([3], "int64"))
    want = FoldNormGamma().run(block(e, TABLE @ q, W @ q, q.T @ V, BIAS @ q), CTX)
    assert_same_model(after, want)


@pytest.mark.parametrize(
    "options", [{}, {"bias": True, "tied": False}, {"hidden": 36, "ffn": 42}, {"hidden": 30, "ffn": 33}]
)
def test_a_decoder_keeps_its_results(options) -> None:
    model = tiny_llama(**options)
    after = run_passes(model, ALIGNMENT, CTX, verify=True)
    assert not [note for note in after.notes if note.startswith("rotate-residual")]
    inputs = decoder_inputs(model, rng.integers(0, 64, (2, 9)))
    want, got = (Evaluator(m).run("forward", *inputs)[0] for m in (model, after))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_outliers_of_the_stream_are_spread() -> None:
    model = tiny_llama(hidden=64)
    table = model.params["embed.weight"].value().copy()
    table[:, 3] *= 50
    model = replace(model, params={**model.params, "embed.weight": array_param("embed.weight", table)})
    after = run_passes(model, ALIGNMENT, CTX, verify=True).params["embed.weight"].value()

    def peak(rows: np.ndarray) -> float:
        return float((np.abs(rows).max(1) / np.sqrt(np.square(rows).mean(1))).mean())

    assert peak(after) < 0.5 * peak(table)


def test_inputs_behind_norms_need_no_transform_when_they_run() -> None:
    graph = Graph(run_passes(tiny_llama(layers=1), ALIGNMENT, CTX, verify=True))
    online = {n.name for n in graph.linears() if is_op(graph.producer_of(n.x), "sdc.hadamard")}
    assert online == {"layers.0.mlp.down"}


REFUSED = {
    "llama_dynamo_op24": None,
    "phi3_dynamo_op23": None,
    "gpt2_dynamo_op23": "layer_norm",
    "gemma2_dynamo_op23": "rms_norm",
    "bert_dynamo_op23": "layer_norm",
}


@pytest.mark.parametrize("name", REFUSED)
def test_results_of_architectures_stay_and_what_is_refused_is_said(name) -> None:
    model = load(MODELS / f"{name}.onnx", max_seq=16)
    ids = rng.integers(0, 96, (2, 9))
    inputs = decoder_inputs(model, ids) if model.info.kind == "decoder" else (ids, np.ones_like(ids))
    aligned = run_passes(model, ALIGNMENT, CTX, verify=True)
    before, after = (Evaluator(m).run(m.entry, *inputs)[0] for m in (model, aligned))
    np.testing.assert_allclose(after, before, atol=2e-4)
    remarks = [note for note in aligned.notes if note.startswith("rotate-residual: not rotated")]
    if REFUSED[name] is None:
        assert remarks == []
    else:
        assert len(remarks) == 1
        assert re.search(REFUSED[name], remarks[0]), remarks[0]


def test_a_stream_that_is_a_result_stays() -> None:
    s = Sketch(ids=([3], "int64"))
    x = s(relax.op.take(s.weight("table", TABLE), s["ids"], axis=0))
    h = s(relax.op.nn.rms_norm(x, s.weight("ones.8", np.ones(8, np.float32)), -1, 1e-5))
    before = FoldNormGamma().run(s.model(x, s(linear(h, s.weight("w", W), name="a"))), CTX)
    after = RotateResidual().run(before, CTX)
    assert after.params.keys() == before.params.keys()
    assert any("is a result of the model" in note for note in after.notes)


def test_off_by_default() -> None:
    model = tiny_llama(layers=1)
    assert RotateResidual().run(model, PassContext()) is model
    RotateResidual().check(model, PassContext())


def test_the_postcondition_finds_what_is_not_rotated() -> None:
    with pytest.raises(PostconditionError, match=r"the stream that layers\.0\.attn\.q reads is not rotated"):
        RotateResidual().check(FoldNormGamma().run(tiny_llama(), CTX), CTX)
