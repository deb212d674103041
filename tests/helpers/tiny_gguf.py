"""Writes tiny random GGUF files of the Llama architecture."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

HIDDEN, HEADS, KV, DIM, FFN, VOCAB, LAYERS = 64, 4, 2, 16, 96, 40, 2
ADD = {str: "add_string", bool: "add_bool", int: "add_uint32", float: "add_float32", list: "add_array"}
TOKENS = [
    "<|end|>",
    "<|user|>",
    *(chr(c) for c in range(ord("a"), ord("z") + 1)),
    "Ġ",
    "Ċ",
    "th",
    "the",
    "Ġt",
]


def write_tiny_gguf(
    path: Path,
    *,
    tied: bool = True,
    quantised: bool = False,
    tokens: bool = True,
    biases: bool = False,
    rope_dim: int = DIM,
    rope_freqs: bool = False,
    architecture: str = "llama",
    extra: Mapping[str, tuple[int, ...]] | None = None,
    without: Collection[str] = (),
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """Writes the file and returns its tensors as a reader should see them, by GGUF name.

    Args:
        path: The file.
        tied: Leave the head out.
        quantised: Store matrices as Q8_0 and Q4_1.
        tokens: Add a tokenizer.
        biases: Give every linear layer one.
        rope_dim: How many channels of a head turn.
        rope_freqs: Add divisors of the rotary frequencies.
        architecture: What the file calls itself.
        extra: More tensors, or other shapes for those there are.
        without: Tensors to leave out.
        metadata: More values, or others for those there are.
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(rope_dim)
    if tokens:
        _add_tokenizer(writer)
    for key, value in (metadata or {}).items():
        writer.kv_data[0].pop(key, None)
        getattr(writer, ADD[type(value)])(key, value)
    stored = {}
    shapes = _shapes(tied, biases)
    if rope_freqs:
        shapes["rope_freqs.weight"] = (rope_dim // 2,)
    shapes |= extra or {}
    for name, shape in shapes.items():
        if name in without:
            continue
        stored[name] = _add_tensor(writer, name, shape, quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def _shapes(tied: bool, biases: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCAB, HIDDEN),
        "output_norm.weight": (HIDDEN,),
    }
    if not tied:
        shapes["output.weight"] = (VOCAB, HIDDEN)
    for i in range(LAYERS):
        block = {
            "attn_norm": (HIDDEN,),
            "ffn_norm": (HIDDEN,),
            "attn_q": (HEADS * DIM, HIDDEN),
            "attn_k": (KV * DIM, HIDDEN),
            "attn_v": (KV * DIM, HIDDEN),
            "attn_output": (HIDDEN, HEADS * DIM),
            "ffn_gate": (FFN, HIDDEN),
            "ffn_up": (FFN, HIDDEN),
            "ffn_down": (HIDDEN, FFN),
        }
        shapes |= {f"blk.{i}.{k}.weight": s for k, s in block.items()}
        if biases:
            shapes |= {f"blk.{i}.{k}.bias": s[:1] for k, s in block.items() if len(s) > 1}
    return shapes


def _add_tensor(writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], quantised: bool) -> np.ndarray:
    rng = np.random.default_rng(sum(map(ord, name)))
    values = rng.normal(size=shape).astype(np.float32) * (0.3 if len(shape) > 1 else 0.2)
    if len(shape) == 1:
        values = values + 1
    if not quantised or len(shape) == 1:
        writer.add_tensor(name, values)
        return values
    kind = gguf.GGMLQuantizationType.Q8_0 if "ffn" in name else gguf.GGMLQuantizationType.Q4_1
    packed = gguf.quantize(values, kind)
    writer.add_tensor(name, packed, raw_dtype=kind)
    return gguf.dequantize(packed, kind)


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    tokens = TOKENS + [f"<extra{i}>" for i in range(VOCAB - len(TOKENS))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (VOCAB - 2))
    writer.add_token_merges(["t h", "th e", "Ġ t"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
