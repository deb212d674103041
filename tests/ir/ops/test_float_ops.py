"""sdc.linear, sdc.rotary, sdc.kv_append, sdc.spike_matmul: reference and lowering."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper
import pytest
from helpers.run_op import inferred, lowered
from onnx.reference import ReferenceEvaluator
from tvm import relax

from sdc.ir.ops import OPS, kv_append, linear, rotary, spike_matmul

rng = np.random.default_rng(0)


@pytest.mark.parametrize("biased", [False, True])
def test_linear(biased) -> None:
    x, w, b = (rng.normal(size=s).astype(np.float32) for s in ((2, 3, 8), (5, 8), (5,)))
    args = (x, w, b) if biased else (x, w)
    want = x @ w.T + (b if biased else 0)
    np.testing.assert_allclose(OPS["linear"].reference(*args, name="l"), want, atol=1e-5)
    got = lowered(lambda *a: linear(*a, name="l"), *args, symbolic=True)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_linear_refuses_another_width() -> None:
    types = [relax.TensorType([2, 8], "float32"), relax.TensorType([5, 9], "float32")]
    with pytest.raises(Exception, match="x has 8 channels, weight 9"):
        inferred(lambda x, w: linear(x, w, name="l"), *types)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("half", [4, 2])
def test_rotary_is_what_onnx_says(interleaved, half) -> None:
    x = rng.normal(size=(2, 3, 4, 8)).astype(np.float32)
    angles = rng.normal(size=(16, half))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    positions = np.array([[5, 6, 7], [1, 9, 0]], np.int64)
    node = onnx.helper.make_node(
        "RotaryEmbedding",
        ["x", "cos", "sin", "p"],
        ["y"],
        interleaved=int(interleaved),
        rotary_embedding_dim=2 * half,
    )
    kinds = {"x": 1, "cos": 1, "sin": 1, "p": 7, "y": 1}
    info = {n: onnx.helper.make_tensor_value_info(n, t, None) for n, t in kinds.items()}
    graph = onnx.helper.make_graph([node], "g", [info[n] for n in ("x", "cos", "sin", "p")], [info["y"]])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)])
    feeds = {"x": x.transpose(0, 2, 1, 3), "cos": cos, "sin": sin, "p": positions}
    want = ReferenceEvaluator(model).run(None, feeds)[0].transpose(0, 2, 1, 3)
    attrs = {"interleaved": interleaved}
    np.testing.assert_allclose(OPS["rotary"].reference(x, cos, sin, positions, **attrs), want, atol=1e-6)
    got = lowered(lambda *a: rotary(*a, **attrs), x, cos, sin, positions)
    np.testing.assert_allclose(got, want, atol=1e-6)
    start = np.array(5, np.int64)
    by_offset = OPS["rotary"].reference(x, cos, sin, start, **attrs)
    np.testing.assert_allclose(by_offset[0], want[0], atol=1e-6)
    np.testing.assert_allclose(
        lowered(lambda *a: rotary(*a, **attrs), x, cos, sin, start), by_offset, atol=1e-6
    )


def test_kv_append_writes_only_the_new_rows() -> None:
    cache = rng.integers(-9, 9, (2, 3, 8, 4)).astype(np.int8)
    x = rng.integers(-9, 9, (2, 2, 3, 4)).astype(np.int8)
    before, position = cache.copy(), np.array(5, np.int64)
    got = OPS["kv_append"].reference(cache, x, position)
    np.testing.assert_array_equal(cache, before)
    np.testing.assert_array_equal(got[:, :, 5:7], x.transpose(0, 2, 1, 3))
    np.testing.assert_array_equal(np.delete(got, [5, 6], 2), np.delete(before, [5, 6], 2))
    np.testing.assert_array_equal(lowered(kv_append, cache, x, position), got)


def test_kv_append_refuses_rows_that_do_not_fit_and_other_dtypes() -> None:
    cache, x = np.zeros((1, 1, 4, 2), np.float32), np.zeros((1, 2, 1, 2), np.float32)
    with pytest.raises(ValueError, match=r"rows 3\.\.5 do not fit into 4"):
        OPS["kv_append"].reference(cache, x, np.array(3))
    types = [relax.TensorType([1, 1, 4, 2], "int8"), relax.TensorType([1, 2, 1, 2], "float32")]
    with pytest.raises(Exception, match="cache holds int8, new rows are float32"):
        inferred(kv_append, *types, relax.TensorType([], "int64"))


def test_spike_matmul() -> None:
    a, b = (
        rng.integers(-7, 8, (2, 3, 4, 6)).astype(np.int8),
        rng.integers(-7, 8, (2, 3, 5, 6)).astype(np.int8),
    )
    at, bt = rng.random((2, 3, 4, 1), np.float32), rng.random((2, 3, 5, 1), np.float32)
    want = (a * at).astype(np.float64) @ np.swapaxes(b * bt, -1, -2)
    np.testing.assert_allclose(OPS["spike_matmul"].reference(a, at, b, bt), want, rtol=1e-5, atol=1e-5)
    got = lowered(lambda *t: spike_matmul(t[:2], t[2:], name="m"), a, at, b, bt)
    np.testing.assert_array_equal(got, OPS["spike_matmul"].reference(a, at, b, bt))
