"""Writes a Llama-architecture GGUF file as ONNX: opset 24 standard operations, external data."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from sdc.frontends.gguf.layout import LlamaFacts
from sdc.frontends.gguf.reader import GgufModel, open_gguf
from sdc.frontends.gguf.tokenizer import save_tokenizer
from sdc.ir.params import row_major

__all__ = ["to_onnx"]

OPSET = 24
IR_VERSION = 12  # the one that came with opset 24 (onnx.helper.VERSION_TABLE)
ALIGNMENT = 4096  # so that runtimes can map each tensor

Progress = Callable[[int, int], None]


def to_onnx(
    gguf: str | Path, out: str | Path, *, past: bool = False, progress: Progress | None = None
) -> Path:
    """Converts a GGUF file; weights are dequantised to float32, one tensor in memory at a time.

    The graph takes ``input_ids [batch, seq]`` int64 and gives ``logits [batch, seq, vocab]`` float32. Beside
    it stand ``<name>.data`` (the weights) and, where the file has one, the tokenizer's files.

    Args:
        gguf: The file to read; Llama architecture.
        out: The ``.onnx`` file to write. Nothing is left behind where the conversion fails.
        past: Also take ``past_key_values.N.key/value [batch, kv_heads, past, head_dim]`` and give
            ``present.N.key/value``.
        progress: Called with (tensors written, tensors in all).

    Raises:
        InvalidModelError: The file is damaged or incomplete.
        ModelError: Architecture, rotary scaling, a tensor or the tokenizer are not supported.
    """
    source, out = open_gguf(gguf), Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        save_tokenizer(source, scratch)  # first, as it fails early where the kind is not supported
        data = f"{out.stem}.data"
        with (scratch / data).open("wb") as file:
            writer = _Writer(source, file, data, progress)
            model = writer.model(past)
        onnx.save(model, scratch / out.name)
        out.unlink(missing_ok=True)  # from here on no older graph stands beside newer weights
        for path in sorted(scratch.iterdir(), key=lambda p: p.name == out.name):
            path.replace(out.parent / path.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return out


class _Writer:
    """Collects nodes and initializers while the values go to the data file."""

    def __init__(self, source: GgufModel, file: BinaryIO, location: str, progress: Progress | None) -> None:
        self.source = source
        self.facts: LlamaFacts = source.facts
        self.file, self.location = file, location
        self.progress, self.written = progress, 0
        self.total = len(source) - source.has("rope_freqs.weight") + 2  # and the rotary tables
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []

    def model(self, past: bool) -> onnx.ModelProto:
        f = self.facts
        self.store("model.embed_tokens.weight", self.source.tensor("token_embd.weight"))
        self.tables()
        self.positions(past)
        x = self.node("Gather", ["model.embed_tokens.weight", "input_ids"], "model.embed_tokens")
        inputs, outputs = [_info("input_ids", TensorProto.INT64, ["batch", "seq"])], []
        for layer in range(f.layers):
            x, extra_in, extra_out = self.layer(layer, x, past)
            inputs += extra_in
            outputs += extra_out
        x = self.norm(x, "model.norm", "output_norm.weight")
        logits = self.head(x)
        outputs.insert(0, _info(logits, TensorProto.FLOAT, ["batch", "seq", f.vocab]))
        graph = helper.make_graph(self.nodes, f.name, inputs, outputs, self.initializers)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name="sdc.frontends.gguf",
            ir_version=IR_VERSION,
        )
        facts = {key: str(value) for key, value in asdict(f).items()}
        helper.set_model_props(model, {"architecture": "llama", **facts})
        return model

    def layer(
        self, i: int, x: str, past: bool
    ) -> tuple[str, list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
        f, to, blk = self.facts, f"model.layers.{i}", f"blk.{i}"
        h = self.norm(x, f"{to}.input_layernorm", f"{blk}.attn_norm.weight")
        q = self.linear(h, f"{to}.self_attn.q_proj", f"{blk}.attn_q", rotary_heads=f.heads)
        k = self.linear(h, f"{to}.self_attn.k_proj", f"{blk}.attn_k", rotary_heads=f.kv_heads)
        v = self.linear(h, f"{to}.self_attn.v_proj", f"{blk}.attn_v")
        q = self.rotary(q, f"{to}.self_attn.q_rotary", f.heads)
        k = self.rotary(k, f"{to}.self_attn.k_rotary", f.kv_heads)
        a, extra_in, extra_out = self.attention(i, q, k, v, past)
        o = self.linear(a, f"{to}.self_attn.o_proj", f"{blk}.attn_output")
        x = self.node("Add", [x, o], f"{to}.attention_residual")
        h = self.norm(x, f"{to}.post_attention_layernorm", f"{blk}.ffn_norm.weight")
        gate = self.linear(h, f"{to}.mlp.gate_proj", f"{blk}.ffn_gate")
        up = self.linear(h, f"{to}.mlp.up_proj", f"{blk}.ffn_up")
        sigmoid = self.node("Sigmoid", [gate], f"{to}.mlp.sigmoid")
        silu = self.node("Mul", [gate, sigmoid], f"{to}.mlp.silu")
        product = self.node("Mul", [silu, up], f"{to}.mlp.product")
        down = self.linear(product, f"{to}.mlp.down_proj", f"{blk}.ffn_down")
        return self.node("Add", [x, down], f"{to}.mlp_residual"), extra_in, extra_out

    def attention(
        self, i: int, q: str, k: str, v: str, past: bool
    ) -> tuple[str, list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
        f, name = self.facts, f"model.layers.{i}.self_attn"
        attrs: dict[str, Any] = {"is_causal": 1, "q_num_heads": f.heads, "kv_num_heads": f.kv_heads}
        if not past:
            return self.node("Attention", [q, k, v], name, **attrs), [], []
        old = [f"past_key_values.{i}.{kind}" for kind in ("key", "value")]
        new = [f"present.{i}.{kind}" for kind in ("key", "value")]
        self.nodes.append(
            helper.make_node("Attention", [q, k, v, "", *old], [f"{name}.out", *new], name=name, **attrs)
        )
        shape = ["batch", f.kv_heads, "past", f.head_dim]
        grown = ["batch", f.kv_heads, "past + seq", f.head_dim]
        return (
            f"{name}.out",
            [_info(n, TensorProto.FLOAT, shape) for n in old],
            [_info(n, TensorProto.FLOAT, grown) for n in new],
        )

    def positions(self, past: bool) -> None:
        """``position_ids [batch, seq]``: how many tokens stand before each token."""
        self.constant("one", np.array(1, np.int64))
        self.constant("first_axis", np.array([0], np.int64))
        self.node("Shape", ["input_ids"], "ids_shape")
        self.node("Shape", ["input_ids"], "seq_shape", start=1, end=2)
        self.node("Squeeze", ["seq_shape"], "seq_length")
        if past:
            self.node("Shape", ["past_key_values.0.key"], "past_shape", start=2, end=3)
            start = self.node("Squeeze", ["past_shape"], "past_length")
        else:
            start = "zero"
            self.constant(start, np.array(0, np.int64))
        self.node("Add", [start, "seq_length"], "total_length")
        self.node("Range", [start, "total_length", "one"], "position_row")
        self.node("Unsqueeze", ["position_row", "first_axis"], "position_rows")
        self.node("Expand", ["position_rows", "ids_shape"], "position_ids")

    def tables(self) -> None:
        """cos, sin [context, rope_dim / 2] of p / base^(2 i / dim) (arXiv 2104.09864, section 3.2.2).

        The file's own divisors of the frequencies come with them, as in ``ggml_rope_ext`` of ggml.
        """
        f = self.facts
        inverse = 1.0 / f.rope_base ** (np.arange(0, f.rope_dim, 2, dtype=np.float64) / f.rope_dim)
        inverse /= f.rope_factor
        if self.source.has("rope_freqs.weight"):
            inverse /= self.source.tensor("rope_freqs.weight")
        angles = np.arange(f.context, dtype=np.float64)[:, None] * inverse
        self.store("rotary.cos", np.cos(angles).astype(np.float32))
        self.store("rotary.sin", np.sin(angles).astype(np.float32))

    def norm(self, x: str, name: str, tensor: str) -> str:
        self.store(f"{name}.weight", self.source.tensor(tensor))
        epsilon = self.facts.rms_epsilon
        return self.node("RMSNormalization", [x, f"{name}.weight"], name, axis=-1, epsilon=epsilon)

    def linear(self, x: str, name: str, tensor: str, rotary_heads: int = 0) -> str:
        """x @ W^T (+ bias); the rows of a weight whose output is rotated are put into ONNX's order."""
        weight = self.source.tensor(f"{tensor}.weight")
        if rotary_heads:
            weight = _half_split(weight, rotary_heads, self.facts.rope_dim)
        self.store(f"{name}.weight", row_major(weight.T))
        if not self.source.has(f"{tensor}.bias"):
            return self.node("MatMul", [x, f"{name}.weight"], name)
        bias = self.source.tensor(f"{tensor}.bias")
        if rotary_heads:
            bias = _half_split(bias, rotary_heads, self.facts.rope_dim)
        self.store(f"{name}.bias", bias)
        product = self.node("MatMul", [x, f"{name}.weight"], f"{name}.product")
        return self.node("Add", [product, f"{name}.bias"], name)

    def rotary(self, x: str, name: str, heads: int) -> str:
        f = self.facts
        attrs: dict[str, Any] = {"num_heads": heads, "interleaved": 0}
        if f.rope_dim != f.head_dim:
            attrs["rotary_embedding_dim"] = f.rope_dim
        return self.node("RotaryEmbedding", [x, "rotary.cos", "rotary.sin", "position_ids"], name, **attrs)

    def head(self, x: str) -> str:
        if self.source.has("output.weight"):
            self.store("lm_head.weight", row_major(self.source.tensor("output.weight").T))
            return self.node("MatMul", [x, "lm_head.weight"], "lm_head", output="logits")
        tied = self.node("Transpose", ["model.embed_tokens.weight"], "lm_head.tied", perm=[1, 0])
        return self.node("MatMul", [x, tied], "lm_head", output="logits")

    def node(self, op: str, inputs: list[str], name: str, output: str | None = None, **attrs: Any) -> str:
        out = output or name
        self.nodes.append(helper.make_node(op, inputs, [out], name=name, **attrs))
        return out

    def constant(self, name: str, value: NDArray) -> None:
        self.initializers.append(onnx.numpy_helper.from_array(value, name))

    def store(self, name: str, values: NDArray[np.float32]) -> None:
        """Appends a tensor to the data file."""
        self.file.write(b"\0" * (-self.file.tell() % ALIGNMENT))
        proto = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=values.shape)
        proto.data_location = TensorProto.EXTERNAL
        entries = {
            "location": self.location,
            "offset": self.file.tell(),
            "length": values.nbytes,
        }
        for key, value in entries.items():
            proto.external_data.add(key=key, value=str(value))
        self.file.write(np.ascontiguousarray(values, "<f4").data)
        self.initializers.append(proto)
        self.written += 1
        if self.progress is not None:
            self.progress(self.written, self.total)


def _info(name: str, kind: int, shape: list[object]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _half_split(weight: NDArray, heads: int, rotary: int) -> NDArray:
    """Undoes llama.cpp's order of rotary channels: pairs (2i, 2i + 1) become (i, i + rotary / 2).

    Only the first ``rotary`` channels of a head turn. Source: ``permute`` in llama.cpp's
    convert_hf_to_gguf.py, of which this is the inverse.
    """
    by_head = weight.reshape(heads, weight.shape[0] // heads, -1)
    turned = [by_head[:, 0:rotary:2], by_head[:, 1:rotary:2], by_head[:, rotary:]]
    return np.concatenate(turned, axis=1).reshape(weight.shape)
