"""The ONNX project's own node tests, for every operation that the lifting knows."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from helpers.backend_exclusions import EXCLUDED, cases, reason

from sdc.errors import SdcError
from sdc.frontends.onnx import load
from sdc.frontends.onnx.lift import CONVERTERS
from sdc.ir.evaluate import Evaluator

# What a model stores and a node test passes in: weights, axes, shapes. They become initializers.
# The number is that of the first such input.
STORED = {
    **dict.fromkeys(["Reshape", "Expand", "Squeeze", "Unsqueeze", "Slice", "Split", "Tile", "Gemm"], 1),
    **dict.fromkeys(["LayerNormalization", "RMSNormalization", "RotaryEmbedding"], 1),
    **dict.fromkeys(["CumSum", "Trilu", "TopK"], 1),
    **dict.fromkeys(["ConstantOfShape", "Range"], 0),
    **dict.fromkeys((op for op in CONVERTERS if op.startswith("Reduce")), 1),
}
FLOATS = ("float16", "bfloat16", "float64")
HALF = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def single(value) -> np.ndarray:
    array = onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
    return array.astype(np.float32) if array.dtype.name in FLOATS else array


def prepared(case):
    """The model with stored inputs as initializers, and the arrays of the others."""
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    given, _ = case.data_sets[0]
    names = [i.name for i in model.graph.input]
    stored = [(n, STORED[n.op_type]) for n in model.graph.node if n.op_type in STORED]
    first = {i for n, index in stored for i in n.input[:index]}
    later = {i for n, index in stored for i in n.input[index:]} - first
    feeds = []
    for name, array in zip(names, given, strict=True):
        if name in later and isinstance(array, np.ndarray | np.generic):
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
            index = next(i for i, value in enumerate(model.graph.input) if value.name == name)
            del model.graph.input[index]
        else:
            feeds.append(single(array))
    return model, feeds


def outcome(case, folder) -> str:
    """What went wrong, or nothing."""
    model, feeds = prepared(case)
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    try:
        got = Evaluator(load(path)).run("main", *feeds)
    except SdcError as error:
        return f"{type(error).__name__}: {error}"
    half = any(o.type.tensor_type.elem_type in HALF for o in model.graph.output)
    tolerance = {"rtol": 2e-2, "atol": 1e-2} if half else {"rtol": max(case.rtol, 1e-5), "atol": 1e-5}
    for mine, theirs in zip(got, map(single, case.data_sets[0][1]), strict=True):
        if mine.shape != theirs.shape or not np.allclose(mine, theirs, **tolerance, equal_nan=True):
            return f"differs: {mine.shape} {theirs.shape}"
    return ""


@pytest.mark.parametrize("name", [n for n in cases() if not reason(n)])
def test_the_node_test_of_the_onnx_project(name, tmp_path) -> None:
    assert outcome(cases()[name], tmp_path) == ""


@pytest.mark.parametrize("pattern", EXCLUDED)
def test_exclusions_are_still_needed(pattern, tmp_path) -> None:
    """An entry without a test must go, and so must one that hides a test which passes."""
    names = [n for n in cases() if re.fullmatch(pattern, n)]
    assert names
    assert [n for n in names if not outcome(cases()[n], tmp_path)] == []


def test_most_node_tests_run() -> None:
    run = [n for n in cases() if not reason(n)]
    assert len(run) >= 300
