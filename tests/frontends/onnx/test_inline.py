"""Weights inside an ONNX file: the same values, but the file is not held in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from sdc.errors import InvalidModelError
from sdc.frontends.onnx import load
from sdc.frontends.onnx.inline import LARGE, InlineTensor, load_mapped

MODELS = Path(__file__).parents[2] / "models"


@pytest.mark.parametrize(
    "name", ["llama_dynamo_op18_fp16", "optimum/gpt2_merged", "genai/phi3_int4", "mlp_dynamo_op20"]
)
def test_a_mapped_model_is_the_model(name) -> None:
    path = MODELS / f"{name}.onnx"
    got, want = load_mapped(path), ir.load(path)
    assert [n.op_type for n in got.graph] == [n.op_type for n in want.graph]
    assert list(got.graph.initializers) == list(want.graph.initializers)
    for key, value in want.graph.initializers.items():
        tensor, stored = got.graph.initializers[key].const_value, value.const_value
        assert isinstance(tensor, InlineTensor) == (stored.nbytes >= LARGE)
        assert (tensor.dtype, tensor.shape) == (stored.dtype, stored.shape)
        np.testing.assert_array_equal(tensor.numpy(), stored.numpy())


def linear(weight: TensorProto) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 64]) for n in "xy")
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    graph = helper.make_graph([node], "g", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_a_link_to_a_model_elsewhere(tmp_path) -> None:
    """Its own file is no external data, wherever it lies."""
    values = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    onnx.save(linear(numpy_helper.from_array(values, "w")), tmp_path / "a" / "m.onnx")
    (tmp_path / "b" / "m.onnx").symlink_to(tmp_path / "a" / "m.onnx")
    (param,) = load(tmp_path / "b" / "m.onnx").params.values()
    np.testing.assert_array_equal(param.value(), values.T)


def test_data_of_another_length_than_the_shape(tmp_path) -> None:
    weight = numpy_helper.from_array(np.zeros((64, 64), np.float32), "w")
    weight.raw_data = weight.raw_data[:-4]
    onnx.save(linear(weight), tmp_path / "m.onnx")
    with pytest.raises(InvalidModelError, match='weight "w" has 16380 bytes of data, but its shape'):
        load(tmp_path / "m.onnx")


@pytest.mark.parametrize("keep", [0, 1, 100, 8000, -1])
def test_a_file_cut_off(tmp_path, keep) -> None:
    onnx.save(linear(numpy_helper.from_array(np.ones((64, 64), np.float32), "w")), tmp_path / "m.onnx")
    content = (tmp_path / "m.onnx").read_bytes()
    (tmp_path / "m.onnx").write_bytes(content[:keep])
    with pytest.raises(InvalidModelError, match=r"m\.onnx"):
        load(tmp_path / "m.onnx")
