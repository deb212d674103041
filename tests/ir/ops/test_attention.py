"""sdc.attention and sdc.spike_attention against plain formulas and the ONNX reference evaluator."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper
import pytest
from helpers.run_op import inferred, lowered
from onnx.reference import ReferenceEvaluator
from tvm import relax

from sdc.ir.ops import OPS, attention, spike_attention

float_reference = OPS["attention"].reference
spike_reference = OPS["spike_attention"].reference
encode = OPS["spike_encode"].reference


def qkv(n: int, keys: int, heads: int = 4, kv: int = 2, d: int = 8, batch: int = 2):
    rng = np.random.default_rng(n * 100 + keys)
    q = rng.normal(size=(batch, n, heads, d)).astype(np.float32)
    k = rng.normal(size=(batch, kv, keys, d)).astype(np.float32)
    return q, k, rng.normal(size=(batch, kv, keys, d)).astype(np.float32)


def by_onnx(q, k, v, causal: bool, scale: float, softcap: float) -> np.ndarray:
    node = onnx.helper.make_node(
        "Attention", ["q", "k", "v"], ["y"], is_causal=int(causal), scale=scale, softcap=softcap
    )
    info = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None] * 4) for n in "qkvy"]
    graph = onnx.helper.make_graph([node], "g", info[:3], info[3:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 24)])
    (y,) = ReferenceEvaluator(model).run(None, {"q": q.transpose(0, 2, 1, 3), "k": k, "v": v})
    return y.transpose(0, 2, 1, 3)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("softcap", [0.0, 5.0])
def test_float_attention_is_what_onnx_says(causal, softcap) -> None:
    q, k, v = qkv(5, 5)
    want = by_onnx(q, k, v, causal, 0.3, softcap)
    attrs = {"scale": 0.3, "causal": causal, "softcap": softcap, "name": "a"}
    position = np.array(0, np.int64)
    np.testing.assert_allclose(float_reference(q, k, v, position, **attrs), want, atol=1e-5)
    got = lowered(lambda *a: attention(*a, **attrs), q, k, v, position)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_rows_of_the_cache_past_the_last_query_are_never_read() -> None:
    q, k, v = qkv(2, 9)
    attrs = {"scale": 0.3, "causal": True, "name": "a"}
    want = float_reference(q, k, v, np.array(3), **attrs)
    k[:, :, 5:], v[:, :, 5:] = np.nan, np.nan
    np.testing.assert_array_equal(float_reference(q, k, v, np.array(3), **attrs), want)


def test_a_window_hides_distant_keys_and_a_mask_is_added() -> None:
    q, k, v = qkv(3, 6)
    mask = np.zeros((1, 1, 3, 6), np.float32)
    for i in range(3):
        mask[:, :, i, : 3 + i - 1] = -1e30
    attrs = {"scale": 0.3, "causal": True, "name": "a"}
    windowed = float_reference(q, k, v, np.array(3), window=2, **attrs)
    masked = float_reference(q, k, v, np.array(3), mask, **attrs)
    np.testing.assert_allclose(windowed, masked, atol=1e-6)
    position = np.array(3, np.int64)
    got = lowered(lambda *a: attention(*a, window=2, **attrs), q, k, v, position)
    np.testing.assert_allclose(got, windowed, atol=1e-5)
    got = lowered(lambda *a: attention(*a, **attrs), q, k, v, position, mask)
    np.testing.assert_allclose(got, windowed, atol=1e-5)


def encoded(levels: int, q, k, v):
    return [a for x, d in ((q, levels), (k, 127), (v, 127)) for a in encode(x, levels=d, group=x.shape[-1])]


@pytest.mark.parametrize(("q_levels", "levels", "cosine"), [(127, 32767, 0.9999), (15, 255, 0.99)])
def test_spike_attention_approaches_the_float_product(q_levels, levels, cosine) -> None:
    q, k, v = qkv(4, 16)
    attrs = {"scale": 0.35, "causal": True, "name": "a"}
    want = float_reference(q, k, v, np.array(12), **attrs).ravel()
    got = spike_reference(*encoded(q_levels, q, k, v), np.array(12), levels=levels, **attrs).ravel()
    assert got @ want / np.linalg.norm(got) / np.linalg.norm(want) > cosine


@pytest.mark.parametrize("window", [0, 3])
def test_spike_attention_lowers_to_its_reference(window) -> None:
    q, k, v = qkv(3, 10)
    args = [*encoded(15, q, k, v), np.array(6, np.int64)]
    attrs = {"scale": 0.35, "causal": True, "levels": 255, "window": window, "name": "a"}

    def build(qc, qt, kc, kt, vc, vt, position):
        return spike_attention((qc, qt), (kc, kt), (vc, vt), position, **attrs)

    want = spike_reference(*args, **attrs)
    np.testing.assert_allclose(lowered(build, *args), want, rtol=1e-4, atol=2e-3)


def test_silent_values_give_zero() -> None:
    q, k, v = qkv(1, 4)
    args = encoded(15, q, k, np.zeros_like(v))
    attrs = {"scale": 1.0, "causal": True, "levels": 15, "name": "a"}
    assert not spike_reference(*args, np.array(3), **attrs).any()


def test_head_counts_that_do_not_share_evenly_are_refused() -> None:
    types = [relax.TensorType(s, "float32") for s in ([1, 2, 4, 8], [1, 3, 5, 8], [1, 3, 5, 8])]
    with pytest.raises(Exception, match="4 query heads cannot share 3 key heads"):
        inferred(
            lambda q, k, v, p: attention(q, k, v, p, scale=1.0, causal=True, name="a"),
            *types,
            relax.TensorType([], "int64"),
        )
