"""GGUF to ONNX: against an independent NumPy Llama, under the checker and onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers.tiny_gguf import DIM, HEADS, KV, LAYERS, write_tiny_gguf

from sdc.errors import InvalidModelError, ModelError
from sdc.frontends.gguf import open_gguf, to_onnx, tokenizer

IDS = np.array([[3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3]], np.int64)


def llama(tensors: dict[str, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """Llama's forward pass as llama.cpp defines it for GGUF: rotary turns neighbouring channels."""
    batch, n = ids.shape

    def norm(x, name):
        return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-5) * tensors[name]

    def rotate(x):
        angle = np.arange(n)[:, None] / 10000 ** (np.arange(0, DIM, 2) / DIM)
        turn = np.exp(1j * angle)[None, :, None]
        z = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack([z.real, z.imag], -1).reshape(x.shape)

    x = tensors["token_embd.weight"][ids].astype(np.float64)
    for i in range(LAYERS):
        w = {k.split(".")[2]: v for k, v in tensors.items() if k.startswith(f"blk.{i}.")}
        h = norm(x, f"blk.{i}.attn_norm.weight")
        q = rotate((h @ w["attn_q"].T).reshape(batch, n, HEADS, DIM))
        k = rotate((h @ w["attn_k"].T).reshape(batch, n, KV, DIM)).repeat(HEADS // KV, 2)
        v = (h @ w["attn_v"].T).reshape(batch, n, KV, DIM).repeat(HEADS // KV, 2)
        scores = np.einsum("bihd,bjhd->bhij", q, k) / np.sqrt(DIM) + np.where(np.tri(n), 0, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("bhij,bjhd->bihd", p / p.sum(-1, keepdims=True), v).reshape(batch, n, -1)
        x = x + mixed @ w["attn_output"].T
        h = norm(x, f"blk.{i}.ffn_norm.weight")
        gate = h @ w["ffn_gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["ffn_up"].T)) @ w["ffn_down"].T
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


@pytest.mark.parametrize("tied", [True, False])
def test_progress_counts_every_tensor(tmp_path, tied) -> None:
    write_tiny_gguf(tmp_path / "m.gguf", tied=tied)
    seen: list[tuple[int, int]] = []
    to_onnx(tmp_path / "m.gguf", tmp_path / "m.onnx", progress=lambda *p: seen.append(p))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert {total for _, total in seen} == {len(seen)}


@pytest.mark.parametrize("keep", [0, 3, 100, 2000, -40])
def test_a_truncated_file_is_refused_and_leaves_nothing(tmp_path, keep) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    whole = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "m.gguf").write_bytes(whole[:keep])
    with pytest.raises(InvalidModelError, match=r"m\.gguf"):
        to_onnx(tmp_path / "m.gguf", tmp_path / "m.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_what_is_not_supported_is_named(tmp_path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf", architecture="mamba")
    with pytest.raises(ModelError, match='architecture "mamba" is not supported'):
        to_onnx(tmp_path / "m.gguf", tmp_path / "m.onnx")
    with pytest.raises(InvalidModelError, match="there is no such file"):
        open_gguf(tmp_path / "none.gguf")


def test_the_tokenizer_merges_splits_and_decodes(tmp_path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf")
    built = tokenizer(open_gguf(tmp_path / "m.gguf"))
    assert built is not None
    encoded = built.encode("the then\n<|user|>", add_special_tokens=False)
    assert encoded.tokens == ["the", "Ġ", "the", "n", "Ċ", "<|user|>"]
    assert built.decode(encoded.ids, skip_special_tokens=False) == "the then\n<|user|>"


def test_a_file_without_a_tokenizer_has_none(tmp_path) -> None:
    write_tiny_gguf(tmp_path / "m.gguf", tokens=False)
    assert tokenizer(open_gguf(tmp_path / "m.gguf")) is None
    path = to_onnx(tmp_path / "m.gguf", tmp_path / "out" / "m.onnx")
    assert not (path.parent / "tokenizer.json").exists()
