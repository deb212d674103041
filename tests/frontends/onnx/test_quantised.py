"""Quantised models lift to float ones with the stored weights; where nothing is rounded they are equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from sdc.errors import UnsupportedOpError
from sdc.frontends.onnx import describe, load
from sdc.ir.evaluate import Evaluator
from sdc.ir.quantised import Dequantise

# Signed weights have 7 bits (reduce_range): on processors without VNNI, onnxruntime adds pairs of products of
# 8 by 8 bits with saturation to 16 bits, as its documentation of quantisation says.
ROWS, WIDTH, OUT = 5, 24, 70
MODELS = Path(__file__).parents[2] / "models" / "quantised"


def on_the_grid(seed: int = 0) -> np.ndarray:
    """Activations that 8 bits hold exactly: whole numbers from 0 to 255, both among them."""
    x = np.random.default_rng(seed).integers(0, 256, (ROWS, WIDTH)).astype(np.float32)
    x[:, :2] = 0, 255
    return x


class Windows(CalibrationDataReader):
    """A few inputs on the grid."""

    def __init__(self) -> None:
        self.feeds = iter([{"x": on_the_grid(seed)} for seed in range(3)])

    def get_next(self):
        return next(self.feeds, None)


def float_product(folder: Path, bias: bool) -> Path:
    """y = x W (+ b), as MatMul or as Gemm."""
    rng = np.random.default_rng(3)
    stored = [("w", rng.normal(size=(WIDTH, OUT))), ("b", rng.normal(size=OUT))][: 1 + bias]
    weights = [onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in stored]
    node = helper.make_node(
        "Gemm" if bias else "MatMul", ["x", *(n for n, _ in stored)], ["y"], name="product"
    )
    shapes = (("x", WIDTH), ("y", OUT))
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", k]) for n, k in shapes)
    graph = helper.make_graph([node], "g", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "float.onnx")
    return folder / "float.onnx"


def by_onnxruntime(path: Path, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
def test_dynamic(tmp_path, bias, per_channel, kind) -> None:
    path = tmp_path / "m.onnx"
    options = {"per_channel": per_channel, "reduce_range": kind == QuantType.QInt8}
    quantize_dynamic(float_product(tmp_path, bias), path, weight_type=kind, **options)
    assert "MatMulInteger" in {n.op_type for n in onnx.load(path).graph.node}
    (y,) = Evaluator(load(path)).run("main", on_the_grid())
    np.testing.assert_allclose(y, by_onnxruntime(path, on_the_grid()), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
@pytest.mark.parametrize("per_channel", [False, True])
def test_static(tmp_path, form, per_channel) -> None:
    """The output is quantised too, so it may be half a step of its scale away."""
    path = tmp_path / "m.onnx"
    options = {"quant_format": form, "per_channel": per_channel, "weight_type": QuantType.QInt8}
    options["reduce_range"] = True
    quantize_static(float_product(tmp_path, False), path, Windows(), **options)
    (y,) = Evaluator(load(path)).run("main", on_the_grid())
    want = by_onnxruntime(path, on_the_grid())
    step = np.diff(np.unique(want)).min()
    assert np.abs(y - want).max() < 0.51 * step


def test_weights_stay_the_integers_of_the_file() -> None:
    model = load(MODELS / "llama_dynamic_int8.onnx", max_seq=16)
    kept = [p for p in model.params.values() if any(isinstance(t, Dequantise) for t in p.transforms)]
    assert len(kept) >= 15
    assert {p.source.load().dtype.itemsize for p in kept} == {1}


def test_it_is_said_that_activations_are_not_quantised() -> None:
    path = MODELS / "llama_qdq_int8.onnx"
    assert describe(path, max_seq=16).matched["quantised activations"] > 10
    notes = load(path, max_seq=16).notes
    assert any("quantised activations" in note for note in notes)


def test_an_integer_product_of_two_activations_is_refused(tmp_path) -> None:
    x, z = (helper.make_tensor_value_info(n, TensorProto.UINT8, ["n", 4]) for n in "xz")
    y = helper.make_tensor_value_info("y", TensorProto.INT32, ["n", "n"])
    nodes = [
        helper.make_node("Transpose", ["z"], ["t"], name="turn"),
        helper.make_node("MatMulInteger", ["x", "t"], ["y"], name="product"),
    ]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x, z], [y])), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedOpError, match='node "product" \\(op MatMulInteger'):
        load(tmp_path / "m.onnx")
