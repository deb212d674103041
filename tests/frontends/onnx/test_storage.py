"""How weights are stored: bfloat16, several files, files over 2 GB; none of them is read while loading."""

from __future__ import annotations

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from helpers.tiny_llama import decoder_inputs
from onnx import TensorProto, helper, numpy_helper

from sdc.frontends.onnx import load
from sdc.ir.evaluate import Evaluator

MODELS = Path(__file__).parents[2] / "models"
IDS = np.random.default_rng(0).integers(0, 96, (2, 6))


def logits(path: Path) -> np.ndarray:
    model = load(path, max_seq=16)
    return Evaluator(model).run("forward", *decoder_inputs(model, IDS))[0]


def matrices(proto: onnx.ModelProto) -> list[TensorProto]:
    floats = [t for t in proto.graph.initializer if t.data_type == TensorProto.FLOAT]
    return [t for t in floats if len(t.dims) == 2]


def test_bfloat16_weights_are_those_of_float32_rounded(tmp_path) -> None:
    proto = onnx.load(MODELS / "llama_dynamo_masked_op18.onnx")
    rounded = onnx.ModelProto.FromString(proto.SerializeToString())
    for stored, exact in zip(matrices(proto), matrices(rounded), strict=True):
        half = numpy_helper.to_array(stored).astype(ml_dtypes.bfloat16)
        stored.CopyFrom(
            helper.make_tensor(stored.name, TensorProto.BFLOAT16, half.shape, half.tobytes(), True)
        )
        exact.CopyFrom(numpy_helper.from_array(half.astype(np.float32), exact.name))
    (tmp_path / "half.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "rounded.onnx").write_bytes(rounded.SerializeToString())
    np.testing.assert_array_equal(logits(tmp_path / "half.onnx"), logits(tmp_path / "rounded.onnx"))
    model = load(tmp_path / "half.onnx", max_seq=16)
    kinds = [
        p.source.load().dtype for n, p in model.params.items() if len(p.shape) == 2 and "rotary" not in n
    ]
    assert set(kinds) == {np.dtype(ml_dtypes.bfloat16)}


def test_external_data_in_a_file_for_each_weight(tmp_path) -> None:
    source = MODELS / "llama_dynamo_past_op18.onnx"
    onnx.save(
        onnx.load(source),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        all_tensors_to_one_file=False,
        size_threshold=1024,
    )
    assert len(list(tmp_path.iterdir())) > 10
    np.testing.assert_array_equal(logits(tmp_path / "m.onnx"), logits(source))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_a_file_over_two_gigabytes_is_mapped_not_read(tmp_path, kind) -> None:
    """Rows far behind 2^32 bytes; the file is sparse, so it takes a few pages of the disk."""
    rows, width, offset = 8, 4, 5 * 2**30
    dtype = np.float32 if kind == TensorProto.FLOAT else np.float16
    values = np.arange(rows * width, dtype=dtype).reshape(rows, width)
    with (tmp_path / "w.bin").open("wb") as file:
        file.seek(offset)
        file.write(values.tobytes())
    huge = external("huge", kind, [2**28, width], 0)
    near = external("near", kind, [width, rows], offset)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    out = helper.make_tensor_value_info("y", kind, ["n", rows])
    nodes = [
        helper.make_node("Gather", ["huge", "ids"], ["x"], name="table"),
        helper.make_node("MatMul", ["x", "near"], ["y"], name="head"),
    ]
    graph = helper.make_graph(nodes, "g", [ids], [out], [huge, near])
    path = tmp_path / "m.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()
    )
    before = resident()
    model = load(path)
    assert resident() - before < 500 * 2**20
    assert model.params["huge"].shape == (2**28, width)
    head = next(p for n, p in model.params.items() if n.startswith("near"))
    np.testing.assert_array_equal(head.value(), values.reshape(width, rows).T.astype(np.float32))


def external(name: str, kind: int, dims: list[int], offset: int) -> TensorProto:
    proto = TensorProto(name=name, data_type=kind, dims=dims)
    proto.data_location = TensorProto.EXTERNAL
    length = int(np.prod(dims)) * (4 if kind == TensorProto.FLOAT else 2)
    for key, value in (("location", "w.bin"), ("offset", offset), ("length", length)):
        proto.external_data.add(key=key, value=str(value))
    return proto


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("name", ["llama_int4", "llama_int4_zero_points", "llama_int8", "llama_int4_qdq"])
def test_packed_weights_stay_packed_and_are_remarked_on(name) -> None:
    model = load(MODELS / "genai" / f"{name}.onnx", max_seq=16)
    packed = [p for p in model.params.values() if "dequantise" in p.describe()]
    assert len(packed) == 11
    assert {p.source.load().dtype.itemsize for p in packed} == {1}
    assert model.notes == ("11 weights arrive as integers with scales",)
