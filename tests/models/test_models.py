"""The models that tests read are small, whole, valid, and described."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest

HERE = Path(__file__).parent
MODELS = sorted(p.relative_to(HERE).as_posix() for p in HERE.rglob("*.onnx"))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_small_whole_and_valid(name) -> None:
    path = HERE / name
    assert path.stat().st_size < 200_000
    proto = onnx.load(path, load_external_data=False)
    assert not [t.name for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if all(onnx.defs.has(n.op_type, n.domain) for n in proto.graph.node):
        onnx.checker.check_model(proto)
    else:  # onnxruntime's own operations: it checks their attributes, types and shapes when it opens the file
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def test_there_are_models() -> None:
    assert len(MODELS) > 40
