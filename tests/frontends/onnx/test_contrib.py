"""onnxruntime's own operations, one node a model, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from sdc.errors import UnsupportedOpError
from sdc.frontends.onnx import load
from sdc.ir.evaluate import Evaluator

WIDTH = 32
RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def packed(rows: int, columns: int, bits: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    blocks = -(-columns // block)
    data = RNG.integers(0, 256, (rows, blocks, block * bits // 8)).astype(np.uint8)
    return data, np.abs(noise(rows, blocks)) / 2**bits


# operation -> (stored inputs by position, attributes)
CASES: dict[str, tuple[str, dict[int, np.ndarray], dict[str, Any]]] = {
    "rms": ("SkipSimplifiedLayerNormalization", {2: noise(WIDTH), 3: noise(WIDTH)}, {"epsilon": 1e-6}),
    "layer": (
        "SkipLayerNormalization",
        {2: noise(WIDTH), 3: noise(WIDTH), 4: noise(WIDTH)},
        {"epsilon": 1e-5},
    ),
    "heads": ("MultiHeadAttention", {3: noise(3 * WIDTH)}, {"num_heads": 4, "unidirectional": 1}),
    "encoder": ("Attention", {1: noise(WIDTH, 3 * WIDTH), 2: noise(3 * WIDTH)}, {"num_heads": 4}),
    **{
        f"bits{bits}_block{block}": (
            "MatMulNBits",
            dict(enumerate(packed(24, WIDTH, bits, block), 1)),
            {"K": WIDTH, "N": 24, "bits": bits, "block_size": block, "accuracy_level": 1},
        )
        for bits, block in ((4, 16), (4, 32), (4, 64), (4, 128), (8, 16), (8, 32))
    },
}
FED = {"SkipSimplifiedLayerNormalization": 2, "SkipLayerNormalization": 2, "MultiHeadAttention": 3}


def model(op: str, stored: dict[int, np.ndarray], attributes: dict[str, Any], path) -> list[np.ndarray]:
    fed = [f"x{i}" for i in range(FED.get(op, 1))]
    names = [*fed, *[""] * (max(stored) + 1 - len(fed))]
    for index in stored:
        names[index] = f"w{index}"
    node = helper.make_node(op, names, ["y"], name="node", domain="com.microsoft", **attributes)
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", "n", WIDTH]) for n in fed]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "n", "m"])
    weights = [numpy_helper.from_array(a, f"w{i}") for i, a in stored.items()]
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "g", inputs, [out], weights)
    save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return [noise(2, 5, WIDTH) for _ in fed]


@pytest.mark.parametrize("name", CASES)
def test_an_operation_gives_what_onnxruntime_gives(name, tmp_path) -> None:
    path = tmp_path / "m.onnx"
    arrays = model(*CASES[name], path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    want = session.run(None, {f"x{i}": a for i, a in enumerate(arrays)})[0]
    (got,) = Evaluator(load(path)).run("main", *arrays)
    np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-4)


def test_what_has_no_standard_form_is_refused_by_name(tmp_path) -> None:
    op, stored, attributes = CASES["bits4_block32"]
    model(op, stored, attributes | {"weight_prepacked": 1}, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedOpError, match=r'node "node".*weights packed for one kind of processor'):
        load(tmp_path / "m.onnx")
