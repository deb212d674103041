"""Real exports lift to modules with the logits of onnxruntime on the original file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from helpers.tiny_gguf import write_tiny_gguf
from helpers.tiny_llama import decoder_inputs
from onnx import TensorProto, helper, numpy_helper, save

from sdc.frontends.gguf import to_onnx
from sdc.frontends.onnx import load
from sdc.frontends.onnx.normalise import normalise
from sdc.frontends.onnx.read import read_model
from sdc.ir.evaluate import Evaluator

MODELS = Path(__file__).parents[2] / "models"
DECODERS = sorted(p.stem for p in MODELS.glob("llama_*.onnx"))
SEQ, START = 9, 4
HALF = 3e-2  # float16 exports are computed in float32 here; onnxruntime rounds every step to 11 bits


def by_onnxruntime(path: Path, feeds) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = {i.name: feeds(i) for i in session.get_inputs()}
    return session.run(None, given)[0]


def decoder_feeds(ids: np.ndarray):
    def feed(value) -> np.ndarray:
        if value.name == "input_ids":
            return ids
        if "mask" in value.name:
            return np.ones(ids.shape, np.int64)
        if "position" in value.name:
            return np.broadcast_to(np.arange(ids.shape[1]), ids.shape).copy()
        return np.zeros((len(ids), value.shape[1], 0, value.shape[3]), np.float32)

    return feed


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_gives_the_logits_of_onnxruntime_at_once_and_token_by_token(name) -> None:
    path = MODELS / f"{name}.onnx"
    batch = 1 if "op23" in name else 2  # onnxruntime's RotaryEmbedding refuses tables of one row for two
    ids = np.random.default_rng(0).integers(0, 96, (batch, SEQ))
    want = by_onnxruntime(path, decoder_feeds(ids))
    tolerance = HALF if "fp16" in name else 1e-3
    model = load(path, max_seq=32)
    assert (model.info.kind, model.info.layers, model.info.heads, model.info.kv_heads) == ("decoder", 2, 4, 2)
    evaluator = Evaluator(model, keep_params=True)
    logits, *_ = evaluator.run("forward", *decoder_inputs(model, ids))
    np.testing.assert_allclose(logits, want, atol=tolerance)
    _, *caches = evaluator.run("forward", *decoder_inputs(model, ids[:, :START]))
    for t in range(START, SEQ):
        step = (ids[:, t : t + 1], np.array(t, np.int64), *caches)
        logits, *caches = evaluator.run("forward", *step)
        np.testing.assert_allclose(logits[:, 0], want[:, t], atol=tolerance)


@pytest.mark.parametrize("name", ["mlp_dynamo_op20", "encoder_dynamo_op18"])
def test_any_other_graph_is_one_stateless_function(name) -> None:
    path, rng = MODELS / f"{name}.onnx", np.random.default_rng(0)
    shape = (4, 12) if name.startswith("mlp") else (2, 7, 16)
    x = rng.normal(size=shape).astype(np.float32)
    model = load(path)
    assert model.info.kind == "stateless"
    (y,) = Evaluator(model).run("main", x)
    np.testing.assert_allclose(y, by_onnxruntime(path, lambda _: x), atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("past", [True, False])
def test_what_the_gguf_frontend_writes_lifts(tmp_path, tied, past) -> None:
    write_tiny_gguf(tmp_path / "m.gguf", tied=tied)
    path = to_onnx(tmp_path / "m.gguf", tmp_path / "m.onnx", past=past)
    ids = np.random.default_rng(0).integers(0, 40, (2, SEQ))
    model = load(path, max_seq=16)
    logits, *_ = Evaluator(model).run("forward", *decoder_inputs(model, ids))
    np.testing.assert_allclose(logits, by_onnxruntime(path, decoder_feeds(ids)), atol=1e-3)
    embeddings = [n for n, p in model.params.items() if p.shape == (40, 64)]
    assert len(embeddings) == (1 if tied else 2)


@pytest.mark.parametrize("name", DECODERS)
def test_normalising_leaves_standard_operations_alone(name) -> None:
    model = read_model(MODELS / f"{name}.onnx")
    normalise(model)
    kinds = [n.op_type for n in model.graph]
    counts = {k: kinds.count(k) for k in ("RMSNormalization", "RotaryEmbedding", "Attention", "Softmax")}
    assert counts == {"RMSNormalization": 5, "RotaryEmbedding": 4, "Attention": 2, "Softmax": 0}


def test_weights_stay_lazy_and_half_precision_weights_stay_as_stored() -> None:
    model = load(MODELS / "llama_dynamo_op18_fp16.onnx", max_seq=16)
    stored = [
        p.source.load().dtype for p in model.params.values() if len(p.shape) == 2 and "rotary" not in p.name
    ]
    assert {p.dtype for p in model.params.values()} == {"float32"}
    assert set(stored) == {np.dtype(np.float16)}


LARGE = 2**24 + 1  # float32 has no such number


@pytest.mark.parametrize("rounds", [True, False], ids=["float to integer", "wide integers"])
def test_integers_made_of_large_constants_are_exact(tmp_path, rounds) -> None:
    table = np.linspace(-9.5, 9.5, 100, dtype=np.float32) if rounds else np.arange(LARGE, LARGE + 100)
    made = helper.make_node("Cast", ["table"], ["n"], to=TensorProto.INT64)
    if not rounds:
        made = helper.make_node("Reshape", ["table", "shape"], ["n"])
    graph = helper.make_graph(
        [made, helper.make_node("Add", ["n", "x"], ["y"])],
        "integers",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [100])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [100])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([100]), "shape")],
        value_info=[helper.make_tensor_value_info("n", TensorProto.INT64, [100])],
    )
    path = tmp_path / "m.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    x = np.arange(100)
    (y,) = Evaluator(load(path)).run("main", x)
    np.testing.assert_array_equal(y, by_onnxruntime(path, lambda _: x))
