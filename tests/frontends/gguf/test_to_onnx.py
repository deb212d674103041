"""GGUF to ONNX: against an independent NumPy Llama, under the checker and onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers.tiny_gguf import DIM, HEADS, KV, LAYERS, write_tiny_gguf

from sdc.frontends.gguf import to_onnx

IDS = np.array([[3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3]], np.int64)


def llama(
    tensors: dict[str, np.ndarray], ids: np.ndarray, rope_dim: int = DIM, slower: float = 1
) -> np.ndarray:
    """Llama's forward pass as llama.cpp defines it for GGUF: rotary turns neighbouring channels."""
    batch, n = ids.shape

    def norm(x, name):
        return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-5) * tensors[name]

    def linear(x, name):
        return x @ tensors[f"{name}.weight"].T + tensors.get(f"{name}.bias", 0)

    def rotate(x):
        frequency = 10000 ** -(np.arange(0, rope_dim, 2) / rope_dim) / slower
        angle = np.arange(n)[:, None] * frequency / tensors.get("rope_freqs.weight", 1)
        turn = np.exp(1j * angle)[None, :, None]
        z = (x[..., 0:rope_dim:2] + 1j * x[..., 1:rope_dim:2]) * turn
        turned = np.stack([z.real, z.imag], -1).reshape(*x.shape[:3], rope_dim)
        return np.concatenate([turned, x[..., rope_dim:]], -1)

    x = tensors["token_embd.weight"][ids].astype(np.float64)
    for i in range(LAYERS):
        blk = f"blk.{i}"
        h = norm(x, f"{blk}.attn_norm.weight")
        q = rotate(linear(h, f"{blk}.attn_q").reshape(batch, n, HEADS, DIM))
        k = rotate(linear(h, f"{blk}.attn_k").reshape(batch, n, KV, DIM)).repeat(HEADS // KV, 2)
        v = linear(h, f"{blk}.attn_v").reshape(batch, n, KV, DIM).repeat(HEADS // KV, 2)
        scores = np.einsum("bihd,bjhd->bhij", q, k) / np.sqrt(DIM) + np.where(np.tri(n), 0, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("bhij,bjhd->bihd", p / p.sum(-1, keepdims=True), v).reshape(batch, n, -1)
        x = x + linear(mixed, f"{blk}.attn_output")
        h = norm(x, f"{blk}.ffn_norm.weight")
        gate = linear(h, f"{blk}.ffn_gate")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, f"{blk}.ffn_up"), f"{blk}.ffn_down")
    head = tensors.get("output.weight", tensors["token_embd.weight"])
    return norm(x, "output_norm.weight") @ head.T


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("quantised", [True, False])
def test_logits_are_those_of_the_weights(tmp_path, tied, quantised) -> None:
    tensors = write_tiny_gguf(tmp_path / "m.gguf", tied=tied, quantised=quantised)
    path = to_onnx(tmp_path / "m.gguf", tmp_path / "out" / "m.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    (logits,) = session(path).run(None, {"input_ids": IDS})
    np.testing.assert_allclose(logits, llama(tensors, IDS), atol=1e-3)
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "m.data",
        "m.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


@pytest.mark.parametrize(
    "variant", [{"biases": True}, {"rope_dim": DIM // 2}, {"rope_freqs": True}], ids=lambda v: next(iter(v))
)
def test_logits_of_variants(tmp_path, variant) -> None:
    tensors = write_tiny_gguf(tmp_path / "m.gguf", **variant)
    path = to_onnx(tmp_path / "m.gguf", tmp_path / "out" / "m.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    (logits,) = session(path).run(None, {"input_ids": IDS})
    want = llama(tensors, IDS, variant.get("rope_dim", DIM))
    np.testing.assert_allclose(logits, want, atol=1e-3)
    plain = {n: t for n, t in tensors.items() if "bias" not in n and "rope" not in n}
    assert np.abs(want - llama(plain, IDS)).max() > 0.1, "the variant must make a difference"


def test_linear_rotary_scaling(tmp_path) -> None:
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    tensors = write_tiny_gguf(tmp_path / "m.gguf", metadata=scaling)
    (logits,) = session(to_onnx(tmp_path / "m.gguf", tmp_path / "m.onnx")).run(None, {"input_ids": IDS})
    np.testing.assert_allclose(logits, llama(tensors, IDS, slower=4), atol=1e-3)


def test_with_past_a_token_at_a_time_gives_the_same_logits(tmp_path) -> None:
    tensors = write_tiny_gguf(tmp_path / "m.gguf")
    run = session(to_onnx(tmp_path / "m.gguf", tmp_path / "m.onnx", past=True))
    names = [o.name for o in run.get_outputs()][1:]
    empty = np.zeros((2, KV, 0, DIM), np.float32)
    cache = {n.replace("present", "past_key_values"): empty for n in names}
    want = llama(tensors, IDS)
    for t in range(IDS.shape[1]):
        logits, *present = run.run(None, {"input_ids": IDS[:, t : t + 1], **cache})
        cache = {n.replace("present", "past_key_values"): p for n, p in zip(names, present, strict=True)}
        np.testing.assert_allclose(logits[:, 0], want[:, t], atol=1e-3)


def test_the_same_file_gives_the_same_bytes(tmp_path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    for folder in ("a", "b"):
        to_onnx(tmp_path / "m.gguf", tmp_path / folder / "m.onnx")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("variant", [{}, {"tied": False, "biases": True}, {"rope_freqs": True}])
def test_progress_counts_every_tensor(tmp_path, variant) -> None:
    write_tiny_gguf(tmp_path / "m.gguf", **variant)
    seen: list[tuple[int, int]] = []
    to_onnx(tmp_path / "m.gguf", tmp_path / "m.onnx", progress=lambda *p: seen.append(p))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert {total for _, total in seen} == {len(seen)}


def test_the_facts_stand_in_the_file(tmp_path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    proto = onnx.load(to_onnx(tmp_path / "m.gguf", tmp_path / "m.onnx"), load_external_data=False)
    props = {p.key: p.value for p in proto.metadata_props}
    assert props["architecture"] == "llama"
    assert (props["kv_heads"], props["head_dim"], props["rope_base"]) == (str(KV), str(DIM), "10000.0")
