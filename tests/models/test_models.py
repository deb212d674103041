"""The models that tests read are small, whole, valid, and described."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

HERE = Path(__file__).parent
MODELS = sorted(p.relative_to(HERE).as_posix() for p in HERE.rglob("*.onnx"))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_small_whole_and_valid(name) -> None:
    path = HERE / name
    assert path.stat().st_size < 200_000
    proto = onnx.load(path, load_external_data=False)
    assert not [t.name for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    onnx.checker.check_model(proto)


def test_there_are_models() -> None:
    assert len(MODELS) > 40
